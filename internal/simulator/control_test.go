package simulator

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// control sends a request to the control endpoint and decodes the response into
// into, unless that is nil.
func (b *env) control(method, path, body string, wantStatus int, into any) {
	b.t.Helper()
	a := b.must(method, "/_control/"+path, body)
	if a.status != wantStatus {
		b.t.Fatalf("%s %s %s = %d %s, want %d", method, path, body, a.status, a.body, wantStatus)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal([]byte(a.body), into); err != nil {
		b.t.Fatalf("reading %s: %v", a.body, err)
	}
}

func TestControlGrants(t *testing.T) {
	b := newEnv(t, Settings{})
	var company Company
	b.control("POST", "companies", `{"name":"Acme"}`, 200, &company)
	var g Grant
	b.control("POST", "grants", `{"company":"Acme","access_token_lifetime":"4s","scopes":["users:read"]}`, 200, &g)
	if g.Company != company.ID || g.CompanyName != "Acme" || g.Scope != "users:read" || !g.ExpiresAt.Equal(b.clock().Add(4*time.Second)) {
		t.Errorf("grant = %+v, want one of 4 s for Acme", g)
	}
	b.wantToken(g.AccessToken, 200)
	next := b.mustRefresh(g.RefreshToken)
	var grants []GrantState
	b.control("GET", "grants", "", 200, &grants)
	if len(grants) != 1 || !grants[0].Live || grants[0].ActiveRefreshTokens != 1 {
		t.Errorf("grants = %+v, want one live", grants)
	}
	b.control("DELETE", "grants/"+g.ID, "", 204, nil)
	b.control("DELETE", "grants/"+g.ID, "", 404, nil)
	b.wantStatus(b.refresh(next), 400)
}

func TestControlGrantWithoutBodyAddsACompany(t *testing.T) {
	b := newEnv(t, Settings{})
	before := len(b.Companies())
	var g Grant
	b.control("POST", "grants", "", 200, &g)
	if got := len(b.Companies()); got != before+1 || g.Company != b.Companies()[before].ID {
		t.Errorf("%d companies, grant for %s; want a new one", got, g.Company)
	}
}

func TestControlKeys(t *testing.T) {
	b := newEnv(t, Settings{Companies: []Company{{Name: "Acme"}}})
	var integrated, standalone Key
	b.control("POST", "keys", `{"kind":"integrated_key","company":"Acme"}`, 200, &integrated)
	b.control("POST", "keys", `{"company":"Acme","expires_in":"1h"}`, 200, &standalone)
	if !strings.HasPrefix(standalone.Value, "pls_") || !standalone.ExpiresAt.Equal(b.clock().Add(time.Hour)) {
		t.Errorf("key = %+v, want a pls_ key for an hour", standalone)
	}
	wantKey := func(k Key, want int) {
		t.Helper()
		b.wantStatus(b.must("GET", "/v1/introspect", "", "Authorization", basicOf(k.Value, "")), want)
	}
	wantKey(integrated, 200)
	wantKey(standalone, 200)
	b.advance(time.Hour)
	wantKey(standalone, 401)
	b.control("DELETE", "keys/"+integrated.ID, "", 204, nil)
	wantKey(integrated, 401)
	b.control("DELETE", "keys/nothing", "", 404, nil)
	if got := b.Counters().Keys[integrated.ID].APIRequests["200"]; got != 1 {
		t.Errorf("good requests with the integrated key = %d, want 1", got)
	}
}

func TestControlKillsAccessTokens(t *testing.T) {
	for name, selection := range map[string]func(Grant) string{
		"one grant":   func(g Grant) string { return `{"grant":"` + g.ID + `"}` },
		"one company": func(g Grant) string { return `{"company_id":"` + g.Company + `"}` },
	} {
		b := newEnv(t, Settings{})
		g, other := b.grant(GrantRequest{}), b.grant(GrantRequest{})
		var killed struct{ Tokens int }
		b.control("POST", "access-tokens/kill", selection(g), 200, &killed)
		if killed.Tokens != 1 {
			t.Errorf("%s: killed %d tokens, want 1", name, killed.Tokens)
		}
		b.wantToken(g.AccessToken, 401)
		b.wantToken(other.AccessToken, 200)
		b.mustRefresh(g.RefreshToken)
		b.control("POST", "access-tokens/kill", "{}", 200, &killed)
		if killed.Tokens != 2 {
			t.Errorf("killed %d tokens of all, want 2", killed.Tokens)
		}
	}
}

func TestControlRevokes(t *testing.T) {
	b := newEnv(t, Settings{})
	var grants []Grant
	for range 4 {
		grants = append(grants, b.grant(GrantRequest{}))
	}
	for i, step := range []struct {
		body string
		want int
	}{{`{"grant":"g1"}`, 1}, {`{"company_id":"` + grants[1].Company + `"}`, 1}, {"{}", 2}} {
		var got struct{ Grants int }
		b.control("POST", "grants/revoke", step.body, 200, &got)
		if got.Grants != step.want {
			t.Errorf("%s revoked %d grants, want %d", step.body, got.Grants, step.want)
		}
		b.wantToken(grants[i].AccessToken, 401)
	}
	b.control("POST", "grants/revoke", `{"grant":"g1"}`, 404, nil)
}

func TestControlExpiresRefreshTokens(t *testing.T) {
	b := newEnv(t, Settings{})
	g := b.grant(GrantRequest{})
	b.control("POST", "refresh-tokens/expire", `{"grant":"`+g.ID+`"}`, 200, nil)
	b.wantToken(g.AccessToken, 200)
	b.wantStatus(b.refresh(g.RefreshToken), 400)
	b.wantToken(g.AccessToken, 401) // the expired refresh token revoked the grant
}

func TestControlFaults(t *testing.T) {
	b := newEnv(t, Settings{})
	var f Fault
	b.control("POST", "faults", `{"kind":"status","status":503,"target":"api"}`, 200, &f)
	b.wantStatus(b.must("GET", "/v1/introspect", ""), 503)
	var all []Fault
	b.control("GET", "faults", "", 200, &all)
	if diff := cmp.Diff([]Fault{f}, all); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
	b.control("DELETE", "faults/"+f.ID, "", 204, nil)
	b.control("DELETE", "faults/"+f.ID, "", 404, nil)
	b.wantStatus(b.must("GET", "/v1/introspect", ""), 401)
	b.control("POST", "faults", `{"kind":"explode"}`, 400, nil)
	b.control("POST", "faults", `{"kind":"drop","typo":1}`, 400, nil)
	b.control("DELETE", "faults", "", 204, nil)
}

func TestControlCounters(t *testing.T) {
	b := newEnv(t, Settings{})
	g := b.grant(GrantRequest{})
	next := b.mustRefresh(g.RefreshToken)
	b.introspect(next)
	b.refresh(g.RefreshToken)
	b.wantToken(g.AccessToken, 401)
	b.introspect("unknown")
	var got Counters
	b.control("GET", "counters", "", 200, &got)
	want := Counters{
		TokenRequests: map[string]int{"200": 1, "400": 1}, Introspections: map[string]int{"200": 2}, APIRequests: map[string]int{"401": 1},
		Refreshes: 1, Rejections: 1, MaxTimesSent: 2, APIIntrospections: 1,
		RefreshTokens: map[string]TokenCounters{
			hashOf(g.RefreshToken): {Grant: g.ID, State: "used", TimesSent: 2},
			hashOf(next):           {Grant: g.ID, State: "revoked", Introspections: 1},
			hashOf("unknown"):      {State: "unknown", Introspections: 1},
		},
		Grants: map[string]GrantCounters{g.ID: {
			RefreshTokensSent: 2, Refreshes: 1, Introspections: 1, APIRequests: map[string]int{"401": 1},
			MaxRefreshesInFlight: 1, MaxAPIInFlight: 1,
		}},
		Keys: map[string]GrantCounters{},
	}
	unexported := cmp.FilterPath(func(p cmp.Path) bool {
		return strings.Contains(p.String(), "InFlight") && !strings.Contains(p.String(), "Most")
	}, cmp.Ignore())
	if diff := cmp.Diff(want, got, unexported, cmp.AllowUnexported(GrantCounters{})); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	b.control("DELETE", "counters", "", 204, nil)
	if c := b.Counters(); c.MaxTimesSent != 0 || len(c.RefreshTokens) != 0 || len(c.TokenRequests) != 0 {
		t.Errorf("counters after the reset = %+v, want none", c)
	}
}

func TestControlIsForLocalPrograms(t *testing.T) {
	sim, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, remote, origin string
		want                 int
	}{
		{"loopback", "127.0.0.1:1000", "", 200},
		{"loopback IPv6", "[::1]:1000", "", 200},
		{"in memory", "pipe", "", 200},
		{"network", "192.0.2.1:1000", "", 403},
		{"web page", "127.0.0.1:1000", "http://evil.example", 403},
	}
	for _, tt := range tests {
		r := httptest.NewRequest("GET", "/_control/grants", nil)
		r.RemoteAddr = tt.remote
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		w := httptest.NewRecorder()
		sim.Handler().ServeHTTP(w, r)
		if w.Code != tt.want {
			t.Errorf("%s: status = %d, want %d", tt.name, w.Code, tt.want)
		}
	}
}

