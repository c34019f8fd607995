package dashboard

import (
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// advice explains the state of a connection to an operator who sees it for the
// first time.
type advice struct {
	Summary  string
	NextStep string
	Action   string // name of the operation that helps; empty: none does
}

// keyExpiryNotice is how long before its expiry a key needs attention.
const keyExpiryNotice = 30 * 24 * time.Hour

const (
	retriesAutomatically = "No action needed yet. The proxy retries automatically."
	connectAgain         = "Create a connect link and send it to an admin of the customer's Pleo account, who has to connect again."
)

// adviseOperator returns the advice about a connection. Where connect links are not
// set up, it suggests none before they are.
func adviseOperator(c credstore.Connection, now time.Time, links bool) advice {
	a := adviceFor(c, now)
	if a.Action != actionLink || links {
		return a
	}
	a.Action = ""
	if c.Kind.IsKey() {
		a.Action = actionKey
	}
	a.NextStep = "Connect links are not set up: set connect.public_url in the configuration. Then: " + lowerFirst(a.NextStep)
	return a
}

func adviceFor(c credstore.Connection, now time.Time) advice {
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
	if !c.Kind.IsKey() || c.ExpiresAt.IsZero() || c.ExpiresAt.Sub(now) >= keyExpiryNotice {
		return advice{Summary: "Working.", NextStep: "No action needed."}
	}
	// Pleo is the judge of whether a key has expired: the date is the operator's.
	expiry := "The API key expires " + timeUntil(c.ExpiresAt, now)
	if !c.ExpiresAt.After(now) {
		expiry = "The API key was due to expire " + relativeTime(c.ExpiresAt, now)
	}
	return advice{
		Summary:  "Working. " + expiry + ".",
		NextStep: "Create a new key in Pleo and set it here as the next key, which replaces the present one without downtime. If the history shows that a next key is already stored, no action is needed.",
		Action:   actionKey,
	}
}

func pendingAdvice(c credstore.Connection) advice {
	if c.Kind.IsKey() {
		return advice{
			Summary:  "No API key has been entered yet.",
			NextStep: "Send the customer a connect link to enter the key, or set it here.",
			Action:   actionLink,
		}
	}
	return advice{
		Summary:  "The customer has not connected yet.",
		NextStep: "Create a connect link and send it to an admin of the customer's Pleo account.",
		Action:   actionLink,
	}
}

func reauthorizationAdvice(c credstore.Connection) advice {
	if c.Kind.IsKey() {
		return advice{
			Summary:  "Pleo no longer accepts the API key. It was deleted, or it has expired.",
			NextStep: "Set a new key, or create a connect link for the customer to enter one.",
			Action:   actionKey,
		}
	}
	summary := "Pleo rejected the refresh token, so the connection cannot get new access tokens."
	switch c.Reason {
	case credstore.ReasonUnknownOutcome:
		summary = "The response to a refresh was lost, and the new refresh token with it. The old one is no longer valid."
	case credstore.ReasonRefreshTokenInactive:
		summary = "Pleo reports that the refresh token is no longer active: access was revoked in Pleo, or another program used the token."
	case credstore.ReasonUnexpectedResponse:
		summary = "Pleo returned an unexpected response to every refresh for 24 hours."
	case credstore.ReasonUninstalled:
		return advice{
			Summary:  "The integration was uninstalled in Pleo.",
			NextStep: "To use it again: " + lowerFirst(connectAgain) + " Otherwise remove the connection.",
			Action:   actionLink,
		}
	}
	return advice{Summary: summary, NextStep: connectAgain, Action: actionLink}
}

func degradedAdvice(c credstore.Connection) advice {
	switch c.Reason {
	case credstore.ReasonClientRejected:
		return advice{
			Summary:  "Pleo rejected the OAuth client of this proxy. The connection itself is not affected.",
			NextStep: "Compare oauth.client_id and oauth.client_secret in the configuration with Pleo's developer portal. Then refresh.",
			Action:   actionRefresh,
		}
	case credstore.ReasonCircuitBreakerOpen:
		return advice{
			Summary:  "The circuit breaker is open: many connections were rejected at once, so the proxy has paused refreshes and only tries one from time to time.",
			NextStep: "Check Pleo's status page, and whether your OAuth client is still registered. Refreshes resume automatically once one succeeds.",
		}
	case credstore.ReasonRetryRequested:
		return advice{Summary: "The rejected refresh token is being retried, as an operator requested.", NextStep: retriesAutomatically}
	case credstore.ReasonAccessTokenMissing:
		return advice{Summary: "Pleo's last response contained a refresh token but no access token.", NextStep: retriesAutomatically}
	case credstore.ReasonUnknownOutcome:
		return advice{Summary: "The response to the last refresh was lost. The proxy is checking whether the old refresh token is still valid.", NextStep: retriesAutomatically}
	}
	return advice{
		Summary:  "Pleo's authorization server is unavailable or busy. Requests keep working while the present access token is valid.",
		NextStep: retriesAutomatically + " If this continues, check Pleo's status page and the network connection of this machine, then refresh.",
		Action:   actionRefresh,
	}
}

func disabledAdvice(c credstore.Connection) advice {
	switch c.Reason {
	case credstore.ReasonCompanyConflict:
		return advice{
			Summary:  "The credential belongs to the wrong company, so it is not used.",
			NextStep: "Create a connect link and have the right company connected, or remove the connection. The history shows what it conflicts with.",
			Action:   actionLink,
		}
	case credstore.ReasonExported:
		return advice{
			Summary:  "The secrets were exported to another program. If two programs use one refresh token, both lose access.",
			NextStep: "Remove the connection here. To use it here instead, stop the other program and enable it. If the other program has refreshed the token in the meantime, also create a connect link to connect again.",
			Action:   actionRemove,
		}
	}
	return advice{Summary: "An operator disabled this connection. It is not used.", NextStep: "Enable it to use it again.", Action: actionEnable}
}

// sentence returns the message of an event or a finding, which begins in lower case
// as errors do, as the beginning of a sentence.
func sentence(message string) string {
	if message == "" {
		return ""
	}
	return strings.ToUpper(message[:1]) + message[1:]
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// label returns an identifier such as a status or a reason as people read it.
func label(identifier string) string {
	return sentence(strings.ReplaceAll(identifier, "_", " "))
}

func kindLabel(k credstore.Kind) string {
	if k == credstore.OAuth {
		return "OAuth"
	}
	return label(string(k))
}

func eventLabel(t credstore.EventType) string {
	switch t {
	case credstore.EventKeyExpiring:
		return "API key expires soon"
	case credstore.EventCompanyLearned:
		return "Company identified"
	case credstore.EventCompanyOverride:
		return "Different or shared company allowed"
	case credstore.EventKeySet:
		return "API key set"
	case credstore.EventKeyStaged:
		return "Next API key stored"
	case credstore.EventKeyPromoted:
		return "Next API key in use"
	case credstore.EventLinkCreated:
		return "Connect link created"
	case credstore.EventConsentFailed:
		return "Connecting failed"
	case credstore.EventRetryRequested:
		return "Retry of the rejected token requested"
	case credstore.EventNotDelivered:
		return "Webhook delivery failed"
	}
	return label(strings.TrimPrefix(string(t), "connection."))
}

// finding is the label of a check result, and the status that has its color.
type finding struct {
	Label string
	Color credstore.Status
}

func findingLabel(r refresh.CheckResult) finding {
	switch r {
	case refresh.Valid:
		return finding{"Valid", credstore.Active}
	case refresh.Expired:
		return finding{"Expired", credstore.Pending}
	case refresh.Rejected:
		return finding{"Not valid", credstore.ReauthorizationRequired}
	case refresh.OtherCompany:
		return finding{"Wrong company", credstore.ReauthorizationRequired}
	case refresh.NotChecked:
		return finding{"Not checked", credstore.Pending}
	}
	return finding{"Unknown", credstore.Pending}
}
