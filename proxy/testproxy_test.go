package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy/upstream"
)

// fakeCredentials issues and accepts tokens, like refresher and API together: a
// rotation ends the old token at once.
type fakeCredentials struct {
	mu              sync.Mutex                        // guards the fields below
	current         map[string]*refresh.Authorization // name → authorization that the API accepts
	err             error                             // of Authorize and Reauthorize
	reauthorizeErr  error                             // of Reauthorize only
	rejectAll       bool                              // the API accepts no token
	rotated         int
	replaysRejected int                      // calls of ReplayRejected
	uninstalled     []*refresh.Authorization // by Uninstalled
}

const companyOfAcme = "11111111-2222-3333-4444-555555555555"

func newFakeCredentials(names ...string) *fakeCredentials {
	v := &fakeCredentials{current: map[string]*refresh.Authorization{}}
	for _, name := range names {
		v.put(name, 1)
	}
	return v
}

func (v *fakeCredentials) put(name string, version int64) *refresh.Authorization {
	v.current[name] = &refresh.Authorization{
		ConnectionID: "id-" + name,
		Connection:   name,
		Kind:         credstore.OAuth,
		CompanyID:    companyOfAcme,
		Version:      version,
		Value:        credstore.NewSecret(fmt.Sprintf("Bearer secret-of-%s-v%d", name, version)),
	}
	return v.current[name]
}

func (v *fakeCredentials) Authorize(ctx context.Context, name string) (*refresh.Authorization, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err != nil {
		return nil, v.err
	}
	if a, ok := v.current[name]; ok {
		// A copy, because a rotation changes the original.
		handed := *a
		return &handed, ctx.Err()
	}
	return nil, &refresh.Error{Code: refresh.ConnectionUnknown, Connection: name}
}

func (v *fakeCredentials) Reauthorize(ctx context.Context, rejected *refresh.Authorization) (*refresh.Authorization, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err != nil {
		return nil, v.err
	}
	if v.reauthorizeErr != nil {
		return nil, v.reauthorizeErr
	}
	if a := v.current[rejected.Connection]; a.Version > rejected.Version {
		return a, nil
	}
	v.rotated++
	return v.put(rejected.Connection, rejected.Version+1), nil
}

func (v *fakeCredentials) ReplayRejected(*refresh.Authorization) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.replaysRejected++
	v.reauthorizeErr = refresh.ErrSuppressed
}

func (v *fakeCredentials) Uninstalled(ctx context.Context, a *refresh.Authorization) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if ctx.Err() == nil {
		v.uninstalled = append(v.uninstalled, a)
	}
}

// expire makes the API reject the token that Authorize returns.
func (v *fakeCredentials) expire(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	stale := *v.current[name]
	stale.Value = credstore.NewSecret("Bearer stale-secret-of-" + name)
	v.current[name] = &stale
}

func (v *fakeCredentials) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.err = err
}

// connectionOf returns the connection whose valid token is in h, exactly once.
func (v *fakeCredentials) connectionOf(h http.Header) (string, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	values := h["Authorization"]
	if v.rejectAll || len(values) != 1 || strings.Contains(values[0], "stale") {
		return "", false
	}
	for name, a := range v.current {
		if a.Value.Reveal() == values[0] {
			return name, true
		}
	}
	return "", false
}

func (v *fakeCredentials) counts() (rotated, proven int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rotated, v.replaysRejected
}

