package simulator

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// route is one call of the API. Scope is what the credential must hold; empty:
// any credential will do.
type route struct {
	pattern string
	scope   string
	handle  func(*Simulator, call) response
}

func routes() []route {
	return []route{
		{introspectPattern, "", (*Simulator).getIntrospect},
		{"GET /v1/installations/me", "", (*Simulator).getInstallation},
		{"POST /v1/installations/me", "", (*Simulator).createInstallation},
		{"PUT /v1/installations/me", "", (*Simulator).updateInstallation},
		{"DELETE /v1/installations/me", "", (*Simulator).deleteInstallation},
		{"POST /v1/installations/me:activate", "", (*Simulator).activateInstallation},
		{"PUT /v1/installations/completions", "", (*Simulator).activateInstallation},
		{"GET /v2/employees", "users:read", (*Simulator).listEmployees},
		{"GET /v2/employees/{id}", "users:read", (*Simulator).getEmployee},
		{"GET /v1/companies", "companies:read", (*Simulator).listCompanies},
		{"GET /v1/companies/{id}", "companies:read", (*Simulator).getCompany},
		{"GET /v3/export-jobs", "export-jobs:read", (*Simulator).listExportJobs},
		{"POST /v3/export-jobs", "export-jobs:write", (*Simulator).createExportJob},
		{"GET /v3/export-jobs/{id}", "export-jobs:read", (*Simulator).getExportJob},
		{"GET /v3/export-jobs/{id}/items", "export-jobs:read", (*Simulator).listExportJobItems},
		{"PUT /v3/export-jobs/{id}/items", "export-jobs:write", (*Simulator).updateExportJobItems},
		{"POST /v3/export-job-events", "export-jobs:write", (*Simulator).createExportJobEvent},
		{"GET /v3/export-items", "export-items:read", (*Simulator).listExportItems},
		{"POST /v2/accounting-entries:enrich", "accounting-entries:write", (*Simulator).enrich},
		{"/", "", (*Simulator).notFound},
	}
}

// API serves the API of the package documentation's list, and /echo.
func (s *Simulator) API() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range routes() {
		mux.HandleFunc(rt.pattern, s.routeHandler(rt))
	}
	// Outside the mux, which would redirect the odd paths that /echo is for.
	echo := s.routeHandler(route{handle: (*Simulator).echo})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/echo" || strings.HasPrefix(r.URL.Path, "/echo/") {
			echo(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *Simulator) notFound(call) response {
	return exception(http.StatusNotFound, "NOT_FOUND", "no such call")
}

// call is one request to the API by a known credential.
type call struct {
	r      *http.Request
	query  url.Values
	caller caller
}

// caller is whom a credential stands for.
type caller struct {
	method      string // OAUTH2 or API_KEY, as /v1/introspect says it
	scheme      string // of the Authorization field
	clientID    string // the OAuth client, or the id of the key
	application string
	subject     subject
	scopes      []string
	grant       string // id; empty for keys
	key         string // id; empty for grants
}

// id names the grant or the key; empty: neither is known.
func (p caller) id() string { return p.grant + p.key }

// owner names whom installations belong to.
func (p caller) owner() installationOwner { return installationOwner{p.clientID, p.subject} }

const introspectPattern = "GET /v1/introspect"

// routeHandler makes a handler of a route: it finds the credential, lets the faults
// act and counts.
func (s *Simulator) routeHandler(rt route) http.HandlerFunc {
	return s.handler(func(r *http.Request, _ string) response {
		if rt.pattern == introspectPattern {
			s.counts.update(func(n *Counters) { n.APIIntrospections++ })
		}
		who, known := s.authenticate(r)
		end := s.counts.beginAPI(who.id())
		acting := s.faults.take(faultTarget{target: TargetAPI, path: r.URL.Path, id: who.id(), subject: who.subject})
		re := s.newExchange(s.unauthorized, func() response {
			if !known {
				return s.unauthorized()
			}
			return s.authorizeCall(rt, call{r: r, query: r.URL.Query(), caller: who})
		}).run(r.Context(), acting)
		end(re.outcome())
		return re
	})
}

