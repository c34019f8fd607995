//go:build browser

package dashboard

import (
	"context"
	"fmt"
	"math"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/browsertest"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage/managetest"
)

// busyStore returns a store with many connections.
func busyStore(now time.Time) *managetest.Store {
	store := &managetest.Store{}
	companies := []string{"Acme GmbH", "Globex Corporation", "Initech Ltd", "Umbrella ApS", "Hooli Inc.", "Stark Industries", "Wayne Enterprises"}
	for i := range 130 {
		name := companies[i%len(companies)]
		store.Connections = append(store.Connections, credstore.Connection{
			ID: fmt.Sprint(i), Name: fmt.Sprintf("%s-%03d", strings.ToLower(strings.Fields(name)[0]), i), Kind: credstore.Kinds()[i%3/2*2%3],
			Status: credstore.Active, CompanyName: name, CompanyID: fmt.Sprintf("%08d-0000-4000-8000-000000000000", i),
			ExternalTenant: fmt.Sprint(4700 + i), Scope: "users:read export:read", Version: int64(i%9 + 1),
			ExpiresAt: now.Add(time.Duration(i%55+1) * time.Minute), RefreshedAt: now.Add(-time.Duration(i%55+1) * time.Minute),
			CreatedAt: now.AddDate(0, -i%20, -i),
		})
	}
	for i, change := range map[int]credstore.Connection{
		3:  {Status: credstore.ReauthorizationRequired, Reason: credstore.ReasonRefreshTokenRejected, LastError: &credstore.Failure{Code: "refresh_token_rejected", Message: "the authorization server responded with 400 invalid_grant", At: now.Add(-40 * time.Minute)}},
		5:  {Status: credstore.ReauthorizationRequired, Reason: credstore.ReasonKeyRejected, LastError: &credstore.Failure{Code: "key_rejected", Message: "the API responds with 401 to the key", At: now.Add(-3 * time.Hour)}},
		11: {Status: credstore.Degraded, Reason: credstore.ReasonUnavailable, LastError: &credstore.Failure{Code: "authorization_server_unreachable", Message: "dialing: connection rejected", At: now.Add(-2 * time.Minute)}},
		20: {Status: credstore.Disabled, Reason: credstore.ReasonOperator},
		31: {Status: credstore.Pending, Reason: credstore.ReasonNoCredential},
	} {
		c := &store.Connections[i]
		c.Status, c.Reason, c.LastError = change.Status, change.Reason, change.LastError
		if change.Reason == credstore.ReasonKeyRejected {
			c.Kind = credstore.StandaloneKey
		} else {
			c.Kind = credstore.OAuth
		}
		if change.Status == credstore.Pending {
			c.Version, c.CompanyID, c.CompanyName, c.Scope, c.ExpiresAt, c.RefreshedAt = 0, "", "", "", time.Time{}, time.Time{}
		}
	}
	slices.SortFunc(store.Connections, func(a, b credstore.Connection) int { return strings.Compare(a.Name, b.Name) })
	for i := range 60 {
		store.Recorded = append(store.Recorded, credstore.Event{
			ID: fmt.Sprintf("e%03d", i), ConnectionID: "3", Connection: "umbrella-003", Type: credstore.EventRefreshed,
			At: now.Add(time.Duration(i-60) * time.Hour), Actor: credstore.ActorProxy, Status: credstore.Active, Version: int64(i + 1),
		})
	}
	store.Recorded[0].Type, store.Recorded[0].Actor = credstore.EventConnected, credstore.ActorCustomer
	last := &store.Recorded[59]
	last.Type, last.Status, last.Reason = credstore.EventReauthorizationRequired, credstore.ReauthorizationRequired, credstore.ReasonRefreshTokenRejected
	last.Code, last.Message = "refresh_token_rejected", "the authorization server responded with 400 invalid_grant"
	store.Recorded = append(store.Recorded, credstore.Event{
		ID: "e060", ConnectionID: "gone", Connection: "initech", Type: credstore.EventConnected,
		At: now.Add(-300 * time.Hour), Actor: credstore.ActorCustomer, Status: credstore.Active, Version: 1,
	}, credstore.Event{
		ID: "e061", ConnectionID: "gone", Connection: "initech", Type: credstore.EventRemoved,
		At: now.Add(-2 * time.Hour), Actor: credstore.ActorDashboard, Status: credstore.Active, Version: 31,
	})
	return store
}

// busyDay returns a time series with a day of traffic.
func busyDay(now time.Time) *timeSeries {
	registry := prometheus.NewRegistry()
	program := newTraffic(registry)
	clock := now.Add(-time.Duration(maxSamples) * sampleInterval)
	s := &timeSeries{gatherer: registry, now: func() time.Time { return clock }}
	for i := range maxSamples {
		wave := 20 + int(15*math.Sin(float64(i)/40)) + i%7
		program.requests.WithLabelValues("200", "upstream").Add(float64(wave))
		program.requests.WithLabelValues("404", "upstream").Add(float64(i % 3))
		program.refreshes.WithLabelValues("refreshed", "ahead_of_expiry").Add(float64(i % 2))
		if i%50 < 4 {
			program.requests.WithLabelValues("503", "proxy").Add(3)
			program.refreshes.WithLabelValues("busy", "expired").Inc()
		}
		for request := range wave {
			program.duration.Observe(float64(request*request) / 1000)
		}
		clock = clock.Add(sampleInterval)
		s.record()
	}
	return s
}

