package dashboard

import (
	"cmp"
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
	if c.Status == credstore.Active {
		return activeAdvice(c, now)
	}
	if a, ok := keyAdvice[c.Status]; ok && c.Kind.IsKey() {
		return a
	}
	byReason := adviceByReason[c.Status]
	if a, ok := byReason[c.Reason]; ok {
		return a
	}
	return byReason[""]
}

func activeAdvice(c credstore.Connection, now time.Time) advice {
	if !c.Kind.IsKey() || c.ExpiresAt.IsZero() || c.ExpiresAt.Sub(now) >= keyExpiryNotice {
		return advice{Summary: "Working.", NextStep: "No action needed."}
	}
	// The expiry of a key is what an operator entered: Pleo may still accept the key.
	expiry := "The API key expires " + timeUntil(c.ExpiresAt, now)
	if !c.ExpiresAt.After(now) {
		expiry = "The API key was due to expire " + relativeTime(c.ExpiresAt, now)
	}
	return advice{
		Summary:  "Working. " + expiry + ".",
		NextStep: "Create a new key in Pleo and set it here as the next key, which replaces the current one without downtime. If the history shows that a next key is already stored, no action is needed.",
		Action:   actionKey,
	}
}

// keyAdvice has the advice about connections with API keys. For other statuses it is
// that of adviceByReason.
var keyAdvice = map[credstore.Status]advice{
	credstore.Pending: {
		"No API key has been entered yet.",
		"Send the customer a connect link to enter the key, or set it here.", actionLink,
	},
	credstore.ReauthorizationRequired: {
		"Pleo no longer accepts the API key. It was deleted, or it has expired.",
		"Set a new key, or create a connect link for the customer to enter one.", actionKey,
	},
}

// adviceByReason has the advice for statuses and reasons. The empty reason stands for
// all others.
var adviceByReason = map[credstore.Status]map[string]advice{
	credstore.Pending: {
		"": {
			"The customer has not connected yet.",
			"Create a connect link and send it to an admin of the customer's Pleo account.", actionLink,
		},
	},
	credstore.ReauthorizationRequired: {
		"": {"Pleo rejected the refresh token, so the connection cannot get new access tokens.", connectAgain, actionLink},
		credstore.ReasonUnknownOutcome: {
			"The response to a refresh was lost, and the new refresh token with it. The old one is no longer valid.", connectAgain, actionLink,
		},
		credstore.ReasonRefreshTokenInactive: {
			"Pleo reports that the refresh token is no longer active: access was revoked in Pleo, or another program used the token.", connectAgain, actionLink,
		},
		credstore.ReasonUnexpectedResponse: {
			"Pleo returned an unexpected response to every refresh for 24 hours.", connectAgain, actionLink,
		},
		credstore.ReasonUninstalled: {
			"The integration was uninstalled in Pleo.",
			"To use it again: " + lowerFirst(connectAgain) + " Otherwise remove the connection.", actionLink,
		},
	},
	credstore.Degraded: {
		"": {
			"Pleo's authorization server is unavailable or busy. Requests keep working while the current access token is valid.",
			retriesAutomatically + " If this continues, check Pleo's status page and the network connection of this machine, then refresh.", actionRefresh,
		},
		credstore.ReasonClientRejected: {
			"Pleo rejected the OAuth client of this proxy. The connection itself is not affected.",
			"Compare oauth.client_id and oauth.client_secret in the configuration with Pleo's developer portal. Then refresh.", actionRefresh,
		},
		credstore.ReasonCircuitBreakerOpen: {
			"The circuit breaker is open: many connections were rejected at once, so the proxy has paused refreshes and only tries one from time to time.",
			"Check Pleo's status page, and whether your OAuth client is still registered. Refreshes resume automatically once one succeeds.", "",
		},
		credstore.ReasonRetryRequested:     {"The rejected refresh token is being retried, as an operator requested.", retriesAutomatically, ""},
		credstore.ReasonAccessTokenMissing: {"Pleo's last response contained a refresh token but no access token.", retriesAutomatically, ""},
		credstore.ReasonUnknownOutcome: {
			"The response to the last refresh was lost. The proxy is checking whether the old refresh token is still valid.", retriesAutomatically, "",
		},
	},
	credstore.Disabled: {
		"": {"An operator disabled this connection. It is not used.", "Enable it to use it again.", actionEnable},
		credstore.ReasonCompanyConflict: {
			"The credential belongs to the wrong company, so it is not used.",
			"Create a connect link and have the right company connected, or remove the connection. The history shows what it conflicts with.", actionLink,
		},
		credstore.ReasonExported: {
			"The secrets were exported to another program. If two programs use one refresh token, both lose access.",
			"Remove the connection here. To use it here instead, stop the other program and enable it. If the other program has refreshed the token in the meantime, also create a connect link to connect again.", actionRemove,
		},
	},
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

// eventLabels has the events whose type is no good label.
var eventLabels = map[credstore.EventType]string{
	credstore.EventKeyExpiring:     "API key expires soon",
	credstore.EventCompanyLearned:  "Company identified",
	credstore.EventCompanyOverride: "Different or shared company allowed",
	credstore.EventKeySet:          "API key set",
	credstore.EventKeyStaged:       "Next API key stored",
	credstore.EventKeyPromoted:     "Next API key in use",
	credstore.EventLinkCreated:     "Connect link created",
	credstore.EventConsentFailed:   "Connecting failed",
	credstore.EventRetryRequested:  "Retry of the rejected token requested",
	credstore.EventNotDelivered:    "Webhook delivery failed",
}

func eventLabel(t credstore.EventType) string {
	return cmp.Or(eventLabels[t], label(strings.TrimPrefix(string(t), "connection.")))
}

// finding is how a check result is shown: its label, and a status with its color.
type finding struct {
	Label string
	Color credstore.Status
}

var findings = map[refresh.CheckResult]finding{
	refresh.Valid:        {"Valid", credstore.Active},
	refresh.Expired:      {"Expired", credstore.Pending},
	refresh.Rejected:     {"Not valid", credstore.ReauthorizationRequired},
	refresh.OtherCompany: {"Wrong company", credstore.ReauthorizationRequired},
	refresh.NotChecked:   {"Not checked", credstore.Pending},
	refresh.CheckFailed:  {"Unknown", credstore.Pending},
}
