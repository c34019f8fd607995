package simulator

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
)

func basicOf(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestCredentials(t *testing.T) {
	b := newEnv(t, Settings{})
	g := b.grant(GrantRequest{})
	standalone, integrated := b.key(Key{}), b.key(Key{Kind: IntegratedKey})
	revoked := b.key(Key{})
	if err := b.RevokeKey(revoked.ID); err != nil {
		t.Fatal(err)
	}
	expired := b.key(Key{ExpiresAt: b.clock()})
	tests := []struct {
		name   string
		fields []string
		want   int
	}{
		{"token", []string{"Bearer " + g.AccessToken}, 200},
		{"token, scheme in capitals", []string{"BEARER " + g.AccessToken}, 200},
		{"standalone key", []string{basicOf(standalone.Value, "")}, 200},
		{"integrated key", []string{basicOf(integrated.Value, "")}, 200},
		{"nothing", nil, 401},
		{"key as bearer", []string{"Bearer " + standalone.Value}, 401},
		{"key not encoded", []string{"Basic " + standalone.Value}, 401},
		{"key without colon", []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(standalone.Value))}, 401},
		{"key with password", []string{basicOf(standalone.Value, "x")}, 401},
		{"id of a key", []string{basicOf(standalone.ID, "")}, 401},
		{"token as key", []string{basicOf(g.AccessToken, "")}, 401},
		{"refresh token", []string{"Bearer " + g.RefreshToken}, 401},
		{"revoked key", []string{basicOf(revoked.Value, "")}, 401},
		{"expired key", []string{basicOf(expired.Value, "")}, 401},
		{"two", []string{"Bearer " + g.AccessToken, "Bearer " + g.AccessToken}, 401},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var header []string
			for _, f := range tt.fields {
				header = append(header, "Authorization", f)
			}
			for _, path := range []string{"/v1/introspect", "/echo"} {
				if a := b.must("GET", path, "", header...); a.status != tt.want {
					t.Errorf("GET %s = %d, want %d", path, a.status, tt.want)
				}
			}
		})
	}
	if got := b.Counters().AuthorizationNotOnce; got != 4 {
		t.Errorf("requests with no or two Authorization fields = %d, want 4", got)
	}
}

func TestIntrospectDescribesKeys(t *testing.T) {
	b := newEnv(t, Settings{})
	k := b.key(Key{Scopes: []string{"users:read"}})
	a := b.must("GET", "/v1/introspect", "", "Authorization", basicOf(k.Value, ""))
	if a.text("data.authMethod") != "API_KEY" || a.text("data.scope") != "users:read" || a.text("data.subjectURN") != "urn:pleo:company:"+k.Company {
		t.Errorf("GET /v1/introspect = %s, want an API_KEY of company %s", a.body, k.Company)
	}
}

func TestScopesAndCompanies(t *testing.T) {
	b := newEnv(t, Settings{})
	mine, other := b.Companies()[0], b.Companies()[1]
	narrow := b.grant(GrantRequest{Company: mine.ID, Scopes: []string{"users:read"}})
	wide := b.grant(GrantRequest{Company: mine.ID})
	tests := []struct {
		name, path, token string
		want              int
	}{
		{"in scope", "/v2/employees", narrow.AccessToken, 200},
		{"out of scope", "/v1/companies", narrow.AccessToken, 403},
		{"own company", "/v2/employees?companyId=" + mine.ID, narrow.AccessToken, 200},
		{"foreign company", "/v2/employees?companyId=" + other.ID, narrow.AccessToken, 403},
		{"foreign company in the other spelling", "/v1/installations/me?company_id=" + other.ID, narrow.AccessToken, 403},
		{"unknown company", "/v2/employees?companyId=x", narrow.AccessToken, 403},
		{"own record", "/v1/companies/" + mine.ID, wide.AccessToken, 200},
		{"foreign record", "/v1/companies/" + other.ID, wide.AccessToken, 403},
		{"no such company", "/v1/companies/x", wide.AccessToken, 404},
		{"no such endpoint", "/v9/nothing", wide.AccessToken, 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := b.api("GET", tt.path, "", tt.token)
			b.wantStatus(a, tt.want)
			if tt.want >= 400 && (a.text("type") == "" || a.text("message") == "") {
				t.Errorf("error body = %s, want type and message", a.body)
			}
		})
	}
	if got := b.Counters().WrongCompany; got != 4 {
		t.Errorf("wrong companies = %d, want 4", got)
	}
}

func TestExpectedCompanyIsCounted(t *testing.T) {
	b := newEnv(t, Settings{})
	g := b.grant(GrantRequest{})
	b.wantStatus(b.api("GET", "/echo", "", g.AccessToken, ExpectCompanyHeader, g.Company), 200)
	b.wantStatus(b.api("GET", "/echo", "", g.AccessToken, ExpectCompanyHeader, b.Companies()[0].ID), 200)
	c := b.Counters()
	if c.WrongCompany != 1 || c.Grants[g.ID].WrongCompany != 1 {
		t.Errorf("wrong companies = %d, of the grant %d; want 1 and 1", c.WrongCompany, c.Grants[g.ID].WrongCompany)
	}
}

