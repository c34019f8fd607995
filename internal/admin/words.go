package admin

import (
	"fmt"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// advice says to somebody who has never seen the program how a connection is,
// and what to do next.
type advice struct {
	What string
	Next string
	Do   string // the name of the action that helps; empty when none does
}

// keyEndsSoon is how long before its end a key is spoken of.
const keyEndsSoon = 30 * 24 * time.Hour

// advise returns what to say about a connection, where links can be made or not.
func (a *Admin) advise(c credstore.Connection) advice {
	said := advise(c, a.now())
	if said.Do != actionLink || a.links {
		return said
	}
	said.Do = ""
	if c.Kind.IsKey() {
		said.Do = actionKey
	}
	said.Next = "Connect links need connect.public_url in the configuration, which is not set. Set it, then: " + lowerFirst(said.Next)
	return said
}

// advise returns what to say about a connection.
func advise(c credstore.Connection, now time.Time) advice {
	switch c.Status {
	case credstore.Pending:
		return advisePending(c)
	case credstore.ReauthorizationRequired:
		return adviseReauthorization(c)
	case credstore.Degraded:
		return adviseDegraded(c)
	case credstore.Disabled:
		return adviseDisabled(c)
	}
	if c.Kind.IsKey() && !c.ExpiresAt.IsZero() && c.ExpiresAt.Sub(now) < keyEndsSoon {
		ends := "ends " + ahead(c.ExpiresAt, now)
		if !c.ExpiresAt.After(now) {
			ends = "was to end " + ago(c.ExpiresAt, now)
		}
		return advice{
			What: "It works, and its API key " + ends + ".",
			Next: "Make a new key in Pleo and enter it here as the next key, which takes over without a gap; if its history says that there is one already, all is well.",
			Do:   actionKey,
		}
	}
	return advice{What: "It works.", Next: "There is nothing to do."}
}

func advisePending(c credstore.Connection) advice {
	if c.Kind.IsKey() {
		return advice{
			What: "Nobody has entered an API key yet.",
			Next: "Send the customer a connect link with which they enter it, or enter it here.",
			Do:   actionLink,
		}
	}
	return advice{
		What: "The customer has not given consent yet.",
		Next: "Make a connect link and send it to an admin of the customer's Pleo account.",
		Do:   actionLink,
	}
}

// consentAgain is what helps against a grant that has ended.
const consentAgain = "Make a connect link and send it to an admin of the customer's Pleo account: they have to give consent once more."

func adviseReauthorization(c credstore.Connection) advice {
	if c.Kind.IsKey() {
		return advice{
			What: "Pleo no longer accepts the API key. It was deleted, or it has ended.",
			Next: "Enter a new key, or make a connect link with which the customer enters it.",
			Do:   actionKey,
		}
	}
	what := "Pleo has refused the refresh token, so there are no new access tokens."
	switch c.Reason {
	case credstore.ReasonUnknownOutcome:
		what = "An answer of Pleo's was lost on its way, and with it the new refresh token; the old one is no longer good."
	case credstore.ReasonInactive:
		what = "Pleo says that the refresh token is no longer good: access was withdrawn in Pleo, or another program has used the token."
	case credstore.ReasonUnexpected:
		what = "Pleo has answered every refresh for a day in a way that the proxy does not understand."
	case credstore.ReasonUninstalled:
		return advice{
			What: "The integration was uninstalled at Pleo.",
			Next: "If the customer wants it back: " + lowerFirst(consentAgain) + " Otherwise remove the connection.",
			Do:   actionLink,
		}
	}
	return advice{What: what, Next: consentAgain, Do: actionLink}
}

func adviseDegraded(c credstore.Connection) advice {
	const byItself = "Nothing to do yet: the proxy tries again by itself."
	switch c.Reason {
	case credstore.ReasonClientRefused:
		return advice{
			What: "Pleo refuses our OAuth client; this connection itself is well.",
			Next: "Check oauth.client_id and oauth.client_secret in the configuration against Pleo's developer portal. Then refresh.",
			Do:   actionRefresh,
		}
	case credstore.ReasonMassRefusal:
		return advice{
			What: "Many connections were refused at once, so the proxy has stopped spending tokens and tries one every ten minutes.",
			Next: "See whether Pleo has an incident, and whether our OAuth client is still registered there. It goes on by itself once a try succeeds.",
		}
	case credstore.ReasonRetry:
		return advice{What: "The refused refresh token is being tried once more, as somebody has asked for.", Next: byItself}
	case credstore.ReasonHalfAnswer:
		return advice{What: "Pleo's last answer had a refresh token but no access token.", Next: byItself}
	case credstore.ReasonUnknownOutcome:
		return advice{What: "Pleo's answer to the last refresh was lost. The proxy is finding out whether the old token is still good.", Next: byItself}
	}
	return advice{
		What: "Pleo's authorization server is away or busy. Requests go on for as long as the present access token is good.",
		Next: byItself + " If it lasts, see Pleo's status page and this machine's way to the internet; then refresh.",
		Do:   actionRefresh,
	}
}

func adviseDisabled(c credstore.Connection) advice {
	switch c.Reason {
	case credstore.ReasonCompany:
		return advice{
			What: "Its credential belongs to a company that it should not belong to, so nothing is sent with it.",
			Next: "Make a connect link and have the right company connected, or remove the connection. Its history says what it conflicts with.",
			Do:   actionLink,
		}
	case credstore.ReasonExported:
		return advice{
			What: "Its secrets were exported, and belong to another program now. Two owners of one refresh token end the grant for both.",
			Next: "Remove it here. To use it here after all, stop the other program, then enable it; if that has refreshed meanwhile, make a connect link for a new consent too.",
			Do:   actionRemove,
		}
	}
	return advice{What: "Somebody has switched it off: nothing is sent with it.", Next: "Enable it when it is to be used again.", Do: actionEnable}
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// inWords returns an identifier as people read it.
func inWords[T ~string](s T) string { return strings.ReplaceAll(string(s), "_", " ") }

func kindInWords(k credstore.Kind) string {
	switch k {
	case credstore.OAuth:
		return "OAuth"
	case credstore.IntegratedKey:
		return "integrated key"
	case credstore.StandaloneKey:
		return "standalone key"
	}
	return string(k)
}

// eventInWords returns what happened, as a sentence without its full stop.
func eventInWords(t credstore.EventType) string {
	switch t {
	case credstore.EventConnected:
		return "Connected"
	case credstore.EventReauthorization:
		return "Needs a person"
	case credstore.EventRecovered:
		return "Works again"
	case credstore.EventKeyExpiring:
		return "The API key ends soon"
	case credstore.EventRefreshFailed:
		return "A refresh failed"
	case credstore.EventDegraded:
		return "Refreshes fail"
	case credstore.EventCompanyOverride:
		return "Another or a shared company was allowed"
	case credstore.EventKeySet:
		return "A new API key was set"
	case credstore.EventKeyStaged:
		return "A next API key was set"
	case credstore.EventKeyPromoted:
		return "The next API key took over"
	case credstore.EventLinkMade:
		return "A connect link was made"
	case credstore.EventConsentFailed:
		return "The customer did not get connected"
	case credstore.EventRefreshRequested:
		return "A refresh was asked for"
	case credstore.EventRetryRequested:
		return "One more try of the refused token was asked for"
	case credstore.EventNotDelivered:
		return "A webhook was not delivered"
	}
	name := inWords(strings.TrimPrefix(string(t), "connection."))
	return strings.ToUpper(name[:1]) + name[1:]
}

// ago says how long before now t was.
func ago(t, now time.Time) string {
	d := now.Sub(t)
	if d < 0 {
		return ahead(t, now)
	}
	if d < time.Minute {
		return "just now"
	}
	return span(d) + " ago"
}

// ahead says how long after now t is. What is to last for 7 days does so, and not for
// 6, on the page that is drawn a moment later.
func ahead(t, now time.Time) string {
	d := t.Sub(now)
	if d >= time.Minute {
		d = d.Round(time.Minute)
	}
	switch {
	case d <= 0:
		return ago(t, now)
	case d < time.Minute:
		return "within a minute"
	}
	return "in " + span(d)
}

// span returns a duration of a minute or more in the largest unit that fits.
func span(d time.Duration) string {
	for _, unit := range []struct {
		of   time.Duration
		name string
	}{{365 * 24 * time.Hour, "year"}, {24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(d / unit.of); n > 0 {
			return counted(n, unit.name)
		}
	}
	return "less than a minute"
}

// counted returns a number of things.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return grouped(n) + " " + thing + "s"
}

// grouped returns a number with its thousands apart.
func grouped(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", grouped(n/1000), n%1000)
}
