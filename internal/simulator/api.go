package simulator

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// apiServer is the API.
type apiServer struct{ sim *Simulator }

// route is one endpoint of the API.
type route struct {
	pattern string
	scope   string // that the credential must have; empty: none
	handle  func(call) response
}

const introspectPattern = "GET /v1/introspect"

func (a *apiServer) routes() []route {
	return []route{
		{introspectPattern, "", a.introspect},
		{"GET /v1/installations/me", "", a.getInstallation},
		{"DELETE /v1/installations/me", "", a.deleteInstallation},
		{"GET /v2/employees", "users:read", a.listEmployees},
		{"GET /v2/employees/{id}", "users:read", a.getEmployee},
		{"GET /v1/companies", "companies:read", a.listCompanies},
		{"GET /v1/companies/{id}", "companies:read", a.getCompany},
		{"/", "", func(call) response { return exception(http.StatusNotFound, "NOT_FOUND", "no such endpoint") }},
	}
}

func (a *apiServer) handler() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range a.routes() {
		mux.HandleFunc(rt.pattern, a.routeHandler(rt))
	}
	// Not in the mux, which would redirect the unusual paths that /echo is for.
	echo := a.routeHandler(route{handle: echo})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/echo" || strings.HasPrefix(r.URL.Path, "/echo/") {
			echo(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// call is one request to the API with a valid credential.
type call struct {
	r      *http.Request
	query  url.Values
	caller caller
}

// caller is the owner of a credential.
type caller struct {
	method      string // OAUTH2 or API_KEY, as in /v1/introspect
	scheme      string // of the Authorization field
	clientID    string // the OAuth client, or the id of the key
	application string
	company     string // id
	scopes      []string
	grant       string // id; empty for keys
	key         string // id; empty for grants
}

// id returns the id of the grant or key; empty: the credential is unknown.
func (c caller) id() string { return c.grant + c.key }

// routeHandler returns the handler of a route. It authenticates the request,
// applies faults and counts.
func (a *apiServer) routeHandler(rt route) http.HandlerFunc {
	s := a.sim
	return s.respond(func(r *http.Request, _ string) response {
		if rt.pattern == introspectPattern {
			s.counts.update(func(n *Counters) { n.APIIntrospections++ })
		}
		who, ok := a.authenticate(r)
		end := s.counts.beginAPI(who.id())
		res := exchange{now: s.now, latency: s.settings.Latency, unauthorized: a.unauthorized, commit: func() response {
			if !ok {
				return a.unauthorized()
			}
			return a.authorize(rt, call{r: r, query: r.URL.Query(), caller: who})
		}}.run(r.Context(), s.faults.take(faultTarget{target: TargetAPI, path: r.URL.Path, id: who.id()}))
		end(res.outcome())
		return res
	})
}

// authorize carries out a call if its credential permits it.
func (a *apiServer) authorize(rt route, c call) response {
	foreign := namesForeignCompany(c)
	if foreign || expectsOtherCompany(c) {
		a.sim.counts.wrongCompany(c.caller.id())
	}
	if foreign && rt.pattern != "" { // /echo shows any request
		return forbidden("the credential does not belong to this company")
	}
	if rt.scope != "" && !slices.Contains(c.caller.scopes, rt.scope) {
		return forbidden("the credential lacks the scope " + rt.scope)
	}
	return rt.handle(c)
}

// ExpectCompanyHeader is the header field in which a test names the company that
// it expects a request to be made for. A mismatch is counted, not rejected.
const ExpectCompanyHeader = "Simulator-Expect-Company"

func expectsOtherCompany(c call) bool {
	expected := c.r.Header.Get(ExpectCompanyHeader)
	return expected != "" && expected != c.caller.company
}

// namesForeignCompany reports whether the query names a company that the
// credential is not for. Pleo spells the parameter in two ways.
func namesForeignCompany(c call) bool {
	named := slices.Concat(c.query["company_id"], c.query["companyId"])
	return slices.ContainsFunc(named, func(id string) bool { return id != c.caller.company })
}

// authenticate returns the owner of a request's credential: an access token as
// Bearer, or a key as the user name of Basic with an empty password. For an
// access token that is no longer valid it returns the owner too, for the
// counters.
func (a *apiServer) authenticate(r *http.Request) (who caller, ok bool) {
	fields := r.Header.Values("Authorization")
	if len(fields) != 1 {
		a.sim.counts.update(func(c *Counters) { c.AuthorizationNotOnce++ })
		return caller{}, false
	}
	scheme, value, _ := strings.Cut(fields[0], " ")
	if strings.EqualFold(scheme, "Bearer") {
		return a.authenticateToken(value)
	}
	user, password, err := parseBasic(fields[0])
	if err != nil || password != "" {
		return caller{}, false
	}
	k, ok := a.sim.directory.validKey(user, a.sim.now())
	return caller{
		method: "API_KEY", scheme: "Basic", clientID: k.ID, application: k.Kind, key: k.ID,
		company: k.Company, scopes: k.Scopes,
	}, ok
}

func (a *apiServer) authenticateToken(token string) (who caller, ok bool) {
	t := a.sim.grants.lookUp(token, a.sim.now())
	if t.kind != "access_token" {
		return caller{}, false
	}
	who = caller{
		method: "OAUTH2", scheme: "Bearer", clientID: t.clientID,
		company: t.company, scopes: t.scopes, grant: t.grant,
	}
	if client, err := a.sim.directory.client(t.clientID); err == nil {
		who.application = client.Name
	}
	return who, t.active
}

func (a *apiServer) unauthorized() response {
	const message = "JWT is expired"
	switch a.sim.settings.API.UnauthorizedBody {
	case "empty":
		return response{status: http.StatusUnauthorized}
	case "plain":
		return textResponse(http.StatusUnauthorized, message)
	}
	return exception(http.StatusUnauthorized, "UNAUTHORIZED", message)
}

func forbidden(message string) response {
	return exception(http.StatusForbidden, "ACCESS_DENIED", message)
}

// data wraps a document as most of Pleo's endpoints do.
type data struct {
	Data any `json:"data"`
}

// identity is the response of GET /v1/introspect.
type identity struct {
	AuthMethod      string `json:"authMethod"`
	ClientID        string `json:"clientId"`
	Scope           string `json:"scope"`
	ApplicationName string `json:"applicationName,omitempty"`
	SubjectURN      string `json:"subjectURN,omitempty"`
}

func (a *apiServer) introspect(c call) response {
	return jsonResponse(http.StatusOK, data{identity{
		AuthMethod: c.caller.method, ClientID: c.caller.clientID, Scope: strings.Join(c.caller.scopes, " "),
		ApplicationName: c.caller.application, SubjectURN: subjectURN(c.caller.company),
	}})
}
