package simulator

import (
	"cmp"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// authorizationRequest is an authorization request (RFC 6749 section 4.1.1, RFC
// 7636 section 4.3) of a known client with a registered redirect URI.
type authorizationRequest struct {
	query       url.Values
	client      Client
	redirectURI string
	scopes      []string
}

// authorize is the authorization endpoint.
func (a *authServer) authorize(r *http.Request, _ string) response {
	return a.consent(r, r.URL.Query(), a.sim.settings.OAuth.Consent)
}

// decide handles the decision that the customer made on the consent page.
func (a *authServer) decide(r *http.Request, _ string) response {
	form, problem := readForm(r)
	if problem != "" {
		return invalidRequest(problem)
	}
	decision := "deny"
	if form.Get("decision") == "allow" {
		decision = "auto"
	}
	return a.consent(r, form, decision)
}

func (a *authServer) consent(r *http.Request, q url.Values, decision string) response {
	// Without a known client and a registered URI the browser must not be
	// redirected (RFC 6749 section 4.1.2.1).
	client, err := a.sim.directory.client(q.Get("client_id"))
	if err != nil {
		return textResponse(http.StatusBadRequest, "unknown client_id")
	}
	if !slices.Contains(client.RedirectURIs, q.Get("redirect_uri")) {
		return textResponse(http.StatusBadRequest, "redirect_uri is not one of those registered for the client")
	}
	req := authorizationRequest{
		query: q, client: client, redirectURI: q.Get("redirect_uri"), scopes: strings.Fields(q.Get("scope")),
	}
	if len(req.scopes) == 0 {
		req.scopes = client.Scopes
	}
	if code, description := req.check(); code != "" {
		return req.redirectError(code, description)
	}
	switch decision {
	case "page":
		return a.consentPage(req)
	case "deny":
		return req.redirectError("access_denied", "the customer denied access")
	}
	return a.allow(r, req)
}

// check returns an error code and its description, or an empty code if the
// request is valid.
func (req *authorizationRequest) check() (code, description string) {
	q := req.query
	if name := repeatedParameter(q); name != "" {
		return "invalid_request", name + " occurs more than once"
	}
	if q.Get("response_type") != "code" {
		return "unsupported_response_type", "response_type must be code"
	}
	challenge := q.Get("code_challenge")
	if challenge == "" && !req.client.PKCEOptional {
		return "invalid_request", "code_challenge is missing"
	}
	if challenge != "" && (q.Get("code_challenge_method") != "S256" || len(challenge) != 43) {
		return "invalid_request", "code_challenge must use the method S256"
	}
	for _, scope := range req.scopes {
		if !slices.Contains(req.client.Scopes, scope) {
			return "invalid_scope", "the client may not request " + scope
		}
	}
	return "", ""
}

func (req *authorizationRequest) redirectError(code, description string) response {
	return req.redirect(url.Values{"error": {code}, "error_description": {description}})
}

// redirect sends the browser back to the client.
func (req *authorizationRequest) redirect(parameters url.Values) response {
	target, err := url.Parse(req.redirectURI)
	if err != nil {
		return textResponse(http.StatusBadRequest, "redirect_uri is malformed")
	}
	q := target.Query()
	for name, values := range parameters {
		q[name] = values
	}
	if state := req.query.Get("state"); state != "" {
		q.Set("state", state)
	}
	target.RawQuery = q.Encode()
	return response{status: http.StatusFound}.with("Location", target.String())
}

// allow redirects with a code for the company that the request names, or the
// first one.
func (a *authServer) allow(r *http.Request, req authorizationRequest) response {
	company, err := a.consentingCompany(req.query)
	if err != nil {
		return req.redirectError("invalid_request", err.Error())
	}
	o := a.sim.settings.OAuth
	if len(o.GrantScopes) > 0 {
		req.scopes = slices.DeleteFunc(slices.Clone(req.scopes), func(scope string) bool { return !slices.Contains(o.GrantScopes, scope) })
	}
	parameters := url.Values{"code": {a.sim.grants.issueCode(code{
		spec:        grantSpec{clientID: req.client.ID, company: company.ID, scopes: req.scopes},
		redirectURI: req.redirectURI, challenge: req.query.Get("code_challenge"),
		expiresAt: a.sim.now().Add(o.CodeLifetime.or(time.Minute)),
	})}}
	if o.IssuerInCallback {
		scheme := "http://"
		if r.TLS != nil {
			scheme = "https://"
		}
		parameters.Set("iss", scheme+r.Host)
	}
	return req.redirect(parameters)
}

// consentingCompany returns the company that the parameter sim_company (id or
// name) or Pleo's urn_pleo_params_oauth_subject names, or else the first one.
func (a *authServer) consentingCompany(q url.Values) (Company, error) {
	if name := q.Get("sim_company"); name != "" {
		return a.sim.directory.company(name)
	}
	if urn := q.Get("urn_pleo_params_oauth_subject"); urn != "" {
		return a.sim.directory.company(strings.TrimPrefix(urn, subjectURN("")))
	}
	return a.sim.directory.allCompanies()[0], nil
}

const consentTemplate = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Simulated Pleo</title>
<style>body{font:16px system-ui;max-width:32rem;margin:4rem auto;padding:0 1rem}button{font:inherit;padding:.5rem 1.5rem}</style>
<h1>Simulated Pleo</h1>
<p><strong>{{.Client}}</strong> requests access:</p>
<ul>{{range .Scopes}}<li>{{.}}</li>{{end}}</ul>
<form method="post" action="/oauth/authorize">
{{range $name, $values := .Hidden}}<input type="hidden" name="{{$name}}" value="{{index $values 0}}">
{{end}}<p><label>Company: <select name="sim_company">{{range .Companies}}<option value="{{.ID}}">{{.Name}}</option>{{end}}</select></label></p>
<p><button name="decision" value="allow">Allow</button> <button name="decision" value="deny">Deny</button></p>
</form></html>`

func (a *authServer) consentPage(req authorizationRequest) response {
	hidden := url.Values{}
	for name, values := range req.query {
		if name != "sim_company" && name != "decision" {
			hidden[name] = values
		}
	}
	var page strings.Builder
	// Parsed for each page: they are few.
	err := template.Must(template.New("consent").Parse(consentTemplate)).Execute(&page, map[string]any{
		"Client": cmp.Or(req.client.Name, req.client.ID), "Scopes": req.scopes,
		"Hidden": hidden, "Companies": a.sim.directory.allCompanies(),
	})
	if err != nil {
		return textResponse(http.StatusInternalServerError, err.Error())
	}
	return htmlResponse(http.StatusOK, page.String())
}
