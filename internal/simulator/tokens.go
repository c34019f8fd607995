package simulator

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// oauthErrorBody is an error answer of the token endpoint (RFC 6749 section 5.2).
type oauthErrorBody struct {
	Code        string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

func oauthError(status int, code, description string) response {
	return jsonResponse(status, oauthErrorBody{code, description})
}

// newExchange sets up a request for the faults to act on.
func (s *Simulator) newExchange(unauthorized, commit func() response) exchange {
	return exchange{
		now: s.now, latency: s.settings.Load().Latency, unauthorized: unauthorized, commit: commit,
		delayed: func() {}, // only token requests tell their steps
	}
}

// token is the token endpoint.
func (s *Simulator) token(r *http.Request, requestID string) response {
	form, bad := readForm(r)
	if bad != nil {
		return s.countToken(*bad)
	}
	t := tokenRequest{Simulator: s, r: r, form: form, requestID: requestID, o: s.settings.Load().OAuth}
	return s.countToken(t.respond())
}

func (s *Simulator) countToken(re response) response {
	s.counts.update(func(c *Counters) { c.TokenRequests[re.outcome()]++ })
	return re
}

// readForm reads the form of an OAuth request; each parameter may occur once
// (RFC 6749 section 3.2).
func readForm(r *http.Request) (url.Values, *response) {
	refuse := func(why string) (url.Values, *response) {
		re := oauthError(http.StatusBadRequest, "invalid_request", why)
		return nil, &re
	}
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/x-www-form-urlencoded" {
		return refuse("the body must be application/x-www-form-urlencoded")
	}
	r.Body = http.MaxBytesReader(nil, r.Body, 1<<20)
	if err := r.ParseForm(); err != nil {
		return refuse("the form cannot be read")
	}
	for name, values := range r.PostForm {
		if len(values) > 1 {
			return refuse("parameter " + name + " occurs more than once")
		}
	}
	return r.PostForm, nil
}

// tokenRequest is one request to the token endpoint on its way.
type tokenRequest struct {
	*Simulator
	r         *http.Request
	form      url.Values
	requestID string
	o         OAuthSettings
	event     Event // what is the same in all its events
}

func (t *tokenRequest) respond() response {
	presented := t.form.Get("refresh_token")
	h := t.grants.refreshOwner(presented)
	t.event = Event{
		GrantType: t.form.Get("grant_type"), Grant: h.grant, Company: h.subject.company, RequestID: t.requestID,
	}
	if presented != "" {
		t.event.TokenHash = hashOf(presented)
		defer t.counts.beginRefresh(t.event.TokenHash, h.grant)()
	}
	t.record(PhaseReceived, "")
	acting := t.faults.take(faultTarget{target: TargetToken, path: t.r.URL.Path, id: h.grant, subject: h.subject})
	scene := t.newExchange(invalidClient, t.commit)
	scene.delayed = func() { t.record(PhaseDelayed, "") }
	re := scene.run(t.r.Context(), acting)
	t.record(PhaseResponded, re.outcome())
	return re
}

func (t *tokenRequest) record(phase, outcome string) {
	e := t.event
	e.Phase, e.Outcome, e.Time = phase, outcome, t.now()
	t.events.add(e)
}

// commit does what the request asks for.
func (t *tokenRequest) commit() response {
	client, ok := t.clientOf(t.r, t.form)
	if !ok {
		t.record(PhaseRejected, "")
		return invalidClient()
	}
	switch t.form.Get("grant_type") {
	case "refresh_token":
		return t.refresh(client)
	case "authorization_code":
		return t.exchange(client)
	case "":
		return oauthError(http.StatusBadRequest, "invalid_request", "grant_type is missing")
	}
	return oauthError(http.StatusBadRequest, "unsupported_grant_type", "only authorization_code and refresh_token are supported")
}

func (t *tokenRequest) refresh(client Client) response {
	if t.form.Get("refresh_token") == "" {
		return oauthError(http.StatusBadRequest, "invalid_request", "refresh_token is missing")
	}
	pair, err := t.grants.rotate(client.ID, t.form.Get("refresh_token"), t.o, t.now())
	t.counts.refreshed(pair.grant, err)
	if err != nil {
		t.record(PhaseRejected, "")
		return t.o.rejection(err)
	}
	t.record(PhaseCommitted, "")
	return t.o.tokens(pair)
}