func TestUnknownThings(t *testing.T) {
	b := newEnv(t, Settings{})
	for _, body := range []string{`{"company":"unknown"}`, `{"client_id":"unknown"}`} {
		b.control("POST", "grants", body, http.StatusNotFound, nil)
	}
	b.control("POST", "keys", `{"company":"unknown"}`, http.StatusNotFound, nil)
	b.control("POST", "keys", `{"kind":"golden","company":"x"}`, http.StatusBadRequest, nil)
	b.control("POST", "companies", `{"name":"`+b.Companies()[0].Name+`"}`, http.StatusBadRequest, nil)
}

func TestSettingsMistakesAreReportedAtOnce(t *testing.T) {
	_, err := New(Config{Settings: Settings{
		Latency: -1, API: APISettings{UnauthorizedBody: "loud"},
		OAuth: OAuthSettings{ClientAuth: []string{"guess"}, Omit: []string{"access_token"}, RejectionStatus: 200},
	}})
	if err == nil {
		t.Fatal("New succeeded")
	}
	for _, part := range []string{"latency", "api.unauthorized_body", "oauth.client_auth", "oauth.omit", "oauth.rejection_status"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not name %s", err, part)
		}
	}
}

func TestDirectoryMistakesAreReported(t *testing.T) {
	for name, s := range map[string]Settings{
		"two companies with one name": {Companies: []Company{{Name: "A"}, {Name: "A"}}},
		"client without id":           {Clients: []Client{{Secret: "s"}}},
		"key of an unknown company":   {Keys: []Key{{Company: "unknown"}}},
	} {
		if _, err := New(Config{Settings: s}); err == nil {
			t.Errorf("%s: New succeeded", name)
		}
	}
}

func TestExampleSettingsShowEveryMember(t *testing.T) {
	s, err := ReadSettings(strings.NewReader(ExampleSettings()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Settings: s}); err != nil {
		t.Fatal(err)
	}
	for _, part := range []any{s, s.OAuth, s.API, s.Companies[0], s.Clients[0], s.Keys[0]} {
		typ := reflect.TypeOf(part)
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if !strings.Contains(ExampleSettings(), `"`+name+`":`) {
				t.Errorf("the example does not contain %s of %s", name, typ.Name())
			}
		}
	}
}

func TestReadSettingsIsStrict(t *testing.T) {
	for _, text := range []string{`{"typo":1}`, `{"latency":"soon"}`, `{"latency":[]}`, `{} {}`, ``} {
		if _, err := ReadSettings(bytes.NewBufferString(text)); err == nil {
			t.Errorf("ReadSettings(%q) succeeded", text)
		}
	}
}

func TestCompaniesAreTheSameInEveryRun(t *testing.T) {
	if diff := cmp.Diff(newEnv(t, Settings{}).Companies(), newEnv(t, Settings{}).Companies()); diff != "" {
		t.Errorf("companies differ between runs:\n%s", diff)
	}
}
