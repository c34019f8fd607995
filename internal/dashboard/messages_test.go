package dashboard

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// TestAdviceForEveryReason checks that every reason that operators can meet has a
// text and a next step.
func TestAdviceForEveryReason(t *testing.T) {
	for _, test := range []struct {
		kind    credstore.Kind
		status  credstore.Status
		reason  string
		summary string
		action  string
	}{
		{credstore.OAuth, credstore.Pending, credstore.ReasonNoCredential, "not connected yet", actionLink},
		{credstore.StandaloneKey, credstore.Pending, credstore.ReasonNoCredential, "No API key has been entered", actionLink},
		{credstore.OAuth, credstore.Active, "", "Working.", ""},
		{credstore.OAuth, credstore.ReauthorizationRequired, credstore.ReasonRefreshTokenRejected, "rejected the refresh token", actionLink},
		{credstore.OAuth, credstore.ReauthorizationRequired, credstore.ReasonUnknownOutcome, "was lost", actionLink},
		{credstore.OAuth, credstore.ReauthorizationRequired, credstore.ReasonRefreshTokenInactive, "no longer active", actionLink},
		{credstore.OAuth, credstore.ReauthorizationRequired, credstore.ReasonUnexpectedResponse, "unexpected response", actionLink},
		{credstore.OAuth, credstore.ReauthorizationRequired, credstore.ReasonUninstalled, "uninstalled in Pleo", actionLink},
		{credstore.IntegratedKey, credstore.ReauthorizationRequired, credstore.ReasonKeyRejected, "no longer accepts the API key", actionKey},
		{credstore.OAuth, credstore.Degraded, credstore.ReasonUnavailable, "unavailable or busy", actionRefresh},
		{credstore.OAuth, credstore.Degraded, credstore.ReasonClientRejected, "rejected the OAuth client", actionRefresh},
		{credstore.OAuth, credstore.Degraded, credstore.ReasonRetryRequested, "being retried", ""},
		{credstore.OAuth, credstore.Degraded, credstore.ReasonAccessTokenMissing, "no access token", ""},
		{credstore.OAuth, credstore.Degraded, credstore.ReasonCircuitBreakerOpen, "circuit breaker is open", ""},
		{credstore.OAuth, credstore.Degraded, credstore.ReasonUnknownOutcome, "was lost", ""},
		{credstore.OAuth, credstore.Disabled, credstore.ReasonOperator, "operator disabled", actionEnable},
		{credstore.OAuth, credstore.Disabled, credstore.ReasonCompanyConflict, "wrong company", actionLink},
		{credstore.OAuth, credstore.Disabled, credstore.ReasonExported, "exported", actionRemove},
	} {
		got := adviceFor(credstore.Connection{Kind: test.kind, Status: test.status, Reason: test.reason}, time.Unix(1e9, 0))
		if !strings.Contains(got.Summary, test.summary) || got.NextStep == "" || got.Action != test.action {
			t.Errorf("adviceFor(%s, %s, %s) = %+v, want %q and action %q", test.kind, test.status, test.reason, got, test.summary, test.action)
		}
	}
}

func TestAdviceForExpiringKey(t *testing.T) {
	now := time.Unix(1e9, 0)
	c := credstore.Connection{Kind: credstore.StandaloneKey, Status: credstore.Active, ExpiresAt: now.Add(5*24*time.Hour + time.Hour)}
	if got := adviceFor(c, now); !strings.Contains(got.Summary, "expires in 5 days") || got.Action != actionKey {
		t.Errorf("advice = %+v, want expiry in 5 days and a new key", got)
	}
	c.ExpiresAt = now.Add(-3 * 24 * time.Hour)
	if got := adviceFor(c, now); !strings.Contains(got.Summary, "was due to expire 3 days ago") || got.Action != actionKey {
		t.Errorf("advice = %+v, want expiry 3 days ago and a new key", got)
	}
}

// TestAdviceForExportedConnection checks the order of steps: the link of a disabled
// connection does not work.
func TestAdviceForExportedConnection(t *testing.T) {
	next := adviceFor(credstore.Connection{Kind: credstore.OAuth, Status: credstore.Disabled, Reason: credstore.ReasonExported}, time.Unix(1e9, 0)).NextStep
	enable, link := strings.Index(next, "enable"), strings.Index(next, "connect link")
	if enable < 0 || link < enable {
		t.Errorf("next step = %q, want to enable it before the connect link", next)
	}
}

func TestAdviceWithoutConnectLinks(t *testing.T) {
	now := time.Unix(1e9, 0)
	c := credstore.Connection{Kind: credstore.OAuth, Status: credstore.Pending, Reason: credstore.ReasonNoCredential}
	for links, action := range map[bool]string{true: actionLink, false: ""} {
		got := adviseOperator(c, now, links)
		if got.Action != action || strings.Contains(got.NextStep, "connect.public_url") == links {
			t.Errorf("advice with connect links %v = %+v, want action %q", links, got, action)
		}
	}
	c.Kind = credstore.IntegratedKey
	if got := adviseOperator(c, now, false); got.Action != actionKey {
		t.Errorf("advice for a key = %+v, want to set it here", got)
	}
}

// TestEveryEventHasLabel reads the event types from the source of credstore, so
// that it covers future ones.
func TestEveryEventHasLabel(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../../credstore/event.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	types := 0
	ast.Inspect(file, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		if !ok || !strings.HasPrefix(lit.Value, `"connection.`) {
			return true
		}
		types++
		name, err := strconv.Unquote(lit.Value)
		if err != nil {
			t.Fatal(err)
		}
		got := eventLabel(credstore.EventType(name))
		if strings.ContainsAny(got, "_.") || got[:1] != strings.ToUpper(got[:1]) {
			t.Errorf("eventLabel(%q) = %q, want a label", name, got)
		}
		return true
	})
	if types < 20 {
		t.Errorf("found %d event types, want all", types)
	}
}

func TestRelativeTime(t *testing.T) {
	now := time.Unix(1e9, 0)
	for d, want := range map[time.Duration]string{
		-10 * time.Second: "just now", -time.Minute: "1 minute ago", -3 * time.Hour: "3 hours ago", -800 * 24 * time.Hour: "2 years ago",
		30 * time.Second: "within a minute", 90 * time.Minute: "in 1 hour", 48 * time.Hour: "in 2 days", 7*24*time.Hour - time.Second: "in 7 days",
	} {
		if got := relativeTime(now.Add(d), now); got != want {
			t.Errorf("relativeTime(%v) = %q, want %q", d, got, want)
		}
	}
	if got := formatCount(1234567); got != "1,234,567" {
		t.Errorf("formatCount = %q, want 1,234,567", got)
	}
}
