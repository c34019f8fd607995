package simulator

import (
	"encoding/base64"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// authServer is the authorization server.
type authServer struct{ sim *Simulator }

func (a *authServer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /oauth/authorize", a.sim.respond(a.authorize))
	mux.HandleFunc("POST /oauth/authorize", a.sim.respond(a.decide))
	mux.HandleFunc("POST /oauth/token", a.sim.respond(a.token))
	mux.HandleFunc("POST /oauth/token/introspect", a.sim.respond(a.introspect))
	mux.HandleFunc("/", a.sim.respond(func(*http.Request, string) response { return noEndpoint() }))
	return mux
}

func noEndpoint() response {
	return exception(http.StatusNotFound, "NOT_FOUND", "the authorization server has no such endpoint")
}

// oauthErrorBody is an error response of the token endpoint (RFC 6749 section 5.2).
type oauthErrorBody struct {
	Code        string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

func oauthError(status int, code, description string) response {
	return jsonResponse(status, oauthErrorBody{code, description})
}

func invalidRequest(description string) response {
	return oauthError(http.StatusBadRequest, "invalid_request", description)
}

func invalidClient() response {
	return oauthError(http.StatusUnauthorized, "invalid_client", "client authentication failed").
		with("WWW-Authenticate", `Basic realm="pleo"`)
}

// readForm reads the form of an OAuth request. Each parameter may occur once (RFC
// 6749 section 3.2). problem is empty if the form is valid.
func readForm(r *http.Request) (form url.Values, problem string) {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/x-www-form-urlencoded" {
		return nil, "the body must be application/x-www-form-urlencoded"
	}
	r.Body = http.MaxBytesReader(nil, r.Body, 1<<20)
	if err := r.ParseForm(); err != nil {
		return nil, "the form is malformed"
	}
	if name := repeatedParameter(r.PostForm); name != "" {
		return nil, "parameter " + name + " occurs more than once"
	}
	return r.PostForm, ""
}

func repeatedParameter(q url.Values) string {
	for name, values := range q {
		if len(values) > 1 {
			return name
		}
	}
	return ""
}

// authenticate returns the client that a request authenticates. A request with
// more than one method of authentication is rejected (RFC 6749 section 2.3).
func (a *authServer) authenticate(r *http.Request, form url.Values) (Client, bool) {
	methods := a.sim.settings.OAuth.ClientAuth
	if len(methods) == 0 {
		methods = []string{"basic"}
	}
	fields := r.Header.Values("Authorization")
	if len(fields) > 0 && (len(fields) > 1 || form.Has("client_secret")) {
		return Client{}, false
	}
	if len(fields) == 1 {
		return a.authenticateBasic(methods, fields[0])
	}
	c, err := a.sim.directory.client(form.Get("client_id"))
	if err != nil {
		return Client{}, false
	}
	if c.Secret == "" {
		return c, !form.Has("client_secret")
	}
	return c, slices.Contains(methods, "post") && form.Get("client_secret") == c.Secret
}

func (a *authServer) authenticateBasic(methods []string, field string) (Client, bool) {
	user, password, err := parseBasic(field)
	if err != nil {
		return Client{}, false
	}
	if slices.Contains(methods, "basic_plain") {
		if c, err := a.sim.directory.client(user); err == nil && c.Secret == password && password != "" {
			return c, true
		}
	}
	if !slices.Contains(methods, "basic") {
		return Client{}, false
	}
	id, err1 := url.QueryUnescape(user)
	secret, err2 := url.QueryUnescape(password)
	c, err3 := a.sim.directory.client(id)
	return c, errors.Join(err1, err2, err3) == nil && c.Secret == secret && secret != ""
}

var errNotBasic = errors.New("not Basic credentials")

// parseBasic parses the value of an Authorization field (RFC 7617).
func parseBasic(field string) (user, password string, err error) {
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
