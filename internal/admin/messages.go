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
	Summary  string
	NextStep string
	Action   string // the name of the action that helps; empty when none does
}

// keyExpiryWarning is how long before its end a key is spoken of.
const keyExpiryWarning = 30 * 24 * time.Hour

// advise returns what to say about a connection, where links can be made or not.
func (a *Admin) advise(c credstore.Connection) advice {
	said := advise(c, a.now())
	if said.Action != actionLink || a.links {
		return said
	}
	said.Action = ""
	if c.Kind.IsKey() {
		said.Action = actionKey
	}
	said.NextStep = "Connect links need connect.public_url in the configuration, which is not set. Set it, then: " + lowerFirst(said.NextStep)
	return said
}

// advise returns what to say about a connection.
func advise(c credstore.Connection, now time.Time) advice {
	switch c.Status {
	case credstore.Pending:
		return pendingAdvice(c)
	case credstore.ReauthorizationRequired:
		return reauthorizationAdvice(c)
	case credstore.Degraded:
		return degradedAdvice(c)
	case credstore.Disabled:
		return disabledAdvice(c)
	}
	if c.Kind.IsKey() && !c.ExpiresAt.IsZero() && c.ExpiresAt.Sub(now) < keyExpiryWarning {
		ends := "ends " + timeUntil(c.ExpiresAt, now)
		if !c.ExpiresAt.After(now) {
			ends = "was to end " + relativeTime(c.ExpiresAt, now)
		}
		return advice{
			Summary:  "It works, and its API key " + ends + ".",
			NextStep: "Make a new key in Pleo and enter it here as the next key, which takes over without a gap; if its history says that there is one already, all is well.",
			Action:   actionKey,
		}
	}
	return advice{Summary: "It works.", NextStep: "There is nothing to do."}
}

func pendingAdvice(c credstore.Connection) advice {
	if c.Kind.IsKey() {
		return advice{
			Summary:  "Nobody has entered an API key yet.",
			NextStep: "Send the customer a connect link with which they enter it, or enter it here.",
			Action:   actionLink,
		}
	}
	return advice{
		Summary:  "The customer has not given consent yet.",
		NextStep: "Make a connect link and send it to an admin of the customer's Pleo account.",
		Action:   actionLink,
	}
}

// askForConsent is what helps against a grant that has ended.
const askForConsent = "Make a connect link and send it to an admin of the customer's Pleo account: they have to give consent once more."

func reauthorizationAdvice(c credstore.Connection) advice {
	if c.Kind.IsKey() {
		return advice{
			Summary:  "Pleo no longer accepts the API key. It was deleted, or it has ended.",
			NextStep: "Enter a new key, or make a connect link with which the customer enters it.",
			Action:   actionKey,
		}
	}
	what := "Pleo has refused the refresh token, so there are no new access tokens."
	switch c.Reason {
	case credstore.ReasonUnknownOutcome:
		what = "An answer of Pleo's was lost on its way, and with it the new refresh token; the old one is no longer good."
	case credstore.ReasonRefreshTokenInactive:
		what = "Pleo says that the refresh token is no longer good: access was withdrawn in Pleo, or another program has used the token."
	case credstore.ReasonUnexpectedResponse:
		what = "Pleo has answered every refresh for a day in a way that the proxy does not understand."
	case credstore.ReasonUninstalled:
		return advice{
			Summary:  "The integration was uninstalled at Pleo.",
			NextStep: "If the customer wants it back: " + lowerFirst(askForConsent) + " Otherwise remove the connection.",
			Action:   actionLink,
		}
	}
	return advice{Summary: what, NextStep: askForConsent, Action: actionLink}
}

