package connect

import (
	"cmp"
	"maps"
	"net/http"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// reason is why nothing was connected. It is used in cookies, URLs and the history.
type reason string

const (
	// After a consent; the link can be used again.
	consentDenied   reason = "consent_denied"
	otherCompany    reason = "other_company"
	companyTaken    reason = "company_connected_elsewhere"
	pleoUnavailable reason = "pleo_unavailable"
	codeRejected    reason = "consent_not_completed"
	clientRejected  reason = "oauth_client_rejected"
	wrongIssuer     reason = "wrong_issuer"
	consentFailed   reason = "consent_failed"
	notSaved        reason = "not_saved"
	companyUnknown  reason = "company_unknown"

	keyMalformed          reason = "key_malformed"
	keyRejected           reason = "key_rejected"
	keyOfOtherEnvironment reason = "key_of_another_environment"
	keyMissingPermissions reason = "key_without_permissions"
	keyExpired            reason = "key_expired"
	invalidDate           reason = "invalid_date"

	linkUsed           reason = "link_used"
	linkExpired        reason = "link_expired"
	linkInvalid        reason = "link_invalid"
	otherBrowser       reason = "other_browser"
	attemptExpired     reason = "attempt_expired"
	connectionDisabled reason = "connection_disabled"
	oauthNotConfigured reason = "oauth_not_configured"
	storeUnavailable   reason = "store_unavailable"
	tooManyAttempts    reason = "too_many_requests"
	serverBusy         reason = "too_busy"
	badRequest         reason = "bad_request"
	crossSiteRequest   reason = "cross_site_request"
	hostNotAllowed     reason = "host_not_allowed"
	notFound           reason = "not_found"
)

// message is the text of a page for one reason. The placeholders {brand}, {tenant},
// {company}, {chosen}, {environment} and {otherEnvironment} stand for names.
type message struct {
	status      int    // of the page
	heading     string // what happened, in a few words
	explanation string // what happened, and whether anything has changed
	nextStep    string // what to do
}

// messages returns the message for each reason.
func messages() map[reason]message {
	all := map[reason]message{}
	for _, some := range []map[reason]message{consentMessages(), keyMessages(), linkMessages(), requestMessages()} {
		maps.Copy(all, some)
	}
	return all
}

func consentMessages() map[reason]message {
	return map[reason]message{
		consentDenied: {http.StatusOK, "Pleo is not connected",
			"Access was not approved in Pleo. Nothing has changed.",
			"To connect, try again and approve access. Only an admin of your company can do this in Pleo."},
		otherCompany: {http.StatusOK, "You chose a different company",
			"This connection is for {company} in Pleo, but you chose {chosen}. The connection has not changed. Pleo may now list {brand} for {chosen}; you can remove it there.",
			"Try again and choose {company}. If you want to switch to {chosen}, ask {brand} for a new link."},
		companyTaken: {http.StatusOK, "This company is already connected",
			"{chosen} in Pleo is already connected to {brand} under a different account than {tenant}. Each company can be connected only once, so nothing was connected.",
			"If you have several companies in Pleo, try again and choose the one that belongs to {tenant}. If you did not expect this, please contact {brand}."},
		companyUnknown: {http.StatusOK, "We could not tell which company this is",
			"Pleo did not tell us which company you approved access for, so we could not connect it. Nothing has changed.",
			"Wait a minute, then try again. If it keeps happening, please contact {brand}."},
		pleoUnavailable: {http.StatusOK, "Pleo is not responding",
			"Pleo did not respond in time, so we could not connect your company. Nothing has changed.",
			"Wait a minute, then try again. Your link still works."},
		codeRejected: {http.StatusOK, "We could not complete your approval",
			"Pleo no longer accepts this approval. This usually means that too much time passed before you came back to this page. Nothing has changed.",
			"Please try again."},
		clientRejected: {http.StatusOK, "Pleo does not accept {brand}",
			"This is not your fault: there is a problem with how {brand} is set up in Pleo. Nothing has changed.",
			"Please contact {brand}. Once the problem is fixed, you can use the same link."},
		wrongIssuer: {http.StatusOK, "The response did not come from Pleo",
			"We received a response to your approval, but it did not come from Pleo, so we did not use it. Nothing has changed.",
			"Please try again. If it keeps happening, contact {brand}."},
		consentFailed: {http.StatusOK, "Pleo did not grant access",
			"Something went wrong in Pleo. Nothing has changed.",
			"Please try again. If it keeps happening, contact {brand}."},
		notSaved: {http.StatusOK, "We could not save the connection",
			"Something is not working on our side.",
			"Wait a minute, then try again. Your link still works."},
	}
}

func keyMessages() map[reason]message {
	return map[reason]message{
		keyMalformed: {http.StatusUnprocessableEntity, "This is not an API key",
			"An API key is one long string of letters, digits and symbols, without spaces. Nothing was saved.",
			"Copy the key in Pleo again, and paste only the key."},
		keyRejected: {http.StatusUnprocessableEntity, "Pleo does not recognise this key",
			"The key may be incomplete, deleted or expired. It was not saved.",
			"Copy the whole key in Pleo again. If Pleo no longer shows it, create a new key as described below."},
		keyOfOtherEnvironment: {http.StatusUnprocessableEntity, "This key is for a different Pleo environment",
			"The key works, but not here: {brand} uses {environment}, and this key is for {otherEnvironment}. The key was not saved.",
			"Create a key in {environment}, as described below."},
		keyExpired: {http.StatusUnprocessableEntity, "This date is in the past",
			"A key stops working after its expiry date. The key was not saved.",
			"Correct the date, and paste the key again. If the date is right, create a new key in Pleo as described below."},
		invalidDate: {http.StatusUnprocessableEntity, "This date is not valid",
			"We could not read the expiry date. The key was not saved.",
			"Enter the date like this: 2031-01-31, or leave it empty. Then paste the key again."},
		keyMissingPermissions: {http.StatusUnprocessableEntity, "This key does not have enough permissions",
			"The key works, but {brand} also needs the permissions below. The key was not saved.",
			"Create a new key in Pleo with all the permissions, and paste that key."},
	}
}

// keyVariants returns the messages that read differently for keys than for consents.
func keyVariants() map[reason]message {
	return map[reason]message{
		otherCompany: {
			heading:     "This key is for a different company",
			explanation: "This connection is for {company} in Pleo, but the key is for {chosen}. The key was not saved.",
			nextStep:    "Create a key in Pleo for {company}. If you want to switch to {chosen}, ask {brand} for a new link.",
		},
		companyTaken: {
			heading:     "This company is already connected",
			explanation: "{chosen} in Pleo is already connected to {brand} under a different account than {tenant}. Each company can be connected only once. The key was not saved.",
			nextStep:    "If you have several companies in Pleo, create a key for the one that belongs to {tenant}. If you did not expect this, please contact {brand}.",
		},
		companyUnknown: {
			heading:     "We could not tell which company this key is for",
			explanation: "This connection is for {company} in Pleo, but Pleo did not tell us which company the key is for. The key was not saved.",
			nextStep:    "Wait a minute, then paste the key again. If it keeps happening, please contact {brand}.",
		},
		pleoUnavailable: {
			heading:     "Pleo is not responding",
			explanation: "We could not check the key with Pleo, so it was not saved.",
			nextStep:    "Wait a minute, then paste the key again. Your link still works.",
		},
		notSaved: {
			heading:     "We could not save the key",
			explanation: "Something is not working on our side.",
			nextStep:    "Wait a minute, then paste the key again. Your link still works.",
		},
	}
}

func linkMessages() map[reason]message {
	return map[reason]message{
		linkUsed: {http.StatusGone, "This link has already been used",
			"It was used to connect {tenant}, and each link works only once.",
			"You do not need to do anything. If something is not working, ask {brand} for a new link."},
		linkExpired: {http.StatusGone, "This link has expired",
			"The time to use it is over, or a newer link has replaced it.",
			"Ask {brand} for a new link."},
		linkInvalid: {http.StatusNotFound, "This link is not valid",
			"Part of the link may be missing, or the connection may have been removed.",
			"Open the link in the original message again. If that does not help, ask {brand} for a new link."},
		otherBrowser: {http.StatusForbidden, "Please continue in the same browser",
			"You started in another browser or in a private window. For your security, you have to finish in the browser where you started. Nothing has changed.",
			"To use this browser instead, open your link again here."},
		attemptExpired: {http.StatusGone, "This page has expired",
			"The approval took more than 10 minutes, or this page was opened twice.",
			"Open your link again. It shows whether you are connected, and lets you try again if you are not."},
		connectionDisabled: {http.StatusForbidden, "This connection is turned off",
			"{brand} has turned off the connection for {tenant}, so you cannot connect at the moment.",
			"Please contact {brand}."},
		oauthNotConfigured: {http.StatusServiceUnavailable, "{brand} is not ready yet",
			"This is not your fault: {brand} has not been set up to connect to Pleo yet.",
			"Please contact {brand}. Once the setup is complete, you can use the same link."},
		storeUnavailable: {http.StatusServiceUnavailable, "This page is temporarily unavailable",
			"Something is not working on our side.",
			"Wait a minute, then reload the page."},
	}
}

func requestMessages() map[reason]message {
	return map[reason]message{
		tooManyAttempts: {http.StatusTooManyRequests, "Too many attempts",
			"This link was used too many times within a minute.",
			"Wait a minute, then try again."},
		serverBusy: {http.StatusServiceUnavailable, "This page is busy at the moment",
			"Too many people are connecting at the same time. Nothing has changed.",
			"Wait a minute, then reload the page."},
		badRequest: {http.StatusBadRequest, "We could not read your request",
			"It was too long, or part of it was lost on the way. Nothing has changed.",
			"Open your link again."},
		crossSiteRequest: {http.StatusForbidden, "Please start on our page",
			"Another website tried to start this for you, so we stopped it. Nothing has changed.",
			"To connect, open the link that you received from {brand}."},
		hostNotAllowed: {http.StatusMisdirectedRequest, "Page not found",
			"This server does not recognise the address in your browser’s address bar.",
			"Open the link that you received."},
		notFound: {http.StatusNotFound, "Page not found",
			"On this site you can connect your company’s Pleo account with a link.",
			"Open the link that you received."},
	}
}

// names are the values of the placeholders.
type names struct {
	brand, tenant                 string
	company, chosen               string // the connection's company, and the customer's choice
	environment, otherEnvironment string
}

func (n names) expand(text string) string {
	return capitalized(strings.NewReplacer(
		"{brand}", plain(n.brand), "{tenant}", cmp.Or(plain(n.tenant), "your account"),
		"{company}", cmp.Or(plain(n.company), "another company"), "{chosen}", cmp.Or(plain(n.chosen), "the company that you chose"),
		"{environment}", cmp.Or(n.environment, "another Pleo environment"), "{otherEnvironment}", cmp.Or(n.otherEnvironment, "a different one"),
	).Replace(text))
}

// capitalized returns a text that begins with a capital letter if it begins with the
// default for a name.
func capitalized(text string) string {
	if rest, ok := strings.CutPrefix(text, "the "); ok {
		return "The " + rest
	}
	return text
}

// plain returns a name without the characters that change the direction of the text
// around it (Unicode Standard Annex 9, section 2).
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= '\u202A' && r <= '\u202E' || r >= '\u2066' && r <= '\u2069' || r == '\u200E' || r == '\u200F' || r == '\u061C' {
			return -1
		}
		return r
	}, name)
}

// A credential of an organisation has no company.
const (
	organisationURN = "urn:pleo:organisation:"
	organisation    = "the organisation "
)

// companyLabel returns the name of a company, or its id if the name is not known.
func companyLabel(c credstore.Company) string {
	if name := strings.TrimSpace(plain(c.Name)); name != "" {
		return name
	}
	if id, ok := strings.CutPrefix(c.Subject, organisationURN); ok && c.ID == "" {
		return organisation + id
	}
	return cmp.Or(c.ID, c.Subject)
}

// companyLabels returns labels that distinguish two companies.
func companyLabels(have, got credstore.Company) (string, string) {
	a, b := companyLabel(have), companyLabel(got)
	if a != b {
		return a, b
	}
	return a + " (" + cmp.Or(have.ID, have.Subject) + ")", b + " (" + cmp.Or(got.ID, got.Subject) + ")"
}