func (t *tokenRequest) exchange(client Client) response {
	pair, err := t.grants.redeem(redemption{
		clientID: client.ID, code: t.form.Get("code"),
		redirectURI: t.form.Get("redirect_uri"), verifier: t.form.Get("code_verifier"),
	}, t.o, t.now())
	if err != nil {
		t.record(PhaseRejected, "")
		return oauthError(http.StatusBadRequest, "invalid_grant", err.Error())
	}
	t.counts.update(func(c *Counters) { c.Exchanges++ })
	t.event.Grant, t.event.Company = pair.grant, pair.subject.company
	t.installed(grantSpec{clientID: client.ID, subject: pair.subject})
	t.record(PhaseCommitted, "")
	return t.o.tokens(pair)
}

// rejection answers that a refresh token is dead.
func (o OAuthSettings) rejection(err error) response {
	code := cmpOr(o.RejectionCode, "invalid_refresh_token")
	status := o.RejectionStatus
	if status == 0 {
		status = http.StatusBadRequest
	}
	switch o.RefusalMember {
	case "type":
		return exception(status, code, err.Error())
	case "error_description":
		return oauthError(status, "invalid_request", code+": "+err.Error())
	}
	return oauthError(status, code, err.Error())
}

// tokens answers with a pair, its members in the order and form that the
// settings ask for.
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
	re := response{status: http.StatusOK, header: contentType("application/json"), body: body}
	return re.with("Cache-Control", "no-store")
}

// expiresIn gives the value of expires_in, and whether there is one at all.
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

// marshalInOrder writes a JSON object without spaces, its members in order.
func marshalInOrder(members []member) ([]byte, error) {
	var b strings.Builder
	for i, m := range members {
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, fmt.Errorf("writing member %s: %w", m.name, err)
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Quote(m.name) + ":")
		b.Write(value)
	}
	return []byte("{" + b.String() + "}"), nil
}

func invalidClient() response {
	return oauthError(http.StatusUnauthorized, "invalid_client", "client authentication failed").
		with("WWW-Authenticate", `Basic realm="pleo"`)
}

// clientOf finds the client that a request proves to come from. More than one
// way of proof in one request is refused (RFC 6749 section 2.3).
func (s *Simulator) clientOf(r *http.Request, form url.Values) (Client, bool) {
	methods := s.settings.Load().OAuth.ClientAuth
	if len(methods) == 0 {
		methods = []string{"basic"}
	}
	fields := r.Header.Values("Authorization")
	if len(fields) > 0 && (len(fields) > 1 || form.Has("client_secret")) {
		return Client{}, false
	}
	if len(fields) == 1 {
		return s.clientByBasic(methods, fields[0])
	}
	c, err := s.directory.client(form.Get("client_id"))
	if err != nil {
		return Client{}, false
	}
	if c.Secret == "" {
		return c, !form.Has("client_secret")
	}
	return c, slices.Contains(methods, "post") && form.Get("client_secret") == c.Secret
}

func (s *Simulator) clientByBasic(methods []string, field string) (Client, bool) {
	user, password, err := splitBasic(field)
	if err != nil {
		return Client{}, false
	}
	if slices.Contains(methods, "basic_plain") {
		if c, err := s.directory.client(user); err == nil && c.Secret == password && password != "" {
			return c, true
		}
	}
	if !slices.Contains(methods, "basic") {
		return Client{}, false
	}
	id, err1 := url.QueryUnescape(user)
	secret, err2 := url.QueryUnescape(password)
	c, err3 := s.directory.client(id)
	return c, errors.Join(err1, err2, err3) == nil && c.Secret == secret && secret != ""
}

var errNotBasic = errors.New("not Basic credentials")

// splitBasic takes apart the value of an Authorization field (RFC 7617).
func splitBasic(field string) (user, password string, err error) {
	scheme, encoded, _ := strings.Cut(field, " ")
	decoded, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || !strings.EqualFold(scheme, "Basic") {
		return "", "", errNotBasic
	}
	user, password, found := strings.Cut(string(decoded), ":")
	if !found {
		return "", "", errNotBasic
	}
	return user, password, nil
}
