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
	answer  func(*Simulator, call) reply
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
		{"/", "", (*Simulator).noSuchCall},
	}
}

// API serves the API of the package documentation's list, and /echo.
func (s *Simulator) API() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range routes() {
		mux.HandleFunc(rt.pattern, s.calling(rt))
	}
	// Outside the mux, which would redirect the odd paths that /echo is for.
	echo := s.calling(route{answer: (*Simulator).echo})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/echo" || strings.HasPrefix(r.URL.Path, "/echo/") {
			echo(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *Simulator) noSuchCall(call) reply {
	return exception(http.StatusNotFound, "NOT_FOUND", "no such call")
}

// call is one request to the API by a known credential.
type call struct {
	r     *http.Request
	query url.Values
	who   principal
}

// principal is whom a credential stands for.
type principal struct {
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
func (p principal) id() string { return p.grant + p.key }

// owner names whom installations belong to.
func (p principal) owner() installationOwner { return installationOwner{p.clientID, p.subject} }

const introspectPattern = "GET /v1/introspect"

// calling makes a handler of a route: it finds the credential, lets the faults
// act and counts.
func (s *Simulator) calling(rt route) http.HandlerFunc {
	return s.answering(func(r *http.Request, _ string) reply {
		if rt.pattern == introspectPattern {
			s.counts.update(func(n *Counters) { n.APIIntrospections++ })
		}
		who, known := s.authenticate(r)
		end := s.counts.beginAPI(who.id())
		acting := s.faults.take(occasion{target: TargetAPI, path: r.URL.Path, id: who.id(), subject: who.subject})
		re := s.scene(s.unauthorized, func() reply {
			if !known {
				return s.unauthorized()
			}
			return s.permitted(rt, call{r: r, query: r.URL.Query(), who: who})
		}).play(r.Context(), acting)
		end(re.outcome())
		return re
	})
}

// permitted answers a call if its credential may make it.
func (s *Simulator) permitted(rt route, c call) reply {
	foreign := s.namesForeignCompany(c)
	if foreign || s.expectsOther(c) {
		s.counts.wrongCompany(c.who.id())
	}
	if foreign && rt.pattern != "" { // /echo tells what came, whatever it was
		return s.forbidden("the credential does not belong to this company")
	}
	if rt.scope != "" && !slices.Contains(c.who.scopes, rt.scope) {
		return s.forbidden("the credential lacks the scope " + rt.scope)
	}
	return rt.answer(s, c)
}

// ExpectCompanyHeader names the header field in which a test may say which
// company it means a request for; another one is counted, not refused.
const ExpectCompanyHeader = "Simulator-Expect-Company"

func (s *Simulator) expectsOther(c call) bool {
	expected := c.r.Header.Get(ExpectCompanyHeader)
	return expected != "" && expected != c.who.subject.company
}

// namesForeignCompany reports whether the query names a company or organisation
// that the credential is not for. Pleo spells the parameter in several ways.
func (s *Simulator) namesForeignCompany(c call) bool {
	named := slices.Concat(c.query["company_id"], c.query["companyId"])
	for _, id := range named {
		company, err := s.world.company(id)
		if err != nil || company.ID != id || !c.who.subject.covers(company) {
			return true
		}
	}
	for _, id := range c.query["organization_id"] {
		ofOrganisation := func(company Company) bool { return company.OrganisationID == id }
		if !slices.ContainsFunc(s.world.companiesOf(c.who.subject), ofOrganisation) {
			return true
		}
	}
	return false
}

// authenticate finds whose credential a request carries: a token as Bearer, or
// a key as the user name of Basic with an empty password. A dead token is not
// accepted, but its grant is told, for the counts.
func (s *Simulator) authenticate(r *http.Request) (who principal, ok bool) {
	fields := r.Header.Values("Authorization")
	if len(fields) != 1 {
		s.counts.update(func(c *Counters) { c.AuthorizationNotOnce++ })
		return principal{}, false
	}
	scheme, value, _ := strings.Cut(fields[0], " ")
	if strings.EqualFold(scheme, "Bearer") {
		return s.bearer(value)
	}
	user, password, err := splitBasic(fields[0])
	if err != nil || password != "" {
		return principal{}, false
	}
	k, ok := s.world.liveKey(user, s.now())
	return principal{
		method: "API_KEY", scheme: "Basic", clientID: k.ID, application: k.Kind, key: k.ID,
		subject: subject{company: k.Company, organisation: k.Organisation}, scopes: k.Scopes,
	}, ok
}

func (s *Simulator) bearer(token string) (who principal, ok bool) {
	h, ok := s.ledger.accessHolder(token, s.now())
	who = principal{
		method: "OAUTH2", scheme: "Bearer", clientID: h.clientID,
		subject: h.subject, scopes: h.scopes, grant: h.grant,
	}
	if client, err := s.world.client(h.clientID); err == nil {
		who.application = client.Name
	}
	return who, ok
}

func (s *Simulator) unauthorized() reply {
	a := s.settings.Load().API
	re := styled(a.UnauthorizedBody, http.StatusUnauthorized, "UNAUTHORIZED", "JWT is expired")
	if a.WWWAuthenticate {
		re = re.with("WWW-Authenticate", `Bearer realm="pleo", error="invalid_token"`)
	}
	return re
}

func (s *Simulator) forbidden(why string) reply {
	return styled(s.settings.Load().API.ForbiddenBody, http.StatusForbidden, "ACCESS_DENIED", why)
}

// styled answers an error in one of the three styles of body.
func styled(style string, status int, code, message string) reply {
	switch style {
	case "empty":
		return reply{status: status}
	case "plain":
		return textReply(status, message)
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

func (s *Simulator) getIntrospect(c call) reply {
	return jsonReply(http.StatusOK, data{identity{
		AuthMethod: c.who.method, ClientID: c.who.clientID, Scope: strings.Join(c.who.scopes, " "),
		ApplicationName: c.who.application, SubjectURN: c.who.subject.urn(),
	}})
}