func degradedAdvice(c credstore.Connection) advice {
	const byItself = "Nothing to do yet: the proxy tries again by itself."
	switch c.Reason {
	case credstore.ReasonClientRejected:
		return advice{
			Summary:  "Pleo refuses our OAuth client; this connection itself is well.",
			NextStep: "Check oauth.client_id and oauth.client_secret in the configuration against Pleo's developer portal. Then refresh.",
			Action:   actionRefresh,
		}
	case credstore.ReasonCircuitBreakerOpen:
		return advice{
			Summary:  "Many connections were refused at once, so the proxy has stopped spending tokens and tries one every ten minutes.",
			NextStep: "See whether Pleo has an incident, and whether our OAuth client is still registered there. It goes on by itself once a try succeeds.",
		}
	case credstore.ReasonRetryRequested:
		return advice{Summary: "The refused refresh token is being tried once more, as somebody has asked for.", NextStep: byItself}
	case credstore.ReasonAccessTokenMissing:
		return advice{Summary: "Pleo's last answer had a refresh token but no access token.", NextStep: byItself}
	case credstore.ReasonUnknownOutcome:
		return advice{Summary: "Pleo's answer to the last refresh was lost. The proxy is finding out whether the old token is still good.", NextStep: byItself}
	}
	return advice{
		Summary:  "Pleo's authorization server is away or busy. Requests go on for as long as the present access token is good.",
		NextStep: byItself + " If it lasts, see Pleo's status page and this machine's way to the internet; then refresh.",
		Action:   actionRefresh,
	}
}

func disabledAdvice(c credstore.Connection) advice {
	switch c.Reason {
	case credstore.ReasonCompanyConflict:
		return advice{
			Summary:  "Its credential belongs to a company that it should not belong to, so nothing is sent with it.",
			NextStep: "Make a connect link and have the right company connected, or remove the connection. Its history says what it conflicts with.",
			Action:   actionLink,
		}
	case credstore.ReasonExported:
		return advice{
			Summary:  "Its secrets were exported, and belong to another program now. Two owners of one refresh token end the grant for both.",
			NextStep: "Remove it here. To use it here after all, stop the other program, then enable it; if that has refreshed meanwhile, make a connect link for a new consent too.",
			Action:   actionRemove,
		}
	}
	return advice{Summary: "Somebody has switched it off: nothing is sent with it.", NextStep: "Enable it when it is to be used again.", Action: actionEnable}
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// label returns an identifier as people read it.
func label[T ~string](s T) string { return strings.ReplaceAll(string(s), "_", " ") }

func kindLabel(k credstore.Kind) string {
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

// eventLabel returns what happened, as a sentence without its full stop.
func eventLabel(t credstore.EventType) string {
	switch t {
	case credstore.EventConnected:
		return "Connected"
	case credstore.EventReauthorizationRequired:
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
	case credstore.EventLinkCreated:
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
	name := label(strings.TrimPrefix(string(t), "connection."))
	return strings.ToUpper(name[:1]) + name[1:]
}

// relativeTime says how long before now t was.
func relativeTime(t, now time.Time) string {
	d := now.Sub(t)
	if d < 0 {
		return timeUntil(t, now)
	}
	if d < time.Minute {
		return "just now"
	}
	return formatSpan(d) + " ago"
}

// timeUntil says how long after now t is. What is to last for 7 days does so, and not for
// 6, on the page that is drawn a moment later.
func timeUntil(t, now time.Time) string {
	d := t.Sub(now)
	if d >= time.Minute {
		d = d.Round(time.Minute)
	}
	switch {
	case d <= 0:
		return relativeTime(t, now)
	case d < time.Minute:
		return "within a minute"
	}
	return "in " + formatSpan(d)
}

// formatSpan returns a duration of a minute or more in the largest unit that fits.
func formatSpan(d time.Duration) string {
	for _, unit := range []struct {
		of   time.Duration
		name string
	}{{365 * 24 * time.Hour, "year"}, {24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(d / unit.of); n > 0 {
			return pluralize(n, unit.name)
		}
	}
	return "less than a minute"
}

// pluralize returns a number of things.
func pluralize(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return formatCount(n) + " " + thing + "s"
}

// formatCount returns a number with its thousands apart.
func formatCount(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", formatCount(n/1000), n%1000)
}