// authorizeCall answers a call if its credential may make it.
func (s *Simulator) authorizeCall(rt route, c call) response {
	foreign := s.namesForeignCompany(c)
	if foreign || s.expectsOther(c) {
		s.counts.wrongCompany(c.caller.id())
	}
	if foreign && rt.pattern != "" { // /echo tells what came, whatever it was
		return s.forbidden("the credential does not belong to this company")
	}
	if rt.scope != "" && !slices.Contains(c.caller.scopes, rt.scope) {
		return s.forbidden("the credential lacks the scope " + rt.scope)
	}
	return rt.handle(s, c)
}

// ExpectCompanyHeader names the header field in which a test may say which
// company it means a request for; another one is counted, not refused.
const ExpectCompanyHeader = "Simulator-Expect-Company"

func (s *Simulator) expectsOther(c call) bool {
	expected := c.r.Header.Get(ExpectCompanyHeader)
	return expected != "" && expected != c.caller.subject.company
}

// namesForeignCompany reports whether the query names a company or organisation
// that the credential is not for. Pleo spells the parameter in several ways.
func (s *Simulator) namesForeignCompany(c call) bool {
	named := slices.Concat(c.query["company_id"], c.query["companyId"])
	for _, id := range named {
		company, err := s.directory.company(id)
		if err != nil || company.ID != id || !c.caller.subject.covers(company) {
			return true
		}
	}
	for _, id := range c.query["organization_id"] {
		ofOrganisation := func(company Company) bool { return company.OrganisationID == id }
		if !slices.ContainsFunc(s.directory.companiesOf(c.caller.subject), ofOrganisation) {
			return true
		}
	}
	return false
}

// authenticate finds whose credential a request carries: a token as Bearer, or
// a key as the user name of Basic with an empty password. A dead token is not
// accepted, but its grant is told, for the counts.
func (s *Simulator) authenticate(r *http.Request) (who caller, ok bool) {
	fields := r.Header.Values("Authorization")
	if len(fields) != 1 {
		s.counts.update(func(c *Counters) { c.AuthorizationNotOnce++ })
		return caller{}, false
	}
	scheme, value, _ := strings.Cut(fields[0], " ")
	if strings.EqualFold(scheme, "Bearer") {
		return s.bearer(value)
	}
	user, password, err := splitBasic(fields[0])
	if err != nil || password != "" {
		return caller{}, false
	}
	k, ok := s.directory.liveKey(user, s.now())
	return caller{
		method: "API_KEY", scheme: "Basic", clientID: k.ID, application: k.Kind, key: k.ID,
		subject: subject{company: k.Company, organisation: k.Organisation}, scopes: k.Scopes,
	}, ok
}

func (s *Simulator) bearer(token string) (who caller, ok bool) {
	h, ok := s.grants.accessOwner(token, s.now())
	who = caller{
		method: "OAUTH2", scheme: "Bearer", clientID: h.clientID,
		subject: h.subject, scopes: h.scopes, grant: h.grant,
	}
	if client, err := s.directory.client(h.clientID); err == nil {
		who.application = client.Name
	}
	return who, ok
}

func (s *Simulator) unauthorized() response {
	a := s.settings.Load().API
	re := errorResponse(a.UnauthorizedBody, http.StatusUnauthorized, "UNAUTHORIZED", "JWT is expired")
	if a.WWWAuthenticate {
		re = re.with("WWW-Authenticate", `Bearer realm="pleo", error="invalid_token"`)
	}
	return re
}

func (s *Simulator) forbidden(why string) response {
	return errorResponse(s.settings.Load().API.ForbiddenBody, http.StatusForbidden, "ACCESS_DENIED", why)
}

// errorResponse answers an error in one of the three styles of body.
func errorResponse(style string, status int, code, message string) response {
	switch style {
	case "empty":
		return response{status: status}
	case "plain":
		return textResponse(status, message)
	}
	return exception(status, code, message)
}

// data wraps a document the way most of Pleo's calls do.
type data struct {
	Data any `json:"data"`
}

// identity is the answer of GET /v1/introspect.
type identity struct {
	AuthMethod      string `json:"authMethod"`
	ClientID        string `json:"clientId"`
	Scope           string `json:"scope"`
	ApplicationName string `json:"applicationName,omitempty"`
	SubjectURN      string `json:"subjectURN,omitempty"`
}

func (s *Simulator) getIntrospect(c call) response {
	return jsonResponse(http.StatusOK, data{identity{
		AuthMethod: c.caller.method, ClientID: c.caller.clientID, Scope: strings.Join(c.caller.scopes, " "),
		ApplicationName: c.caller.application, SubjectURN: c.caller.subject.urn(),
	}})
}