// requireToken responds 401 to requests without a valid token, and calls next for
// the others.
func (v *fakeCredentials) requireToken(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, ok := v.connectionOf(r.Header); !ok {
			w.Header().Set("Request-Id", "rejected")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"type":"unauthorized"}`)
			return
		}
		next(w, r)
	}
}

// testProxy is a proxy on a real listener, with an API.
type testProxy struct {
	t           testing.TB
	credentials *fakeCredentials
	addr        string // of the proxy
	url         string
	accessLog   *logRecorder
	metrics     *prometheus.Registry
	proxy       *Proxy
}

func newTestProxy(t testing.TB, v *fakeCredentials, api http.HandlerFunc, adjust ...func(*Config)) *testProxy {
	t.Helper()
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	return newTestProxyTo(t, v, server.URL, adjust...)
}

func newTestProxyTo(t testing.TB, v *fakeCredentials, api string, adjust ...func(*Config)) *testProxy {
	t.Helper()
	r := &testProxy{t: t, credentials: v, accessLog: newLogRecorder(), metrics: prometheus.NewRegistry()}
	config := testConfig(newUpstream(t, api))
	config.Credentials, config.AccessLog, config.Registerer = v, zap.New(r.accessLog), r.metrics
	for _, f := range adjust {
		f(&config)
	}
	var err error
	if r.proxy, err = New(config); err != nil {
		t.Fatal(err)
	}
	r.listen(r.proxy)
	return r
}

// newUpstream returns a client for the API at a URL, as the program uses it.
func newUpstream(t testing.TB, api string, adjust ...func(*upstream.Config)) *upstream.Client {
	t.Helper()
	config := upstream.Config{URL: parseURL(t, api), ResponseTimeout: time.Minute}
	for _, f := range adjust {
		f(&config)
	}
	client, err := upstream.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// testConfig returns a configuration with the program's defaults and no
// credentials.
func testConfig(api *upstream.Client) Config {
	return Config{
		Upstream:          api,
		ConnectionHeaders: []string{"Pleo-Connection", "Connection-Id"},
		Replay:            ReplayConfig{Memory: 1 << 20, MemoryTotal: 32 << 20, MaxBody: 64 << 20, FilesTotal: 1 << 30},
	}
}

// pipeUpstream returns a client for an API in memory, which passes the raw head
// of each request to respond and sends back what that returns.
func pipeUpstream(t testing.TB, respond func(raw string) string) *upstream.Client {
	return newUpstream(t, "http://api.test", func(c *upstream.Config) {
		c.Dial = func(_ context.Context, _, address string) (net.Conn, error) {
			if address != "api.test:80" {
				t.Errorf("dialed %q, want api.test:80", address)
			}
			client, server := net.Pipe()
			go func() {
				defer func() { _ = server.Close() }()
				var raw strings.Builder
				in := bufio.NewReader(io.TeeReader(server, &raw))
				for {
					raw.Reset()
					req, err := http.ReadRequest(in)
					if err == nil {
						_, err = io.Copy(io.Discard, req.Body)
					}
					response := respond(raw.String()) // also for what is not a request
					if err != nil {
						return
					}
					_, _ = io.WriteString(server, response)
				}
			}()
			return client, nil
		}
	})
}

// listen serves h the way the program does.
func (r *testProxy) listen(h http.Handler) {
	r.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	server := NewServer(h, nil, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(TrackConnections(listener))
	}()
	r.t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	r.addr = listener.Addr().String()
	r.url = "http://" + r.addr
}

// do sends a request for acme unless header names another connection.
func (r *testProxy) do(method, path string, body io.Reader, header ...string) *response {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Pleo-Connection", "acme")
	for i := 0; i < len(header); i += 2 {
		req.Header[header[i]] = []string{header[i+1]}
	}
	return r.send(req)
}

type response struct {
	*http.Response
	body string
	err  error // of reading the body
}

func (r *testProxy) send(req *http.Request) *response {
	r.t.Helper()
	client := &http.Client{
		Transport:     &http.Transport{DisableCompression: true, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return &response{res, string(body), err}
}

// raw writes bytes to the proxy and reads until the proxy closes the connection,
// which the last request should request.
func (r *testProxy) raw(request string) string {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, request); err != nil {
		r.t.Fatal(err)
	}
	all, _ := io.ReadAll(conn)
	return string(all)
}

// tcpUpstream is an API that sends raw bytes and records the raw bytes that it
// reads.
type tcpUpstream struct {
	url  string
	mu   sync.Mutex // guards seen
	seen []string
}

// newTCPUpstream calls respond for each connection.
func newTCPUpstream(t testing.TB, respond func(r *bufio.Reader, w net.Conn)) *tcpUpstream {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &tcpUpstream{url: "http://" + listener.Addr().String()}
	var conns sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		conns.Wait()
	})
	conns.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { u.handle(conn, respond) })
		}
	})
	return u
}

func (u *tcpUpstream) handle(conn net.Conn, respond func(*bufio.Reader, net.Conn)) {
	defer func() { _ = conn.Close() }()
	respond(bufio.NewReader(io.TeeReader(conn, u)), conn)
}

func (u *tcpUpstream) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen = append(u.seen, string(p))
	return len(p), nil
}

// bytes returns everything that was received.
func (u *tcpUpstream) bytes() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return strings.Join(u.seen, "")
}

// readHead reads to the end of a request's header section.
func readHead(r *bufio.Reader) bool {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return false
		}
		if line == "\r\n" {
			return true
		}
	}
}

// respondAlways responds to every request without a body with the same bytes.
func respondAlways(response string) func(*bufio.Reader, net.Conn) {
	return func(r *bufio.Reader, w net.Conn) {
		for readHead(r) {
			if _, err := io.WriteString(w, response); err != nil {
				return
			}
		}
	}
}

const okResponse = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }

func parseURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// logRecorder is an access log that tests can wait for.
type logRecorder struct {
	zapcore.LevelEnabler
	seen chan map[string]any
}

func newLogRecorder() *logRecorder {
	return &logRecorder{zapcore.DebugLevel, make(chan map[string]any, 20_000)}
}

func (l *logRecorder) With([]zapcore.Field) zapcore.Core { return l }
func (l *logRecorder) Sync() error                       { return nil }

func (l *logRecorder) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.AddCore(e, l)
}

func (l *logRecorder) Write(_ zapcore.Entry, fields []zapcore.Field) error {
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(encoder)
	}
	l.seen <- encoder.Fields
	return nil
}

// logEntry waits for the next entry of the access log, which may be written after
// the client has its response.
func (r *testProxy) logEntry() map[string]any {
	r.t.Helper()
	select {
	case line := <-r.accessLog.seen:
		return line
	case <-time.After(10 * time.Second):
		r.t.Fatal("no entry in the access log")
		return nil
	}
}