// dashboardFor serves a dashboard on the store.
func dashboardFor(t *testing.T, store *managetest.Store) (address string) {
	t.Helper()
	now := time.Now()
	a := newTestDashboard(t, store, func(c *Config) {
		withLinks(c)
		c.Environment = "production"
		c.Health = func(context.Context) []Check {
			return []Check{{Name: "program"}, {Name: "store"}, {Name: "authorization server", Error: "dialing: connection refused"}}
		}
		c.TokenFile = "/var/lib/pleo-auth-proxy/admin-token"
		c.Operator.ReturnURLs = []string{"https://erp.example.com/pleo/connected"}
	})
	a.series = busyDay(now)
	server := httptest.NewServer(a.handler)
	t.Cleanup(server.Close)
	return server.URL
}

// TestBrowserPages inspects every page of the dashboard.
func TestBrowserPages(t *testing.T) {
	at := dashboardFor(t, busyStore(time.Now()))
	tab := browsertest.Start(t).Tab()
	tab.Open(at + "/sign-in?next=/")
	tab.Inspect("sign-in")
	tab.Fill("#token", "wrong")
	tab.Follow("main button")
	tab.WantText("The admin token is not correct.")
	tab.Inspect("sign-in-wrong")
	tab.Fill("#token", managetest.AdminToken)
	tab.Follow("main button")
	tab.WantText("Needs attention", "Pleo rejected the refresh token")
	for name, page := range map[string]string{
		"overview": "/", "overview-day": "/?period=24h", "list": "/connections", "list-filtered": "/connections?status=degraded&q=hooli",
		"list-empty": "/connections?q=nothing-like-it", "show-rejected": "/connections/umbrella-003", "show-active": "/connections/acme-000",
		"new": "/new", "confirm-link": "/connections/umbrella-003/link", "confirm-key": "/connections/stark-005/key",
		"confirm-remove": "/connections/umbrella-003/remove", "problem": "/connections/unknown",
		"removed": "/connections/initech",
	} {
		tab.Open(at + page)
		tab.Inspect(name)
	}
	tab.Open(at + "/connections/umbrella-003/check")
	tab.Follow("main form button")
	tab.WantText("Problems found.")
	tab.Inspect("check")
	tab.Open(at + "/connections/umbrella-003/link")
	tab.Follow("main form button")
	tab.Inspect("link")
	tab.Click("button[data-copies]")
	for _, url := range tab.Requested() {
		if !strings.HasPrefix(url, at) && !strings.HasPrefix(url, "data:") { // the browser's own
			t.Errorf("a page has loaded %s from another server", url)
		}
	}
}

// TestBrowserEmptyDashboard inspects the dashboard without connections, and
// creates the first one.
func TestBrowserEmptyDashboard(t *testing.T) {
	at := dashboardFor(t, &managetest.Store{})
	tab := browsertest.Start(t).Tab()
	tab.Open(at)
	tab.WantText("No connections yet.", "Sign in to make changes")
	tab.Inspect("overview-empty")
	tab.Follow("main section a[href='/new']")
	tab.Fill("#token", managetest.AdminToken)
	tab.Follow("main button")
	tab.Fill("#name", "acme")
	tab.Fill("#tenant", "4711")
	tab.Follow("main form button")
	tab.WantText("Connection acme was created.", "Create connect link", "External tenant")
	tab.Inspect("show-pending")
	tab.Reload()
	if strings.Contains(tab.Text(), "was created") {
		t.Error("the notice is shown twice")
	}
}

// TestBrowserKeyboard finds a connection and disables it, using only the
// keyboard.
func TestBrowserKeyboard(t *testing.T) {
	store := busyStore(time.Now())
	tab := browsertest.Start(t).Tab()
	tab.Open(dashboardFor(t, store) + "/sign-in?next=/connections")
	tab.TabTo("#token")
	tab.Type(managetest.AdminToken)
	tab.FollowByKeyboard()
	tab.TabTo("#q")
	tab.Type("globex-08")
	tab.FollowByKeyboard()
	tab.TabTo("td a, th a.name")
	tab.FollowByKeyboard()
	if got := tab.Heading(); !strings.HasPrefix(got, "globex-08") {
		t.Fatalf("the heading is %q, want a connection that was searched for", got)
	}
	tab.TabTo("a[href$='/disable']")
	tab.FollowByKeyboard()
	tab.WantText("Stops all requests and refreshes")
	tab.TabTo("main form button")
	tab.FollowByKeyboard()
	tab.WantText("The connection was disabled.")
}

// TestBrowserPhone searches, filters and turns pages on a phone.
func TestBrowserPhone(t *testing.T) {
	at := dashboardFor(t, busyStore(time.Now()))
	tab := browsertest.Start(t).Tab()
	tab.Phone()
	tab.Open(at + "/connections")
	first := tab.Text()
	tab.Follow("a[rel=next]")
	if second := tab.Text(); second == first || !strings.Contains(second, "First page") {
		t.Error("the next page is the first one")
	}
	tab.Choose("#status", "reauthorization_required")
	tab.Follow(".search button")
	tab.WantText("umbrella-003", "stark-005", "no longer accepts the API key")
	tab.Fill("#q", "umbrella")
	tab.Follow(".search button")
	if text := tab.Text(); strings.Contains(text, "stark-005") || !strings.Contains(text, "umbrella-003") {
		t.Errorf("the page does not show what was searched for:\n%s", text)
	}
}