func TestUnauthorizedBodies(t *testing.T) {
	for style, want := range map[string]string{"exception_info": `{"type":"`, "empty": "", "plain": "JWT is expired"} {
		b := newEnv(t, Settings{API: APISettings{UnauthorizedBody: style}})
		a := b.api("GET", "/v1/introspect", "", "unknown")
		if a.status != 401 || !strings.HasPrefix(a.body, want) || (want == "" && a.body != "") {
			t.Errorf("%s: 401 body = %q, want %q", style, a.body, want)
		}
	}
}

func TestEveryResponseHasItsOwnRequestID(t *testing.T) {
	b := newEnv(t, Settings{})
	seen := map[string]bool{}
	for _, path := range []string{"/v1/introspect", "/v9/nothing", "/echo", "/oauth/authorize", "/oauth/nothing", "/v1/introspect"} {
		id := b.must("GET", path, "").header.Get("request-Id")
		if id == "" || seen[id] {
			t.Errorf("GET %s: request-Id = %q, want a new one", path, id)
		}
		seen[id] = true
	}
}

func TestPaging(t *testing.T) {
	b := newEnv(t, Settings{Companies: []Company{{Name: "Big", Employees: 45}}})
	token := b.grant(GrantRequest{Company: "Big"}).AccessToken
	seen := map[string]bool{}
	query, pages := "?limit=20", 0
	for query != "" {
		a := b.api("GET", "/v2/employees"+query, "", token)
		b.wantStatus(a, http.StatusOK)
		for _, e := range a.member("data").([]any) {
			seen[e.(map[string]any)["id"].(string)] = true
		}
		pages++
		query = ""
		if a.member("pagination.hasNextPage") == true {
			query = "?limit=20&after=" + a.text("pagination.endCursor")
		}
	}
	if len(seen) != 45 || pages != 3 {
		t.Errorf("%d employees on %d pages, want 45 on 3", len(seen), pages)
	}
}

func TestPagingBackwards(t *testing.T) {
	b := newEnv(t, Settings{Companies: []Company{{Name: "Big", Employees: 45}}})
	token := b.grant(GrantRequest{Company: "Big"}).AccessToken
	last := b.api("GET", "/v2/employees?offset=40", "", token)
	before := b.api("GET", "/v2/employees?limit=5&before="+last.text("pagination.startCursor"), "", token)
	if got := before.text("pagination.endCursor"); got != cursor(39) {
		t.Errorf("page before position 40 ends at %q, want %q", got, cursor(39))
	}
	if before.member("pagination.hasPreviousPage") != true || before.member("pagination.hasNextPage") != true {
		t.Errorf("pagination = %v, want pages on both sides", before.member("pagination"))
	}
}

func TestBadPaging(t *testing.T) {
	b := newEnv(t, Settings{})
	token := b.grant(GrantRequest{}).AccessToken
	for _, query := range []string{"limit=0", "limit=101", "limit=x", "after=nonsense", "before=GA", "offset=-1", "after=GA======~&offset=1"} {
		a := b.api("GET", "/v2/employees?"+query, "", token)
		if a.status != 400 || a.text("type") != "PARAMETER_VALIDATION_FAILED" {
			t.Errorf("%s: %d %s, want 400 PARAMETER_VALIDATION_FAILED", query, a.status, a.body)
		}
	}
}

func TestEmployees(t *testing.T) {
	b := newEnv(t, Settings{})
	token := b.grant(GrantRequest{}).AccessToken
	found := b.api("GET", "/v2/employees?code=E0003", "", token).member("data").([]any)
	if len(found) != 1 {
		t.Fatalf("employees with code E0003 = %d, want 1", len(found))
	}
	id := found[0].(map[string]any)["id"].(string)
	if a := b.api("GET", "/v2/employees/"+id, "", token); a.text("data.code") != "E0003" {
		t.Errorf("GET /v2/employees/{id} = %s, want E0003", a.body)
	}
	b.wantStatus(b.api("GET", "/v2/employees/unknown", "", token), 404)
	foreign := b.grant(GrantRequest{}).AccessToken
	b.wantStatus(b.api("GET", "/v2/employees/"+id, "", foreign), 404)
}

func TestUninstallRevokesTheTokens(t *testing.T) {
	b := newEnv(t, Settings{})
	g, other := b.grant(GrantRequest{}), b.grant(GrantRequest{})
	if got := b.api("GET", "/v1/installations/me", "", g.AccessToken).text("status"); got != "ACTIVATED" {
		t.Errorf("status = %q, want ACTIVATED", got)
	}
	b.wantStatus(b.api("DELETE", "/v1/installations/me", "", g.AccessToken), 204)
	key := basicOf(b.key(Key{Company: g.Company}).Value, "")
	for _, method := range []string{"GET", "DELETE"} {
		b.wantStatus(b.must(method, "/v1/installations/me", "", "Authorization", key), 404)
	}
	b.wantToken(g.AccessToken, http.StatusUnauthorized)
	b.wantStatus(b.refresh(g.RefreshToken), http.StatusBadRequest)
	b.wantToken(other.AccessToken, http.StatusOK)
}
