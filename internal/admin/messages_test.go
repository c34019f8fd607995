package admin

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

// TestAdviceForEveryReason: for each status, a reason that the operator may
// meet has words of its own, and says what to do next.
func TestAdviceForEveryReason(t *testing.T) {
	for _, test := range []struct {
		kind   credstore.Kind
		status credstore.Status
		reason string
		says   string
		do     string
	}{
		{credstore.OAuth, credstore.Pending, credstore.ReasonNoCredential, "not given consent", actionLink},
		{credstore.StandaloneKey, credstore.Pending, credstore.ReasonNoCredential, "Nobody has entered an API key", actionLink},
		{credstore.OAuth, credstore.Active, "", "It works", ""},
		{credstore.OAuth, credstore.ReauthorizationRequired, credstore.ReasonRefreshTokenRejected, "refused the refresh token", actionLink},
		{credstore.OAuth, credstore.ReauthorizationRequired, credstore.ReasonUnknownOutcome, "lost", actionLink},
		{credstore.OAuth, credstore.ReauthorizationRequired, credstore.ReasonRefreshTokenInactive, "no longer good", actionLink},
		{credstore.OAuth, credstore.ReauthorizationRequired, credstore.ReasonUnexpectedResponse, "does not understand", actionLink},
		{credstore.OAuth, credstore.ReauthorizationRequired, credstore.ReasonUninstalled, "uninstalled at Pleo", actionLink},
		{credstore.IntegratedKey, credstore.ReauthorizationRequired, credstore.ReasonKeyRejected, "no longer accepts the API key", actionKey},
		{credstore.OAuth, credstore.Degraded, credstore.ReasonUnavailable, "away or busy", actionRefresh},
		{credstore.OAuth, credstore.Degraded, credstore.ReasonClientRejected, "refuses our OAuth client", actionRefresh},
		{credstore.OAuth, credstore.Degraded, credstore.ReasonRetryRequested, "tried once more", ""},
		{credstore.OAuth, credstore.Degraded, credstore.ReasonAccessTokenMissing, "no access token", ""},
		{credstore.OAuth, credstore.Degraded, credstore.ReasonCircuitBreakerOpen, "stopped spending tokens", ""},
		{credstore.OAuth, credstore.Degraded, credstore.ReasonUnknownOutcome, "was lost", ""},
		{credstore.OAuth, credstore.Disabled, credstore.ReasonOperator, "switched it off", actionEnable},
		{credstore.OAuth, credstore.Disabled, credstore.ReasonCompanyConflict, "company that it should not", actionLink},
		{credstore.OAuth, credstore.Disabled, credstore.ReasonExported, "exported", actionRemove},
	} {
		got := advise(credstore.Connection{Kind: test.kind, Status: test.status, Reason: test.reason}, time.Unix(1e9, 0))
		if !strings.Contains(got.Summary, test.says) || got.NextStep == "" || got.Action != test.do {
			t.Errorf("advise(%s, %s, %s) = %+v, want %q and to do %q", test.kind, test.status, test.reason, got, test.says, test.do)
		}
	}
}

func TestAdviceForExpiringKey(t *testing.T) {
	now := time.Unix(1e9, 0)
	c := credstore.Connection{Kind: credstore.StandaloneKey, Status: credstore.Active, ExpiresAt: now.Add(5*24*time.Hour + time.Hour)}
	if got := advise(c, now); !strings.Contains(got.Summary, "ends in 5 days") || got.Action != actionKey {
		t.Errorf("advise = %+v, want that it ends in 5 days and a new key", got)
	}
	c.ExpiresAt = now.Add(-3 * 24 * time.Hour)
	if got := advise(c, now); !strings.Contains(got.Summary, "was to end 3 days ago") || got.Action != actionKey {
		t.Errorf("advise = %+v, want that it was to end 3 days ago and a new key", got)
	}
}

// TestAdviceForExportedConnection: a link of a connection that is disabled
// leads nowhere.
func TestAdviceForExportedConnection(t *testing.T) {
	next := advise(credstore.Connection{Kind: credstore.OAuth, Status: credstore.Disabled, Reason: credstore.ReasonExported}, time.Unix(1e9, 0)).NextStep
	enable, link := strings.Index(next, "enable"), strings.Index(next, "connect link")
	if enable < 0 || link < enable {
		t.Errorf("the advice is %q, want to enable it before a connect link", next)
	}
}

// TestEveryEventHasLabel goes through the types that the store's package
// declares, so that none is forgotten.
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
		words := eventLabel(credstore.EventType(name))
		if strings.ContainsAny(words, "_.") || words[:1] != strings.ToUpper(words[:1]) {
			t.Errorf("eventInWords(%q) = %q, want a sentence", name, words)
		}
		return true
	})
	if types < 20 {
		t.Errorf("%d types of events were found, want all", types)
	}
}

func TestRelativeTime(t *testing.T) {
	now := time.Unix(1e9, 0)
	for d, want := range map[time.Duration]string{
		-10 * time.Second: "just now", -time.Minute: "1 minute ago", -3 * time.Hour: "3 hours ago", -800 * 24 * time.Hour: "2 years ago",
		30 * time.Second: "within a minute", 90 * time.Minute: "in 1 hour", 48 * time.Hour: "in 2 days", 7*24*time.Hour - time.Second: "in 7 days",
	} {
		if got := relativeTime(now.Add(d), now); got != want {
			t.Errorf("ago(%v) = %q, want %q", d, got, want)
		}
	}
	if got := formatCount(1234567); got != "1,234,567" {
		t.Errorf("grouped = %q, want 1,234,567", got)
	}
}

// TestAdviceWithoutConnectLinks before that can be done.
func TestAdviceWithoutConnectLinks(t *testing.T) {
	c := credstore.Connection{Kind: credstore.OAuth, Status: credstore.Pending, Reason: credstore.ReasonNoCredential}
	for links, do := range map[bool]string{true: actionLink, false: ""} {
		a := newAdmin(t, &memoryStore{}, func(config *Config) { config.Links = links })
		got := a.advise(c)
		if got.Action != do || strings.Contains(got.NextStep, "connect.public_url") == links {
			t.Errorf("with pages for customers %v, advise = %+v, want to do %q", links, got, do)
		}
	}
	c.Kind = credstore.IntegratedKey
	if got := newAdmin(t, &memoryStore{}, nil).advise(c); got.Action != actionKey {
		t.Errorf("advise for a key = %+v, want that it is entered here", got)
	}
}
