package simulator

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"
)

// env is a simulator on a real port, with a clock that tests set.
type env struct {
	*Simulator
	t      *testing.T
	url    string
	client *http.Client // follows no redirects

	mu  sync.Mutex // guards now
	now time.Time
}

func newEnv(t *testing.T, s Settings) *env {
	t.Helper()
	b := &env{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	sim, err := New(Config{Settings: s, Now: b.clock})
	if err != nil {
		t.Fatal(err)
	}
	b.Simulator = sim
	server := httptest.NewServer(sim.Handler())
	t.Cleanup(server.Close)
	t.Cleanup(sim.Close)
	b.url = server.URL
	b.client = &http.Client{
		Transport:     &http.Transport{},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(b.client.CloseIdleConnections)
	return b
}

func (b *env) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *env) advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

// received is a response as the client saw it.
type received struct {
	status int
	header http.Header
	body   string
}

// member returns a member of a JSON response. The path may lead through objects,
// as in "data.status".
func (a received) member(path string) any {
	var document any
	if json.Unmarshal([]byte(a.body), &document) != nil {
		return nil
	}
	for name := range strings.SplitSeq(path, ".") {
		object, _ := document.(map[string]any)
		document = object[name]
	}
	return document
}

func (a received) text(path string) string {
	s, _ := a.member(path).(string)
	return s
}

// do sends a request and reads as much of the response as arrives.
func (b *env) do(method, path, body string, header ...string) (received, error) {
	b.t.Helper()
	req, err := http.NewRequest(method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return received{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return received{resp.StatusCode, resp.Header, string(text)}, err
}

// must is do for requests that get a complete response.
func (b *env) must(method, path, body string, header ...string) received {
	b.t.Helper()
	a, err := b.do(method, path, body, header...)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

func (b *env) wantStatus(a received, want int) {
	b.t.Helper()
	if a.status != want {
		b.t.Fatalf("status = %d, want %d; body %s", a.status, want, a.body)
	}
}

// form posts a form with the default client's credentials.
func (b *env) form(path string, form url.Values) (received, error) {
	b.t.Helper()
	return b.do("POST", path, form.Encode(),
		"Content-Type", "application/x-www-form-urlencoded", "Authorization", b.basic())
}

func (b *env) basic() string {
	req := &http.Request{Header: http.Header{}}
	req.SetBasicAuth(url.QueryEscape(DefaultClientID), url.QueryEscape(DefaultClientSecret))
	return req.Header.Get("Authorization")
}

func refreshForm(token string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
}

// refresh sends a refresh token and returns the response, whatever its status.
func (b *env) refresh(token string) received {
	b.t.Helper()
	a, err := b.form("/oauth/token", refreshForm(token))
	if err != nil {
		b.t.Fatalf("refreshing: %v", err)
	}
	return a
}

// mustRefresh returns the new refresh token.
func (b *env) mustRefresh(token string) string {
	b.t.Helper()
	a := b.refresh(token)
	b.wantStatus(a, http.StatusOK)
	return a.text("refresh_token")
}

func (b *env) grant(req GrantRequest) Grant {
	b.t.Helper()
	g, err := b.IssueGrant(req)
	if err != nil {
		b.t.Fatal(err)
	}
	return g
}

func (b *env) key(k Key) Key {
	b.t.Helper()
	if k.Company == "" {
		k.Company = b.Companies()[0].ID
	}
	k, err := b.IssueKey(k)
	if err != nil {
		b.t.Fatal(err)
	}
	return k
}

// api sends a request to the API with an access token.
func (b *env) api(method, path, body, token string, header ...string) received {
	b.t.Helper()
	return b.must(method, path, body, append([]string{"Authorization", "Bearer " + token}, header...)...)
}

// wantToken checks whether the API accepts an access token.
func (b *env) wantToken(token string, want int) {
	b.t.Helper()
	if a := b.api("GET", "/v1/introspect", "", token); a.status != want {
		b.t.Errorf("GET /v1/introspect = %d, want %d", a.status, want)
	}
}

func (b *env) oauth2Config() *oauth2.Config {
	return &oauth2.Config{
		ClientID: DefaultClientID, ClientSecret: DefaultClientSecret, RedirectURL: DefaultRedirectURI,
		Endpoint: oauth2.Endpoint{
			AuthURL: b.url + "/oauth/authorize", TokenURL: b.url + "/oauth/token", AuthStyle: oauth2.AuthStyleInHeader,
		},
	}
}

func (b *env) fault(f Fault) Fault {
	b.t.Helper()
	f, err := b.SetFault(f)
	if err != nil {
		b.t.Fatal(err)
	}
	return f
}
