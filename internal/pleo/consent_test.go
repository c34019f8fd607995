package pleo

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// The example of RFC 7636 appendix B.
const (
	rfcVerifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	rfcChallenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
)

func TestAuthorizeURL(t *testing.T) {
	s := newServer(t, "https://auth.example.com")
	state, verifier := credstore.NewSecret("s+/&="), credstore.NewSecret(rfcVerifier)
	got, err := url.Parse(s.AuthorizeURL(state, verifier, "https://me.example.com/oauth/callback", []string{"users:read", "export-jobs:read"}))
	if err != nil {
		t.Fatal(err)
	}
	want := url.Values{
		"response_type": {"code"}, "client_id": {clientID}, "state": {"s+/&="},
		"redirect_uri": {"https://me.example.com/oauth/callback"}, "scope": {"users:read export-jobs:read"},
		"code_challenge": {rfcChallenge}, "code_challenge_method": {"S256"},
	}
	if diff := cmp.Diff(want, got.Query()); diff != "" || got.Host != "auth.example.com" || got.Path != "/oauth/authorize" {
		t.Errorf("AuthorizeURL = %s (-want +got):\n%s", got, diff)
	}
	got, err = url.Parse(s.AuthorizeURL(state, verifier, "x", nil))
	if err != nil || got.Query().Has("scope") {
		t.Errorf("AuthorizeURL without scopes = %s, want no scope parameter", got)
	}
}

func TestExchange(t *testing.T) {
	for _, auth := range []ClientAuth{Basic, Post, BasicPlain} {
		t.Run(string(auth), func(t *testing.T) {
			server := record(t, respond(200, tokenResponse))
			s := newServer(t, server.URL, func(c *ServerConfig) {
				c.Auth = auth
				if auth == BasicPlain {
					c.ClientID = "plain"
				}
			})
			got, err := s.Exchange(t.Context(), credstore.NewSecret("code/+%: x"), credstore.NewSecret(rfcVerifier), "https://me.example.com/cb")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(revealedTokens{"at-1", "rt-2", 15 * time.Minute, "users:read export-jobs:read"}, revealed(got)); diff != "" || got.SentAt.IsZero() {
				t.Errorf("tokens differ (-want +got):\n%s", diff)
			}
			sent := server.requests()
			if len(sent) != 1 {
				t.Fatalf("%d requests, want 1", len(sent))
			}
			for name, want := range map[string]string{
				"grant_type": "authorization_code", "code": "code/+%: x", "code_verifier": rfcVerifier, "redirect_uri": "https://me.example.com/cb",
			} {
				if got := sent[0].Form[name]; !slices.Equal(got, []string{want}) {
					t.Errorf("%s = %q, want %q", name, got, want)
				}
			}
			if inForm := sent[0].Form.Has("client_secret"); inForm == sent[0].Basic {
				t.Errorf("client secret in the form: %v, in the header: %v, want one of them", inForm, sent[0].Basic)
			}
		})
	}
}

func TestExchangeOutcomes(t *testing.T) {
	code, verifier := credstore.NewSecret("canary-code-J4q8"), credstore.NewSecret(rfcVerifier)
	rejected := record(t, respond(400, `{"error":"invalid_grant","error_description":"canary"}`))
	_, err := newServer(t, rejected.URL).Exchange(t.Context(), code, verifier, "x")
	var response *ResponseError
	if !errors.As(err, &response) || response.Class != TokenRejected || len(rejected.requests()) != 1 {
		t.Errorf("Exchange = %v after %d requests, want a rejection after 1", err, len(rejected.requests()))
	}
	assertNoSecret(t, err)
	_, err = newServer(t, record(t, respond(503, "")).URL).Exchange(t.Context(), code, verifier, "x")
	var unknown *UnknownOutcomeError
	if !errors.As(err, &unknown) {
		t.Errorf("Exchange = %v, want an UnknownOutcomeError", err)
	}
	var unsent *NotSentError
	if _, err = newServer(t, "http://127.0.0.1:1").Exchange(t.Context(), code, verifier, "x"); !errors.As(err, &unsent) {
		t.Errorf("Exchange = %v, want a NotSentError", err)
	}
	if _, err = newServer(t, rejected.URL).Exchange(t.Context(), code, credstore.Secret{}, "x"); !errors.As(err, &unsent) {
		t.Errorf("Exchange without a verifier = %v, want a NotSentError", err)
	}
}

// TestExchangeTriesThePreviousClientSecret checks that the code is sent again after a
// rejected client secret: the server checks the client before the code.
func TestExchangeTriesThePreviousClientSecret(t *testing.T) {
	server := record(t, func(w http.ResponseWriter, req recordedRequest) {
		if decoded, _ := url.QueryUnescape(req.Secret); decoded != previousSecret {
			respond(401, `{"error":"invalid_client"}`)(w, req)
			return
		}
		respond(200, tokenResponse)(w, req)
	})
	s := newServer(t, server.URL, func(c *ServerConfig) { c.PreviousClientSecret = secret(previousSecret) })
	if _, err := s.Exchange(t.Context(), credstore.NewSecret("code"), credstore.NewSecret(rfcVerifier), "x"); err != nil {
		t.Errorf("Exchange = %v, want the tokens for the previous secret", err)
	}
}

func TestCompanyName(t *testing.T) {
	const id = "11111111-2222-3333-4444-555555555555"
	response := `{"data":{"id":"` + id + `","name":"Acme ApS"}}`
	status := http.StatusOK
	var path string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.Path
		respond(status, response)(w, recordedRequest{})
	}))
	t.Cleanup(server.Close)
	a := NewAPI(APIConfig{URL: mustURL(t, server.URL), Transport: http.DefaultTransport})
	got, err := a.CompanyName(t.Context(), credstore.NewSecret("Bearer x"), id)
	if got != "Acme ApS" || err != nil || path != "/v1/companies/"+id {
		t.Errorf("CompanyName = %q, %v, from %s", got, err, path)
	}
	status = http.StatusForbidden
	var rejected *StatusError
	if _, err := a.CompanyName(t.Context(), credstore.NewSecret("Bearer x"), id); !errors.As(err, &rejected) {
		t.Errorf("CompanyName = %v, want a StatusError", err)
	}
	status, response = http.StatusOK, "[]"
	if _, err := a.CompanyName(t.Context(), credstore.NewSecret("Bearer x"), id); err == nil {
		t.Error("CompanyName accepts a response without data")
	}
}

func TestMissingScopes(t *testing.T) {
	wanted := []string{"a:read", "b:write"}
	for granted, want := range map[string][]string{
		"":                      nil, // unknown
		"a:read b:write c:read": {},
		"b:write":               {"a:read"},
		"a:reads":               wanted,
	} {
		if got := MissingScopes(wanted, granted); !slices.Equal(got, want) {
			t.Errorf("MissingScopes(%q) = %q, want %q", granted, got, want)
		}
	}
}
