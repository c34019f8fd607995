package connect

import (
	"cmp"
	"maps"
	"net/http"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// why says why nothing was connected. It stands in cookies, addresses and the
// history.
type why string

// What a person can be told. Those up to notSaved are about one link, which can
// be tried again.
const (
	denied        why = "consent_denied"
	otherCompany  why = "other_company"
	companyTaken  why = "company_connected_elsewhere"
	unreachable   why = "pleo_unavailable"
	codeRefused   why = "consent_not_completed"
	clientRefused why = "oauth_client_refused"
	otherIssuer   why = "answer_of_another_server"
	pleoRefused   why = "consent_refused"
	notSaved      why = "not_saved"
	notTold       why = "company_not_told"

	keyMisshapen why = "key_misshapen"
	keyUnknown   why = "key_refused"
	keyElsewhere why = "key_of_another_environment"
	keyTooNarrow why = "key_without_permissions"
	keyOver      why = "key_expired"
	notADay      why = "bad_date"

	linkUsed     why = "link_used"
	linkExpired  why = "link_expired"
	linkUnknown  why = "link_unknown"
	otherBrowser why = "other_browser"
	attemptOver  why = "attempt_over"
	switchedOff  why = "connection_disabled"
	notSetUp     why = "oauth_not_set_up"
	storeAway    why = "store_unavailable"
	tooMany      why = "too_many_requests"
	tooBusy      why = "too_busy"
	unreadable   why = "bad_request"
	notOurPage   why = "cross_site_request"
	otherHost    why = "host_not_allowed"
	nowhere      why = "not_found"
)

// wording is how a page says why nothing was connected. {brand}, {tenant},
// {have} and {got} stand for names.
type wording struct {
	status  int    // where the page has an address of its own
	heading string // what has happened, in a few words
	says    string // and in full
	do      string // what the person can do
}

// wordings are those of every why.
func wordings() map[why]wording {
	all := map[why]wording{}
	for _, some := range []map[why]wording{consentWordings(), badKeyWordings(), linkWordings(), requestWordings()} {
		maps.Copy(all, some)
	}
	return all
}

func consentWordings() map[why]wording {
	return map[why]wording{
		denied: {http.StatusOK, "Nothing was connected",
			"Access was not given in Pleo, so nothing has changed.",
			"If that was a mistake, try again and choose to allow access. Only an admin of your company can do that in Pleo."},
		otherCompany: {http.StatusOK, "That is another company",
			"This connection belongs to {have} in Pleo, and this time {got} was chosen. The connection is as it was before. Pleo may list {brand} for {got} now; you can remove it there.",
			"Try again with {have}. If the connection is to move to {got}, ask {brand} for a link that allows it."},
		companyTaken: {http.StatusOK, "This company is connected already",
			"{got} in Pleo is connected to {brand} already, for somebody other than {tenant}. A company can be connected once.",
			"If you have several companies in Pleo, try again with the one that belongs to {tenant}. If you do not know of another connection, ask {brand}."},
		notTold: {http.StatusOK, "Pleo does not say which company this is",
			"Your approval could not be completed, because Pleo did not say which company it is for. The connection is as it was before.",
			"Wait a minute and try again. If it happens once more, tell {brand}."},
		unreachable: {http.StatusOK, "Pleo does not answer at the moment",
			"Your approval could not be completed, because Pleo did not answer in time. Nothing has changed.",
			"Wait a minute and try again. Your link stays good."},
		codeRefused: {http.StatusOK, "The approval could not be completed",
			"Pleo no longer accepted the approval. Mostly that is because too much time has passed between approving and coming back. Nothing has changed.",
			"Try again."},
		clientRefused: {http.StatusOK, "Pleo does not accept {brand}",
			"You have done nothing wrong: {brand} is not set up at Pleo the way that it should be. Nothing has changed.",
			"Tell {brand}. Once it is mended you can use the same link again."},
		otherIssuer: {http.StatusOK, "The answer did not come from Pleo",
			"Something between Pleo and this page has answered in the place of Pleo, so the answer was not used. Nothing has changed.",
			"Try again. If it happens once more, tell {brand}."},
		pleoRefused: {http.StatusOK, "Pleo did not give access",
			"Pleo could not ask you for your approval. Nothing has changed.",
			"Try again. If it happens once more, tell {brand}."},
		notSaved: {http.StatusOK, "This cannot be completed at the moment",
			"Something on our side is not available, so the connection could not be saved.",
			"Wait a minute and try again. Your link stays good."},
	}
}

func badKeyWordings() map[why]wording {
	return map[why]wording{
		keyMisshapen: {http.StatusUnprocessableEntity, "This is not an API key",
			"A key is one long word of letters, digits and signs, without spaces.",
			"Copy the key in Pleo once more, and paste it here alone."},
		keyUnknown: {http.StatusUnprocessableEntity, "Pleo does not know this key",
			"The key may be incomplete, or it has been deleted or has expired. It was not stored.",
			"Copy the whole key in Pleo once more. If Pleo no longer shows it, make a new one by the steps below."},
		keyElsewhere: {http.StatusUnprocessableEntity, "This key is for another Pleo",
			"The key works, but not here: {brand} uses {here}, and the key is for {there}. It was not stored.",
			"Make a key in {here}, by the steps below."},
		keyOver: {http.StatusUnprocessableEntity, "This day is over",
			"A key whose last day has passed does not work any more. It was not stored.",
			"Correct the day, and paste the key once more. If the day is right, make a new key in Pleo by the steps below."},
		notADay: {http.StatusUnprocessableEntity, "This is not a day",
			"The last day of the key could not be read. The key was not stored.",
			"Write the day like 2031-01-31 or leave it out, and paste the key once more."},
		keyTooNarrow: {http.StatusUnprocessableEntity, "This key does not allow enough",
			"The key works, but {brand} also needs the permissions below. It was not stored.",
			"Make a new key in Pleo with all the permissions, and paste that one."},
	}
}

func linkWordings() map[why]wording {
	return map[why]wording{
		linkUsed: {http.StatusGone, "This link has been used",
			"{tenant} was connected with it. A link can be used once.",
			"There is nothing left to do here. If something does not work, ask {brand} for a new link."},
		linkExpired: {http.StatusGone, "This link has expired",
			"It can no longer be used, or a newer one has taken its place.",
			"Ask {brand} for a new link."},
		linkUnknown: {http.StatusNotFound, "This link leads nowhere",
			"Maybe a part of it was lost when it was copied, or what it was for has been removed.",
			"Open the link from the message that you have got it in. If that does not help, ask {brand} for a new one."},
		otherBrowser: {http.StatusForbidden, "Please go on in one browser",
			"This was begun in another browser, or in a private window. To keep others from connecting in your name, it has to be finished where it was begun. Nothing has changed.",
			"Open your link again, in the browser that you are using now."},
		attemptOver: {http.StatusGone, "This page is no longer current",
			"Either the approval took more than 10 minutes, or this page was opened twice.",
			"Open your link again: it shows whether you are connected, and lets you try again if you are not."},
		switchedOff: {http.StatusForbidden, "This connection is switched off",
			"{brand} has switched off the connection of {tenant}, so nothing can be connected at the moment.",
			"Ask {brand}."},
		notSetUp: {http.StatusServiceUnavailable, "{brand} is not ready yet",
			"You have done nothing wrong: {brand} has not been set up to ask Pleo for access.",
			"Tell {brand}. Once it is mended you can use the same link."},
		storeAway: {http.StatusServiceUnavailable, "This page is not available at the moment",
			"Something on our side does not answer.",
			"Wait a minute and load the page again."},
	}
}

func requestWordings() map[why]wording {
	return map[why]wording{
		tooMany: {http.StatusTooManyRequests, "Too many tries",
			"This link was tried too often within a minute.",
			"Wait a minute and try again."},
		tooBusy: {http.StatusServiceUnavailable, "Too many people are here at the moment",
			"Nothing has happened yet.",
			"Wait a minute and load the page again."},
		unreadable: {http.StatusBadRequest, "This could not be read",
			"What was sent is too long, or was cut off on its way. Nothing has happened.",
			"Open your link again."},
		notOurPage: {http.StatusForbidden, "Please begin on our page",
			"Another website has tried to start this in your name. Nothing has happened.",
			"If you want to connect, open the link that {brand} has given you."},
		otherHost: {http.StatusMisdirectedRequest, "There is nothing at this address",
			"This server does not answer to the name in your browser’s address bar.",
			"Open the link that you were given."},
		nowhere: {http.StatusNotFound, "There is nothing at this address",
			"This server is for connecting a company’s Pleo account by a link.",
			"Open the link that you were given."},
	}
}

// names are what wordings have placeholders for.
type names struct {
	brand, tenant string
	have, got     string // companies
	here, there   string // environments
}

func (n names) in(text string) string {
	text = strings.NewReplacer(
		"{brand}", plain(n.brand), "{tenant}", cmp.Or(plain(n.tenant), "your account"),
		"{have}", cmp.Or(plain(n.have), "another company"), "{got}", cmp.Or(plain(n.got), "the company that was chosen"),
		"{here}", cmp.Or(n.here, "another environment of Pleo"), "{there}", cmp.Or(n.there, "another one"),
	).Replace(text)
	// What stands for a name may begin a sentence.
	if first, ok := strings.CutPrefix(text, "the "); ok {
		text = "The " + first
	}
	return text
}

// plain returns a name without what would change the direction of the text that it
// stands in (Unicode Standard Annex 9, section 2).
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= '\u202A' && r <= '\u202E' || r >= '\u2066' && r <= '\u2069' || r == '\u200E' || r == '\u200F' || r == '\u061C' {
			return -1
		}
		return r
	}, name)
}

// An organisation's credential names no company.
const (
	organisationURN = "urn:pleo:organisation:"
	organisation    = "the organisation "
)

// companyLabel is what a company is called: its name if Pleo has told, else its id.
func companyLabel(c credstore.Company) string {
	if name := strings.TrimSpace(plain(c.Name)); name != "" {
		return name
	}
	if id, ok := strings.CutPrefix(c.Subject, organisationURN); ok && c.ID == "" {
		return organisation + id
	}
	return cmp.Or(c.ID, c.Subject)
}

// companyLabels are those of two companies, which differ.
func companyLabels(have, got credstore.Company) (string, string) {
	a, b := companyLabel(have), companyLabel(got)
	if a != b {
		return a, b
	}
	return a + " (" + cmp.Or(have.ID, have.Subject) + ")", b + " (" + cmp.Or(got.ID, got.Subject) + ")"
}
