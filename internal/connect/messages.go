package connect

import (
	"cmp"
	"maps"
	"net/http"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// reason says why nothing was connected. It stands in cookies, addresses and the
// history.
type reason string

// What a person can be told. Those up to notSaved are about one link, which can
// be tried again.
const (
	consentDenied   reason = "consent_denied"
	otherCompany    reason = "other_company"
	companyTaken    reason = "company_connected_elsewhere"
	pleoUnavailable reason = "pleo_unavailable"
	codeRejected    reason = "consent_not_completed"
	clientRejected  reason = "oauth_client_refused"
	wrongIssuer     reason = "answer_of_another_server"
	consentFailed   reason = "consent_refused"
	notSaved        reason = "not_saved"
	companyUnknown  reason = "company_not_told"

	keyMalformed          reason = "key_misshapen"
	keyRejected           reason = "key_refused"
	keyOfOtherEnvironment reason = "key_of_another_environment"
	keyMissingPermissions reason = "key_without_permissions"
	keyExpired            reason = "key_expired"
	invalidDate           reason = "bad_date"

	linkUsed           reason = "link_used"
	linkExpired        reason = "link_expired"
	linkInvalid        reason = "link_unknown"
	otherBrowser       reason = "other_browser"
	attemptExpired     reason = "attempt_over"
	connectionDisabled reason = "connection_disabled"
	oauthNotConfigured reason = "oauth_not_set_up"
	storeUnavailable   reason = "store_unavailable"
	tooManyAttempts    reason = "too_many_requests"
	serverBusy         reason = "too_busy"
	badRequest         reason = "bad_request"
	crossSiteRequest   reason = "cross_site_request"
	hostNotAllowed     reason = "host_not_allowed"
	notFound           reason = "not_found"
)

// message is how a page says why nothing was connected. {brand}, {tenant},
// {have} and {got} stand for names.
type message struct {
	status      int    // where the page has an address of its own
	heading     string // what has happened, in a few words
	explanation string // and in full
	nextStep    string // what the person can do
}

// messages are those of every why.
func messages() map[reason]message {
	all := map[reason]message{}
	for _, some := range []map[reason]message{consentMessages(), keyMessages(), linkMessages(), requestMessages()} {
		maps.Copy(all, some)
	}
	return all
}

func consentMessages() map[reason]message {
	return map[reason]message{
		consentDenied: {http.StatusOK, "Nothing was connected",
			"Access was not given in Pleo, so nothing has changed.",
			"If that was a mistake, try again and choose to allow access. Only an admin of your company can do that in Pleo."},
		otherCompany: {http.StatusOK, "That is another company",
			"This connection belongs to {have} in Pleo, and this time {got} was chosen. The connection is as it was before. Pleo may list {brand} for {got} now; you can remove it there.",
			"Try again with {have}. If the connection is to move to {got}, ask {brand} for a link that allows it."},
		companyTaken: {http.StatusOK, "This company is connected already",
			"{got} in Pleo is connected to {brand} already, for somebody other than {tenant}. A company can be connected once.",
			"If you have several companies in Pleo, try again with the one that belongs to {tenant}. If you do not know of another connection, ask {brand}."},
		companyUnknown: {http.StatusOK, "Pleo does not say which company this is",
			"Your approval could not be completed, because Pleo did not say which company it is for. The connection is as it was before.",
			"Wait a minute and try again. If it happens once more, tell {brand}."},
		pleoUnavailable: {http.StatusOK, "Pleo does not answer at the moment",
			"Your approval could not be completed, because Pleo did not answer in time. Nothing has changed.",
			"Wait a minute and try again. Your link stays good."},
		codeRejected: {http.StatusOK, "The approval could not be completed",
			"Pleo no longer accepted the approval. Mostly that is because too much time has passed between approving and coming back. Nothing has changed.",
			"Try again."},
		clientRejected: {http.StatusOK, "Pleo does not accept {brand}",
			"You have done nothing wrong: {brand} is not set up at Pleo the way that it should be. Nothing has changed.",
			"Tell {brand}. Once it is mended you can use the same link again."},
		wrongIssuer: {http.StatusOK, "The answer did not come from Pleo",
			"Something between Pleo and this page has answered in the place of Pleo, so the answer was not used. Nothing has changed.",
			"Try again. If it happens once more, tell {brand}."},
		consentFailed: {http.StatusOK, "Pleo did not give access",
			"Pleo could not ask you for your approval. Nothing has changed.",
			"Try again. If it happens once more, tell {brand}."},
		notSaved: {http.StatusOK, "This cannot be completed at the moment",
			"Something on our side is not available, so the connection could not be saved.",
			"Wait a minute and try again. Your link stays good."},
	}
}

func keyMessages() map[reason]message {
	return map[reason]message{
		keyMalformed: {http.StatusUnprocessableEntity, "This is not an API key",
			"A key is one long word of letters, digits and signs, without spaces.",
			"Copy the key in Pleo once more, and paste it here alone."},
		keyRejected: {http.StatusUnprocessableEntity, "Pleo does not know this key",
			"The key may be incomplete, or it has been deleted or has expired. It was not stored.",
			"Copy the whole key in Pleo once more. If Pleo no longer shows it, make a new one by the steps below."},
		keyOfOtherEnvironment: {http.StatusUnprocessableEntity, "This key is for another Pleo",
			"The key works, but not here: {brand} uses {here}, and the key is for {there}. It was not stored.",
			"Make a key in {here}, by the steps below."},
		keyExpired: {http.StatusUnprocessableEntity, "This day is over",
			"A key whose last day has passed does not work any more. It was not stored.",
			"Correct the day, and paste the key once more. If the day is right, make a new key in Pleo by the steps below."},
		invalidDate: {http.StatusUnprocessableEntity, "This is not a day",
			"The last day of the key could not be read. The key was not stored.",
			"Write the day like 2031-01-31 or leave it out, and paste the key once more."},
		keyMissingPermissions: {http.StatusUnprocessableEntity, "This key does not allow enough",
			"The key works, but {brand} also needs the permissions below. It was not stored.",
			"Make a new key in Pleo with all the permissions, and paste that one."},
	}
}

func linkMessages() map[reason]message {
	return map[reason]message{
		linkUsed: {http.StatusGone, "This link has been used",
			"{tenant} was connected with it. A link can be used once.",
			"There is nothing left to do here. If something does not work, ask {brand} for a new link."},
		linkExpired: {http.StatusGone, "This link has expired",
			"It can no longer be used, or a newer one has taken its place.",
			"Ask {brand} for a new link."},
		linkInvalid: {http.StatusNotFound, "This link leads nowhere",
			"Maybe a part of it was lost when it was copied, or what it was for has been removed.",
			"Open the link from the message that you have got it in. If that does not help, ask {brand} for a new one."},
		otherBrowser: {http.StatusForbidden, "Please go on in one browser",
			"This was begun in another browser, or in a private window. To keep others from connecting in your name, it has to be finished where it was begun. Nothing has changed.",
			"Open your link again, in the browser that you are using now."},
		attemptExpired: {http.StatusGone, "This page is no longer current",
			"Either the approval took more than 10 minutes, or this page was opened twice.",
			"Open your link again: it shows whether you are connected, and lets you try again if you are not."},
		connectionDisabled: {http.StatusForbidden, "This connection is switched off",
			"{brand} has switched off the connection of {tenant}, so nothing can be connected at the moment.",
			"Ask {brand}."},
		oauthNotConfigured: {http.StatusServiceUnavailable, "{brand} is not ready yet",
			"You have done nothing wrong: {brand} has not been set up to ask Pleo for access.",
			"Tell {brand}. Once it is mended you can use the same link."},
		storeUnavailable: {http.StatusServiceUnavailable, "This page is not available at the moment",
			"Something on our side does not answer.",
			"Wait a minute and load the page again."},
	}
}

func requestMessages() map[reason]message {
	return map[reason]message{
		tooManyAttempts: {http.StatusTooManyRequests, "Too many tries",
			"This link was tried too often within a minute.",
			"Wait a minute and try again."},
		serverBusy: {http.StatusServiceUnavailable, "Too many people are here at the moment",
			"Nothing has happened yet.",
			"Wait a minute and load the page again."},
		badRequest: {http.StatusBadRequest, "This could not be read",
			"What was sent is too long, or was cut off on its way. Nothing has happened.",
			"Open your link again."},
		crossSiteRequest: {http.StatusForbidden, "Please begin on our page",
			"Another website has tried to start this in your name. Nothing has happened.",
			"If you want to connect, open the link that {brand} has given you."},
		hostNotAllowed: {http.StatusMisdirectedRequest, "There is nothing at this address",
			"This server does not answer to the name in your browser’s address bar.",
			"Open the link that you were given."},
		notFound: {http.StatusNotFound, "There is nothing at this address",
			"This server is for connecting a company’s Pleo account by a link.",
			"Open the link that you were given."},
	}
}

// companies are what wordings have placeholders for.
type names struct {
	brand, tenant                 string
	company, chosen               string // companies
	environment, otherEnvironment string // environments
}

func (n names) expand(text string) string {
	text = strings.NewReplacer(
		"{brand}", plain(n.brand), "{tenant}", cmp.Or(plain(n.tenant), "your account"),
		"{have}", cmp.Or(plain(n.company), "another company"), "{got}", cmp.Or(plain(n.chosen), "the company that was chosen"),
		"{here}", cmp.Or(n.environment, "another environment of Pleo"), "{there}", cmp.Or(n.otherEnvironment, "another one"),
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
