package simulator

import "net/http"

// introspection is the response of token introspection (RFC 7662 section 2.2),
// with the members that Pleo documents. For an inactive token it has active only.
type introspection struct {
	Active     bool   `json:"active"`
	TokenType  string `json:"token_type,omitempty"`
	Sub        string `json:"sub,omitempty"`
	Exp        int64  `json:"exp,omitempty"`
	Iat        int64  `json:"iat,omitempty"`
	ClientID   string `json:"client_id,omitempty"`
	Aud        string `json:"aud,omitempty"`
	Iss        string `json:"iss,omitempty"`
	Jti        string `json:"jti,omitempty"`
	SubjectURN string `json:"urn:pleo:params:oauth:subject_urn,omitempty"`
}

// introspect is token introspection. It changes no token.
func (a *authServer) introspect(r *http.Request, _ string) response {
	res := a.handleIntrospection(r)
	a.sim.counts.update(func(c *Counters) { c.Introspections[res.outcome()]++ })
	return res
}

func (a *authServer) handleIntrospection(r *http.Request) response {
	s := a.sim
	if s.settings.OAuth.Introspection == "absent" {
		return noEndpoint()
	}
	form, problem := readForm(r)
	if problem != "" {
		return invalidRequest(problem)
	}
	token := form.Get("token")
	target := faultTarget{target: TargetIntrospection, path: r.URL.Path, id: s.grants.lookUp(token, s.now()).grant}
	return exchange{now: s.now, latency: s.settings.Latency, unauthorized: invalidClient, commit: func() response {
		client, ok := a.authenticate(r, form)
		if !ok || client.Secret == "" {
			return invalidClient()
		}
		return a.introspectFor(client, token)
	}}.run(r.Context(), s.faults.take(target))
}

func (a *authServer) introspectFor(client Client, token string) response {
	if token == "" {
		return invalidRequest("token is missing")
	}
	info := a.sim.grants.lookUp(token, a.sim.now())
	a.sim.counts.introspected(hashOf(token), info)
	active := info.active && info.clientID == client.ID
	switch a.sim.settings.OAuth.Introspection {
	case "always_active":
		return jsonResponse(http.StatusOK, introspection{Active: true})
	case "always_inactive":
		active = false
	case "access_only":
		active = active && info.kind == "access_token"
	}
	if !active {
		return jsonResponse(http.StatusOK, introspection{})
	}
	return jsonResponse(http.StatusOK, info.introspection())
}

func (t tokenInfo) introspection() introspection {
	i := introspection{
		Active: true, Sub: t.company, Exp: t.expiresAt.Unix(), Iat: t.issuedAt.Unix(), ClientID: t.clientID,
		Iss: "pleo.simulator", Jti: t.hash[:32], SubjectURN: subjectURN(t.company),
	}
	if t.kind == "access_token" {
		i.TokenType, i.Aud = "at+JWT", "https://external.pleo.io"
	}
	return i
}
