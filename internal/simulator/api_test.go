package simulator

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"
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

func TestIntrospectTellsKeys(t *testing.T) {
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
	company := b.grant(GrantRequest{Company: mine.ID, Scopes: []string{"users:read"}})
	organisation := b.grant(GrantRequest{Organisation: mine.OrganisationID})
	tests := []struct {
		name, path, token string
		want              int
	}{
		{"in scope", "/v2/employees", company.AccessToken, 200},
		{"out of scope", "/v1/companies", company.AccessToken, 403},
		{"own company", "/v2/employees?companyId=" + mine.ID, company.AccessToken, 200},
		{"foreign company", "/v2/employees?companyId=" + other.ID, company.AccessToken, 403},
		{"foreign company in the other spelling", "/v1/installations/me?company_id=" + other.ID, company.AccessToken, 403},
		{"unknown company", "/v2/employees?companyId=x", company.AccessToken, 403},
		{"own organisation", "/v1/companies?organization_id=" + mine.OrganisationID, organisation.AccessToken, 200},
		{"foreign organisation", "/v1/companies?organization_id=" + other.OrganisationID, organisation.AccessToken, 403},
		{"company of the organisation", "/v1/companies/" + mine.ID, organisation.AccessToken, 200},
		{"company of another", "/v1/companies/" + other.ID, organisation.AccessToken, 403},
		{"no such company", "/v1/companies/x", organisation.AccessToken, 404},
		{"no such call", "/v9/nothing", organisation.AccessToken, 404},
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
	if got := b.Counters().WrongCompany; got != 5 {
		t.Errorf("wrong companies = %d, want 5", got)
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

func TestErrorBodies(t *testing.T) {
	for style, want := range map[string]string{"exception_info": `{"type":"`, "empty": "", "plain": "JWT is expired"} {
		b := newEnv(t, Settings{API: APISettings{UnauthorizedBody: style, ForbiddenBody: style, WWWAuthenticate: style == "plain"}})
		a := b.api("GET", "/v1/introspect", "", "dead")
		if a.status != 401 || !strings.HasPrefix(a.body, want) || (want == "" && a.body != "") {
			t.Errorf("%s: 401 body = %q, want %q", style, a.body, want)
		}
		if got := a.header.Get("WWW-Authenticate") != ""; got != (style == "plain") {
			t.Errorf("%s: WWW-Authenticate present = %v", style, got)
		}
		forbidden := b.api("GET", "/v2/employees", "", b.grant(GrantRequest{Scopes: []string{"test:test"}}).AccessToken)
		if forbidden.status != 403 || (forbidden.body == "") != (style == "empty") {
			t.Errorf("%s: 403 = %d %q", style, forbidden.status, forbidden.body)
		}
	}
}

func TestEveryAnswerHasItsOwnRequestID(t *testing.T) {
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
		t.Errorf("page before place 40 ends at %q, want %q", got, cursor(39))
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
	b.wantStatus(b.api("GET", "/v2/employees/nobody", "", token), 404)
	foreign := b.grant(GrantRequest{}).AccessToken
	b.wantStatus(b.api("GET", "/v2/employees/"+id, "", foreign), 404)
}

func TestInstallationOfAKey(t *testing.T) {
	b := newEnv(t, Settings{API: APISettings{UninstallRevokesKey: true}})
	auth := []string{"Authorization", basicOf(b.key(Key{}).Value, "")}
	steps := []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/v1/installations/me", "", 404, ""},
		{"PUT", "/v1/installations/me", `{"status":"ACTIVATED"}`, 404, ""},
		{"POST", "/v1/installations/me:activate", "", 404, ""},
		{"POST", "/v1/installations/me", "", 200, "AUTHORIZED"},
		{"PUT", "/v1/installations/me", `{"status":"ERROR","errorCode":"AUTH_ERROR"}`, 200, "ERROR"},
		{"PUT", "/v1/installations/me", `{"status":"NONSENSE"}`, 400, ""},
		{"PUT", "/v1/installations/me", `{`, 400, ""},
		{"POST", "/v1/installations/me:activate", "", 200, "ACTIVATED"},
		{"PUT", "/v1/installations/completions", "", 200, "ACTIVATED"},
		{"DELETE", "/v1/installations/me", "", 204, ""},
		{"GET", "/v1/installations/me", "", 401, ""},
	}
	for _, s := range steps {
		a := b.must(s.method, s.path, s.body, auth...)
		if a.status != s.status || a.text("status") != s.want {
			t.Fatalf("%s %s %s = %d %s, want %d %s", s.method, s.path, s.body, a.status, a.body, s.status, s.want)
		}
	}
}

func TestUninstallRevokesTheTokens(t *testing.T) {
	b := newEnv(t, Settings{API: APISettings{NeedsActivation: true}})
	g, other := b.grant(GrantRequest{}), b.grant(GrantRequest{})
	if got := b.api("GET", "/v1/installations/me", "", g.AccessToken).text("status"); got != "AUTHORIZED" {
		t.Errorf("status = %q before the activation, want AUTHORIZED", got)
	}
	b.wantStatus(b.api("DELETE", "/v1/installations/me", "", g.AccessToken), 204)
	b.wantToken(g.AccessToken, http.StatusUnauthorized)
	b.wantStatus(b.refresh(g.RefreshToken), http.StatusBadRequest)
	b.wantToken(other.AccessToken, http.StatusOK)
}

func TestNoInstallationStatus(t *testing.T) {
	b := newEnv(t, Settings{API: APISettings{NoInstallationStatus: 400}})
	auth := basicOf(b.key(Key{}).Value, "")
	b.wantStatus(b.must("GET", "/v1/installations/me", "", "Authorization", auth), 400)
}

func TestExportJob(t *testing.T) {
	b := newEnv(t, Settings{})
	g := b.grant(GrantRequest{})
	job := b.api("GET", "/v3/export-jobs?statuses=pending&statuses=failed", "", g.AccessToken).member("data").([]any)[0].(map[string]any)
	id := job["id"].(string)
	items := "/v3/export-jobs/" + id + "/items"
	entry := b.api("GET", items+"?limit=1", "", g.AccessToken).member("data").([]any)[0].(map[string]any)["accountingEntryId"].(string)
	event := func(name string) string { return `{"jobId":"` + id + `","event":"` + name + `"}` }
	steps := []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/v3/export-jobs", `{"companyId":"` + g.Company + `"}`, 409, "EXPORT_ALREADY_IN_PROGRESS"},
		{"POST", "/v3/export-jobs", `{"companyId":"` + b.Companies()[0].ID + `"}`, 403, "ACCESS_DENIED"},
		{"POST", "/v3/export-job-events", event("completed"), 422, "INVALID_EXPORT_JOB_STATUS_CHANGE"},
		{"POST", "/v3/export-job-events", event("started"), 202, ""},
		{"GET", "/v3/export-items?job_id=" + id, "", 200, ""},
		{"PUT", items, `[{"accountingEntryId":"` + entry + `","status":"successful","externalId":"7"}]`, 200, ""},
		{"PUT", items, "[" + strings.Repeat("{},", 100) + "{}]", 413, "EXPORT_JOB_ITEMS_UPDATE_LIMIT"},
		{"POST", "/v3/export-job-events", event("completed_with_errors"), 202, ""},
		{"PUT", items, `[]`, 422, "EXPORT_JOB_STATUS_UNPROCESSABLE"},
		{"GET", "/v3/export-items?job_id=" + id, "", 422, "EXPORT_JOB_STATUS_UNPROCESSABLE"},
		{"POST", "/v3/export-jobs", `{"companyId":"` + g.Company + `","accountingEntryIds":["a"]}`, 201, ""},
		{"GET", "/v3/export-jobs/unknown", "", 404, "EXPORT_NOT_FOUND"},
		{"POST", "/v3/export-job-events", "{", 400, "JSON_MAPPING_EXCEPTION"},
	}
	for _, s := range steps {
		a := b.api(s.method, s.path, s.body, g.AccessToken)
		if a.status != s.status || a.text("type") != s.want {
			t.Fatalf("%s %s %s = %d %s, want %d %s", s.method, s.path, s.body, a.status, a.body, s.status, s.want)
		}
	}
	abandoned := b.api("GET", items+"?status=abandoned", "", g.AccessToken)
	if got := len(abandoned.member("data").([]any)); got != 4 {
		t.Errorf("abandoned items = %d, want the 4 that were not exported", got)
	}
}

func TestExportJobExpires(t *testing.T) {
	b := newEnv(t, Settings{OAuth: OAuthSettings{AccessTokenLifetime: Duration(3 * time.Hour)}})
	token := b.grant(GrantRequest{}).AccessToken
	job := b.api("GET", "/v3/export-jobs", "", token).member("data").([]any)[0].(map[string]any)
	path := "/v3/export-jobs/" + job["id"].(string)
	b.wantStatus(b.api("POST", "/v3/export-job-events", `{"jobId":"`+job["id"].(string)+`","event":"started"}`, token), 202)
	b.advance(time.Hour - time.Second)
	if got := b.api("GET", path, "", token).text("data.status"); got != "in_progress" {
		t.Errorf("status = %q within the hour, want in_progress", got)
	}
	b.advance(time.Second)
	a := b.api("GET", path, "", token)
	if a.text("data.status") != "failed" || a.text("data.failureReasonType") != "job_expired" {
		t.Errorf("job after an hour = %s, want it failed with job_expired", a.body)
	}
}

func TestEnrich(t *testing.T) {
	b := newEnv(t, Settings{})
	token := b.grant(GrantRequest{}).AccessToken
	good := "currency=DKK&merchant_name=Kaffe&performed_at=2026-03-01T10:00:00Z&card_last_four_digits=1234&amount="
	tests := []struct {
		name, query, body string
		want              int
	}{
		{"attached", good + "1501", `{"receipts":["JVBERi0="]}`, 201},
		{"inbox", good + "1500", `{"receipts":["JVBERi0="]}`, 200},
		{"later", good + "1509", `{"receipts":[]}`, 202},
		{"no such card", strings.Replace(good, "1234", "0000", 1) + "1501", `{"receipts":[]}`, 404},
		{"no amount", good, `{"receipts":[]}`, 400},
		{"no time", strings.Replace(good, "performed_at", "x", 1) + "1501", `{"receipts":[]}`, 400},
		{"not base64", good + "1501", `{"receipts":["%"]}`, 400},
		{"not JSON", good + "1501", `receipt`, 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b.wantStatus(b.api("POST", "/v2/accounting-entries:enrich?"+tt.query, tt.body, token), tt.want)
		})
	}
}
