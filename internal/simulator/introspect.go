package simulator

import (
	"net/http"
)

// introspection is an answer about a token (RFC 7662 section 2.2), with the
// members that Pleo documents. Of an inactive token only active is told.
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

// introspectToken is the authorization server's introspection. It spends
// nothing.
func (s *Simulator) introspectToken(r *http.Request, _ string) response {
	re := s.introspectionOf(r)
	s.counts.update(func(c *Counters) { c.Introspections[re.outcome()]++ })
	return re
}

func (s *Simulator) introspectionOf(r *http.Request) response {
	if s.settings.Load().OAuth.Introspection == "absent" {
		return exception(http.StatusNotFound, "NOT_FOUND", "the authorization server has no such endpoint")
	}
	form, bad := readForm(r)
	if bad != nil {
		return *bad
	}
	h, _ := s.grants.anyOwner(form.Get("token"))
	acting := s.faults.take(faultTarget{
		target: TargetIntrospection, path: r.URL.Path, id: h.grant, subject: h.subject,
	})
	return s.newExchange(invalidClient, func() response {
		client, ok := s.clientOf(r, form)
		if !ok || client.Secret == "" {
			return invalidClient()
		}
		return s.introspectFor(client, form.Get("token"))
	}).run(r.Context(), acting)
}

func (s *Simulator) introspectFor(client Client, token string) response {
	if token == "" {
		return oauthError(http.StatusBadRequest, "invalid_request", "token is missing")
	}
	h, isAccess := s.grants.anyOwner(token)
	s.counts.introspected(hashOf(token), h, !isAccess)
	facts, active := s.grants.tokenInfo(client.ID, token, s.now())
	switch s.settings.Load().OAuth.Introspection {
	case "always_active":
		return jsonResponse(http.StatusOK, introspection{Active: true})
	case "always_inactive":
		active = false
	case "access_only":
		active = active && facts.kind == "access_token"
	}
	if !active {
		return jsonResponse(http.StatusOK, introspection{})
	}
	return jsonResponse(http.StatusOK, facts.introspection())
}

func (f tokenInfo) introspection() introspection {
	i := introspection{
		Active: true, Sub: f.subject.company + f.subject.organisation, Exp: f.expiresAt.Unix(), Iat: f.issuedAt.Unix(),
		ClientID: f.clientID, Iss: "pleo.simulator", Jti: f.hash[:32], SubjectURN: f.subject.urn(),
	}
	if f.kind == "access_token" {
		i.TokenType, i.Aud = "at+JWT", "https://external.pleo.io"
	}
	return i
}
