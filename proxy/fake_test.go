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
)

// vault hands out and accepts tokens as the refresher and the API do together:
// a rotation ends the old token at once.
type vault struct {
	mu       sync.Mutex                        // guards the fields below
	current  map[string]*refresh.Authorization // name → what the API accepts
	failure  error                             // of Authorize and Reauthorize
	refuse   error                             // of Reauthorize only
	distrust bool                              // the API takes no token at all
	rotated  int
	proven   int                      // calls of ReplayRejected
	ended    []*refresh.Authorization // by Uninstalled
}

const companyOfAcme = "11111111-2222-3333-4444-555555555555"

func newVault(names ...string) *vault {
	v := &vault{current: map[string]*refresh.Authorization{}}
	for _, name := range names {
		v.put(name, 1)
	}
	return v
}

func (v *vault) put(name string, version int64) *refresh.Authorization {
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

func (v *vault) Authorize(ctx context.Context, name string) (*refresh.Authorization, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failure != nil {
		return nil, v.failure
	}
	if a, ok := v.current[name]; ok {
		// A copy, as it was handed out before any rotation.
		handed := *a
		return &handed, ctx.Err()
	}
	return nil, &refresh.Error{Code: refresh.ConnectionUnknown, Connection: name}
}

func (v *vault) Reauthorize(ctx context.Context, rejected *refresh.Authorization) (*refresh.Authorization, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failure != nil {
		return nil, v.failure
	}
	if v.refuse != nil {
		return nil, v.refuse
	}
	if a := v.current[rejected.Connection]; a.Version > rejected.Version {
		return a, nil
	}
	v.rotated++
	return v.put(rejected.Connection, rejected.Version+1), nil
}

func (v *vault) ReplayRejected(*refresh.Authorization) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.proven++
	v.refuse = refresh.ErrSuppressed
}

func (v *vault) Uninstalled(ctx context.Context, a *refresh.Authorization) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if ctx.Err() == nil {
		v.ended = append(v.ended, a)
	}
}

// expire makes the API refuse the token that Authorize hands out.
func (v *vault) expire(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	stale := *v.current[name]
	stale.Value = credstore.NewSecret("Bearer stale-secret-of-" + name)
	v.current[name] = &stale
}

func (v *vault) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failure = err
}

// owner returns the connection whose valid token h carries, exactly once.
func (v *vault) owner(h http.Header) (string, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	values := h["Authorization"]
	if v.distrust || len(values) != 1 || strings.Contains(values[0], "stale") {
		return "", false
	}
	for name, a := range v.current {
		if a.Value.Reveal() == values[0] {
			return name, true
		}
	}
	return "", false
}

func (v *vault) counts() (rotated, proven int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rotated, v.proven
}

// guarded answers 401 to requests without a valid token, and lets next answer
// the others.
func (v *vault) guarded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, ok := v.owner(r.Header); !ok {
			w.Header().Set("Request-Id", "rejected")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"type":"unauthorized"}`)
			return
		}
		next(w, r)
	}
}

// rig is a proxy on a real listener before an upstream.
type rig struct {
	t       testing.TB
	vault   *vault
	addr    string // of the proxy
	url     string
	lines   *lines
	metrics *prometheus.Registry
	proxy   *Proxy
}

func newRig(t testing.TB, v *vault, api http.HandlerFunc, adjust ...func(*Config)) *rig {
	t.Helper()
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	return newRigAt(t, v, server.URL, adjust...)
}

func newRigAt(t testing.TB, v *vault, api string, adjust ...func(*Config)) *rig {
	t.Helper()
	u, err := url.Parse(api)
	if err != nil {
		t.Fatal(err)
	}
	transport := NewTransport(TransportConfig{})
	t.Cleanup(transport.CloseIdleConnections)
	r := &rig{t: t, vault: v, lines: newLines(), metrics: prometheus.NewRegistry()}
	config := Config{Upstream: u, Transport: transport, Credentials: v, AccessLog: zap.New(r.lines), Registerer: r.metrics}
	for _, f := range adjust {
		f(&config)
	}
	if r.proxy, err = New(config); err != nil {
		t.Fatal(err)
	}
	r.listen(r.proxy)
	return r
}

// listen serves h as the program does.
func (r *rig) listen(h http.Handler) {
	r.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	server := NewServer(h, nil, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(WatchConnections(listener))
	}()
	r.t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	r.addr = listener.Addr().String()
	r.url = "http://" + r.addr
}

// do sends a request for acme, if header names no other connection.
func (r *rig) do(method, path string, body io.Reader, header ...string) *answer {
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

type answer struct {
	*http.Response
	body string
	err  error // of reading the body
}

func (r *rig) send(req *http.Request) *answer {
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
	return &answer{res, string(body), err}
}

// raw writes bytes to the proxy and returns all that comes back until the proxy
// closes the connection, which the last request should ask for.
func (r *rig) raw(request string) string {
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

// tcpUpstream answers requests by raw bytes and keeps the raw bytes it got. It
// gets each request up to where respond stops reading.
type tcpUpstream struct {
	url  string
	mu   sync.Mutex // guards seen
	seen []string
}

// newTCPUpstream calls respond for each connection; what respond reads from its
// reader is recorded when it returns.
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

// bytes returns all that was received.
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

// answering answers every request without a body by the same bytes.
func answering(response string) func(*bufio.Reader, net.Conn) {
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

// lines is an access log that tests can wait for.
type lines struct {
	zapcore.LevelEnabler
	seen chan map[string]any
}

func newLines() *lines {
	return &lines{zapcore.DebugLevel, make(chan map[string]any, 20_000)}
}

func (l *lines) With([]zapcore.Field) zapcore.Core { return l }
func (l *lines) Sync() error                       { return nil }

func (l *lines) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.AddCore(e, l)
}

func (l *lines) Write(_ zapcore.Entry, fields []zapcore.Field) error {
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(encoder)
	}
	l.seen <- encoder.Fields
	return nil
}

// line returns the next entry of the access log, which may come later than the
// client has its answer.
func (r *rig) line() map[string]any {
	r.t.Helper()
	select {
	case line := <-r.lines.seen:
		return line
	case <-time.After(10 * time.Second):
		r.t.Fatal("no entry in the access log")
		return nil
	}
}
