package simulator

import (
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// authorizationRequest is what an authorization request asks for (RFC 6749
// section 4.1.1, RFC 7636 section 4.3).
type authorizationRequest struct {
	client      Client
	redirectURI string
	state       string
	challenge   string
	scopes      []string
}

// authorize is the authorization endpoint.
func (s *Simulator) authorize(r *http.Request, _ string) response {
	return s.consent(r, r.URL.Query(), s.settings.Load().OAuth.Consent)
}

// decide takes the decision that the person made on the page.
func (s *Simulator) decide(r *http.Request, _ string) response {
	form, bad := readForm(r)
	if bad != nil {
		return *bad
	}
	decision := "deny"
	if form.Get("decision") == "allow" {
		decision = "auto"
	}
	return s.consent(r, form, decision)
}

func (s *Simulator) consent(r *http.Request, q url.Values, decision string) response {
	req, bad := s.readAuthorization(q)
	if bad != nil {
		return *bad
	}
	if code, why := req.check(q); code != "" {
		return req.redirect(url.Values{"error": {code}, "error_description": {why}})
	}
	switch decision {
	case "page":
		return s.consentPage(q, req)
	case "deny":
		return req.redirect(url.Values{"error": {"access_denied"}, "error_description": {"the customer refused"}})
	}
	return s.allow(r, q, req)
}

// readAuthorization finds the client and where it may be answered. Without
// these nobody is redirected (RFC 6749 section 4.1.2.1).
func (s *Simulator) readAuthorization(q url.Values) (authorizationRequest, *response) {
	client, err := s.directory.client(q.Get("client_id"))
	if err != nil {
		re := textResponse(http.StatusBadRequest, "unknown client_id")
		return authorizationRequest{}, &re
	}
	if !slices.Contains(client.RedirectURIs, q.Get("redirect_uri")) {
		re := textResponse(http.StatusBadRequest, "redirect_uri is not one of those registered for the client")
		return authorizationRequest{}, &re
	}
	return authorizationRequest{
		client: client, redirectURI: q.Get("redirect_uri"), state: q.Get("state"),
		challenge: q.Get("code_challenge"), scopes: strings.Fields(q.Get("scope")),
	}, nil
}

// check tells what else is wrong, as an error code and a description.
func (a *authorizationRequest) check(q url.Values) (code, why string) {
	for name, values := range q {
		if len(values) > 1 {
			return "invalid_request", name + " occurs more than once"
		}
	}
	if q.Get("response_type") != "code" {
		return "unsupported_response_type", "response_type must be code"
	}
	if a.challenge == "" && !a.client.PKCEOptional {
		return "invalid_request", "code_challenge is missing"
	}
	if a.challenge != "" && (q.Get("code_challenge_method") != "S256" || len(a.challenge) != 43) {
		return "invalid_request", "code_challenge must be of method S256"
	}
	for _, scope := range a.scopes {
		if !slices.Contains(a.client.Scopes, scope) {
			return "invalid_scope", "the client may not ask for " + scope
		}
	}
	if len(a.scopes) == 0 {
		a.scopes = a.client.Scopes
	}
	return "", ""
}

// redirect sends the browser back to the client.
func (a *authorizationRequest) redirect(answer url.Values) response {
	target, err := url.Parse(a.redirectURI)
	if err != nil {
		return textResponse(http.StatusBadRequest, "redirect_uri cannot be read")
	}
	q := target.Query()
	for name, values := range answer {
		q[name] = values
	}
	if a.state != "" {
		q.Set("state", a.state)
	}
	target.RawQuery = q.Encode()
	return response{status: http.StatusFound}.with("Location", target.String())
}

// allow gives a code for the company that the request names, or the first one.
func (s *Simulator) allow(r *http.Request, q url.Values, req authorizationRequest) response {
	company, err := s.consentingCompany(q)
	if err != nil {
		return req.redirect(url.Values{"error": {"invalid_request"}, "error_description": {err.Error()}})
	}
	o := s.settings.Load().OAuth
	given := subject{company: company.ID}
	if o.SubjectType == "organisation" {
		given = subject{organisation: company.OrganisationID}
	}
	if len(o.GrantScopes) > 0 {
		req.scopes = slices.DeleteFunc(slices.Clone(req.scopes), func(scope string) bool { return !slices.Contains(o.GrantScopes, scope) })
	}
	answer := url.Values{"code": {s.grants.issueCode(code{
		spec:        grantSpec{clientID: req.client.ID, subject: given, scopes: req.scopes},
		redirectURI: req.redirectURI, challenge: req.challenge,
		expiresAt: s.now().Add(o.CodeLifetime.or(time.Minute)),
	})}}
	if o.IssuerInCallback {
		answer.Set("iss", issuerOf(r))
	}
	if o.SubjectInCallback {
		answer.Set("urn_pleo_params_oauth_subject", given.urn())
	}
	return req.redirect(answer)
}

// issuerOf names the authorization server by the address it was reached at.
func issuerOf(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// consentingCompany is the one of the parameter sim_company (id or name) or of
// Pleo's urn_pleo_params_oauth_subject, else the first.
func (s *Simulator) consentingCompany(q url.Values) (Company, error) {
	if named := q.Get("sim_company"); named != "" {
		return s.directory.company(named)
	}
	if urn := q.Get("urn_pleo_params_oauth_subject"); urn != "" {
		return s.directory.company(strings.TrimPrefix(urn, "urn:pleo:company:"))
	}
	return s.directory.allCompanies()[0], nil
}

// consentTemplate parses the page. It is parsed for each page: there are few,
// and none is in a hurry.
func consentTemplate() *template.Template {
	return template.Must(template.New("consent").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Simulated Pleo</title>
<style>body{font:16px system-ui;max-width:32rem;margin:4rem auto;padding:0 1rem}button{font:inherit;padding:.5rem 1.5rem}</style>
<h1>Simulated Pleo</h1>
<p><strong>{{.Client}}</strong> wants to connect and asks for:</p>
<ul>{{range .Scopes}}<li>{{.}}</li>{{end}}</ul>
<form method="post" action="/oauth/authorize">
{{range $name, $values := .Hidden}}<input type="hidden" name="{{$name}}" value="{{index $values 0}}">
{{end}}<p><label>Company: <select name="sim_company">{{range .Companies}}<option value="{{.ID}}">{{.Name}}</option>{{end}}</select></label></p>
<p><button name="decision" value="allow">Allow</button> <button name="decision" value="deny">Deny</button></p>
</form></html>`))
}

func (s *Simulator) consentPage(q url.Values, req authorizationRequest) response {
	hidden := url.Values{}
	for name, values := range q {
		if name != "sim_company" && name != "decision" {
			hidden[name] = values
		}
	}
	var page strings.Builder
	err := consentTemplate().Execute(&page, map[string]any{
		"Client": cmpOr(req.client.Name, req.client.ID), "Scopes": req.scopes,
		"Hidden": hidden, "Companies": s.directory.allCompanies(),
	})
	if err != nil {
		return textResponse(http.StatusInternalServerError, err.Error())
	}
	return htmlResponse(http.StatusOK, page.String())
}
