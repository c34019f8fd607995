package simulator

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// token is the token endpoint.
func (a *authServer) token(r *http.Request, requestID string) response {
	res := a.handleToken(r, requestID)
	a.sim.counts.update(func(c *Counters) { c.TokenRequests[res.outcome()]++ })
	return res
}

func (a *authServer) handleToken(r *http.Request, requestID string) response {
	form, problem := readForm(r)
	if problem != "" {
		return invalidRequest(problem)
	}
	s := a.sim
	sent := form.Get("refresh_token")
	info := s.grants.lookUp(sent, s.now())
	t := tokenRequest{auth: a, r: r, form: form, event: Event{
		GrantType: form.Get("grant_type"), Grant: info.grant, Company: info.company, RequestID: requestID,
	}}
	if sent != "" {
		t.event.TokenHash = hashOf(sent)
		defer s.counts.beginRefresh(t.event.TokenHash, info.grant)()
	}
	t.record(PhaseReceived, "")
	res := exchange{
		now: s.now, latency: s.settings.Latency, unauthorized: invalidClient, commit: t.commit,
		delayed: func() { t.record(PhaseDelayed, "") },
	}.run(r.Context(), s.faults.take(faultTarget{target: TargetToken, path: r.URL.Path, id: info.grant}))
	t.record(PhaseResponded, res.outcome())
	return res
}

// tokenRequest is one request to the token endpoint.
type tokenRequest struct {
	auth  *authServer
	r     *http.Request
	form  url.Values
	event Event // what all its events have in common
}

// record adds an event.
func (t *tokenRequest) record(phase, outcome string) {
	e := t.event
	e.Phase, e.Outcome, e.Time = phase, outcome, t.auth.sim.now()
	t.auth.sim.events.add(e)
}

// commit carries out the request.
func (t *tokenRequest) commit() response {
	client, ok := t.auth.authenticate(t.r, t.form)
	if !ok {
		t.record(PhaseRejected, "")
		return invalidClient()
	}
	switch t.form.Get("grant_type") {
	case "refresh_token":
		return t.refresh(client)
	case "authorization_code":
		return t.redeem(client)
	case "":
		return invalidRequest("grant_type is missing")
	}
	return oauthError(http.StatusBadRequest, "unsupported_grant_type", "only authorization_code and refresh_token are supported")
}

func (t *tokenRequest) refresh(client Client) response {
	token := t.form.Get("refresh_token")
	if token == "" {
		return invalidRequest("refresh_token is missing")
	}
	s := t.auth.sim
	pair, err := s.grants.refresh(client.ID, token, s.settings.OAuth, s.now())
	s.counts.refreshed(pair.grant, err)
	if err != nil {
		t.record(PhaseRejected, "")
		return s.settings.OAuth.rejection(err)
	}
	t.record(PhaseCommitted, "")
	return s.settings.OAuth.tokens(pair)
}

func (t *tokenRequest) redeem(client Client) response {
	s := t.auth.sim
	pair, err := s.grants.redeem(redemption{
		clientID: client.ID, code: t.form.Get("code"),
		redirectURI: t.form.Get("redirect_uri"), verifier: t.form.Get("code_verifier"),
	}, s.settings.OAuth, s.now())
	if err != nil {
		t.record(PhaseRejected, "")
		return oauthError(http.StatusBadRequest, "invalid_grant", err.Error())
	}
	s.counts.update(func(c *Counters) { c.Exchanges++ })
	t.event.Grant, t.event.Company = pair.grant, pair.company
	s.installations.add(client.ID, pair.company, s.now())
	t.record(PhaseCommitted, "")
	return s.settings.OAuth.tokens(pair)
}

// rejection is the response to an invalid refresh token.
func (o OAuthSettings) rejection(err error) response {
	return oauthError(cmp.Or(o.RejectionStatus, http.StatusBadRequest), cmp.Or(o.RejectionCode, "invalid_refresh_token"), err.Error())
}

// tokens is the response with a token pair. The settings choose the order and
// form of its members.
func (o OAuthSettings) tokens(p tokenPair) response {
	members := []member{{"access_token", p.access}, {"token_type", "Bearer"}}
	if value, present := o.expiresIn(p.lifetime); present {
		members = append(members, member{"expires_in", value})
	}
	if p.refresh != "" {
		at := len(members)
		if o.RefreshTokenFirst {
			at = 0
		}
		members = slices.Insert(members, at, member{"refresh_token", p.refresh})
	}
	members = append(members, member{"scope", strings.Join(p.scopes, " ")})
	members = slices.DeleteFunc(members, func(m member) bool {
		return m.name != "refresh_token" && slices.Contains(o.Omit, m.name)
	})
	body, err := marshalInOrder(members)
	if err != nil {
		return textResponse(http.StatusInternalServerError, err.Error())
	}
	res := response{status: http.StatusOK, header: contentType("application/json"), body: body}
	return res.with("Cache-Control", "no-store")
}

// expiresIn returns the value of expires_in, and whether the response has one.
func (o OAuthSettings) expiresIn(lifetime time.Duration) (value any, present bool) {
	seconds := int64(lifetime / time.Second)
	switch o.ExpiresIn {
	case "absent":
		return nil, false
	case "null":
		return nil, true
	case "string":
		return strconv.FormatInt(seconds, 10), true
	case "fraction":
		return json.Number(fmt.Sprintf("%.3f", lifetime.Seconds())), true
	case "zero":
		return 0, true
	case "negative":
		return -seconds, true
	case "huge":
		return int64(1e12), true
	}
	return seconds, true
}

// member is a name and value of a JSON object.
type member struct {
	name  string
	value any
}

// marshalInOrder encodes a JSON object without spaces, its members in the given
// order.
func marshalInOrder(members []member) ([]byte, error) {
	var b strings.Builder
	for i, m := range members {
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, fmt.Errorf("encoding member %s: %w", m.name, err)
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Quote(m.name) + ":")
		b.Write(value)
	}
	return []byte("{" + b.String() + "}"), nil
}
