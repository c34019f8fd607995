package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy/upstream"
)

// echo responds with the body, after it has read all of it.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	_, _ = w.Write(body)
}

func TestReplayAfter401(t *testing.T) {
	body := strings.Repeat("0123456789", 10_000)
	tests := []struct {
		name, method string
		body         func() io.Reader
		want         string
	}{
		{"get", "GET", func() io.Reader { return nil }, ""},
		{"post without a body", "POST", func() io.Reader { return nil }, ""},
		{"known length", "POST", func() io.Reader { return strings.NewReader(body) }, body},
		{"chunked", "POST", func() io.Reader { return io.MultiReader(strings.NewReader(body)) }, body},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := newFakeCredentials("acme")
			r := newTestProxy(t, v, v.requireToken(echo))
			v.expire("acme")
			got := r.do(tt.method, "/", tt.body())
			if got.StatusCode != 200 || got.body != tt.want {
				t.Errorf("response = %d with %d bytes, want 200 with %d", got.StatusCode, len(got.body), len(tt.want))
			}
			if rotated, _ := v.counts(); rotated != 1 {
				t.Errorf("rotations = %d, want 1", rotated)
			}
			if line := r.logEntry(); line["attempts"] != int64(2) || line["version"] != int64(2) {
				t.Errorf("log = %v attempts, version %v, want 2 and 2", line["attempts"], line["version"])
			}
			if used := r.proxy.replayBuffers.memory.used.Load() + r.proxy.replayBuffers.files.used.Load(); used != 0 {
				t.Errorf("replay memory in use afterwards = %d, want 0", used)
			}
			r.wantReplays(map[replayResult]float64{replaySucceeded: 1})
		})
	}
}

func (r *testProxy) wantReplays(want map[replayResult]float64) {
	r.t.Helper()
	for _, result := range replayResults() {
		got := testutil.ToFloat64(r.proxy.metrics.replays.WithLabelValues(string(result)))
		if got != want[result] {
			r.t.Errorf("pleo_proxy_replays_total{result=%q} = %v, want %v", result, got, want[result])
		}
	}
}

func TestTrailersAreReplayed(t *testing.T) {
	v := newFakeCredentials("acme")
	sums := make(chan string, 2)
	r := newTestProxy(t, v, func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		sums <- req.Trailer.Get("X-Sum")
		v.requireToken(ok)(w, req)
	})
	v.expire("acme")
	got := r.raw("POST /@acme/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 42\r\n\r\n")
	if status := statusOf(t, got); status != 200 {
		t.Errorf("status = %d, want 200", status)
	}
	if first, second := <-sums, <-sums; first != "42" || second != "42" {
		t.Errorf("trailers = %q and %q, want 42 twice", first, second)
	}
}

func TestConcurrentReplays(t *testing.T) {
	v := newFakeCredentials("acme")
	r := newTestProxy(t, v, v.requireToken(echo))
	v.expire("acme")
	var clients sync.WaitGroup
	for range 100 {
		clients.Go(func() {
			if got := r.do("POST", "/", strings.NewReader("hi")); got.StatusCode != 200 || got.body != "hi" {
				t.Errorf("response = %d %q, want 200 hi", got.StatusCode, got.body)
			}
		})
	}
	clients.Wait()
}

// The 401 of the API is passed on unchanged if the request cannot or must not be
// replayed. attempts is how often the request was sent.
func TestUpstream401IsPassedOn(t *testing.T) {
	tests := []struct {
		name     string
		body     io.Reader
		adjust   func(*fakeCredentials, *Config)
		attempts int64
		result   replayResult
	}{
		{"suppressed", nil, func(v *fakeCredentials, _ *Config) { v.reauthorizeErr = refresh.ErrSuppressed }, 1, replaySuppressed},
		{"body above the limit of one", strings.NewReader("12345"), func(_ *fakeCredentials, c *Config) { c.Replay.Memory, c.Replay.MaxBody = 4, 0 }, 1, replayNotBuffered},
		{"chunked body above it", io.MultiReader(strings.NewReader("12345")), func(_ *fakeCredentials, c *Config) { c.Replay.Memory, c.Replay.MaxBody = 4, 0 }, 1, replayNotBuffered},
		{"body above the limit of all", strings.NewReader("12345"), func(_ *fakeCredentials, c *Config) { c.Replay.MemoryTotal, c.Replay.MaxBody = 4, 0 }, 1, replayNotBuffered},
		{"body above the limit of files", strings.NewReader("12345"), func(_ *fakeCredentials, c *Config) { c.Replay.Memory, c.Replay.MaxBody = 2, 4 }, 1, replayNotBuffered},
		{"body above the limit of all files", io.MultiReader(strings.NewReader("12345")), func(_ *fakeCredentials, c *Config) { c.Replay.Memory, c.Replay.FilesTotal = 2, 4 }, 1, replayNotBuffered},
		{"no directory for files", strings.NewReader("12345"), func(_ *fakeCredentials, c *Config) { c.Replay.Memory, c.Replay.Dir = 4, "/proc/1/missing" }, 1, replayNotBuffered},
		{"no buffers", strings.NewReader("1"), func(_ *fakeCredentials, c *Config) { c.Replay.Memory, c.Replay.MaxBody = 0, 0 }, 1, replayNotBuffered},
		{"new token rejected too", nil, func(v *fakeCredentials, _ *Config) { v.rejectAll = true }, 2, replayRejected},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := newFakeCredentials("acme")
			r := newTestProxy(t, v, readBodyFirst(v.requireToken(echo)), func(c *Config) { tt.adjust(v, c) })
			v.expire("acme")
			got := r.do("POST", "/", tt.body)
			if got.StatusCode != 401 || got.body != `{"type":"unauthorized"}` || got.Header.Get("Request-Id") != "rejected" || got.Header.Get("Proxy-Status") != "" {
				t.Errorf("response = %d %q %v, want Pleo's 401", got.StatusCode, got.body, got.Header)
			}
			r.wantReplays(map[replayResult]float64{tt.result: 1})
			if line := r.logEntry(); line["attempts"] != tt.attempts || line["origin"] != "upstream" {
				t.Errorf("log = %v attempts, origin %v, want %d, upstream", line["attempts"], line["origin"], tt.attempts)
			}
			if used := r.proxy.replayBuffers.memory.used.Load() + r.proxy.replayBuffers.files.used.Load(); used != 0 {
				t.Errorf("replay memory in use afterwards = %d, want 0", used)
			}
		})
	}
}

// readBodyFirst reads the body before it calls next.
func readBodyFirst(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		next(w, r)
	}
}

func TestRejectedReplayIsReported(t *testing.T) {
	v := newFakeCredentials("acme")
	v.rejectAll = true
	r := newTestProxy(t, v, v.requireToken(ok))
	for range 3 {
		r.do("GET", "/", nil)
	}
	if rotated, proven := v.counts(); rotated != 1 || proven != 1 {
		t.Errorf("rotations = %d, reports = %d, want 1 and 1", rotated, proven)
	}
}

func TestCredentialErrorReplaces401(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want int
		code string
	}{
		{"rejected", &refresh.Error{Code: refresh.ReauthorizationRequired, Connection: "acme"}, 401, "reauthorization_required"},
		{"server unavailable", &refresh.Error{Code: refresh.ServerUnavailable, Connection: "acme"}, 503, "authorization_server_unavailable"},
		{"unexpected", errors.New("odd"), 503, "store_unavailable"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := newFakeCredentials("acme")
			v.reauthorizeErr = tt.err
			r := newTestProxy(t, v, v.requireToken(ok))
			v.expire("acme")
			got := r.do("GET", "/", nil)
			if p := decodeProblem(t, got.body); got.StatusCode != tt.want || p.Code != tt.code {
				t.Errorf("response = %d %s, want %d %s", got.StatusCode, p.Code, tt.want, tt.code)
			}
			r.wantReplays(map[replayResult]float64{replayNoCredential: 1})
		})
	}
}

func TestCompanyIsCheckedAgainBeforeAReplay(t *testing.T) {
	v := newFakeCredentials("acme")
	v.current["acme"].CompanyID = "another"
	sent := 0
	r := newTestProxy(t, v, func(w http.ResponseWriter, _ *http.Request) {
		sent++
		w.WriteHeader(401)
	})
	// The new credential belongs to companyOfAcme.
	got := r.do("GET", "/", nil, "Pleo-Expect-Company", "another")
	if got.StatusCode != 412 || sent != 1 {
		t.Errorf("response = %d after %d attempts, want 412 after 1", got.StatusCode, sent)
	}
}

// A 401 before the end of the request body leads to a replay too. The first
// attempt is still reading from the client then.
func TestReplayAfterEarly401(t *testing.T) {
	v := newFakeCredentials("acme")
	early := make(chan struct{})
	var once sync.Once
	r := newTestProxy(t, v, func(w http.ResponseWriter, req *http.Request) {
		if _, ok := v.connectionOf(req.Header); !ok {
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader(401)
			return
		}
		once.Do(func() { close(early) })
		echo(w, req)
	})
	v.expire("acme")
	reader, writer := io.Pipe()
	go func() {
		_, _ = io.WriteString(writer, "before ")
		<-early // the replay has begun
		_, _ = io.WriteString(writer, "after")
		_ = writer.Close()
	}()
	if got := r.do("POST", "/", reader); got.StatusCode != 200 || got.body != "before after" {
		t.Errorf("response = %d %q, want 200 with the whole body", got.StatusCode, got.body)
	}
}

// If a reused connection ends before a response, a safe request is sent once more;
// others are not.
func TestRetryAfterBrokenConnection(t *testing.T) {
	tests := []struct {
		name, method, header, body string
		sends                      int
	}{
		{"get", "GET", "", "", 2},
		{"head", "HEAD", "", "", 2},
		{"options", "OPTIONS", "", "", 2},
		{"get with a body", "GET", "Content-Length: 2\r\n", "hi", 1},
		{"post", "POST", "Content-Length: 2\r\n", "hi", 1},
		{"post with a key", "POST", "Idempotency-Key: k\r\nContent-Length: 2\r\n", "hi", 1},
		{"post with a key and no body", "POST", "Idempotency-Key: k\r\nContent-Length: 0\r\n", "", 1},
		{"delete with another key", "DELETE", "X-Idempotency-Key: k\r\n", "", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var broken atomic.Bool
			api := newTCPUpstream(t, func(r *bufio.Reader, w net.Conn) {
				for readHead(r) {
					if broken.Load() {
						_, _ = r.Peek(len(tt.body)) // and close without a response
						broken.Store(false)
						return
					}
					_, _ = io.WriteString(w, okResponse)
				}
			})
			r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
			r.do("GET", "/warm", nil)
			broken.Store(true)
			got := r.raw(tt.method + " /@acme/x HTTP/1.1\r\nHost: localhost\r\n" + tt.header + "Connection: close\r\n\r\n" + tt.body)
			want := map[int]int{1: 502, 2: 200}[tt.sends]
			if status := statusOf(t, got); status != want {
				t.Errorf("status = %d, want %d", status, want)
			}
			if n := strings.Count(api.bytes(), tt.method+" /x "); n != tt.sends {
				t.Errorf("the request was sent %d times, want %d", n, tt.sends)
			}
		})
	}
}

func TestUpstreamConnectionsAreReused(t *testing.T) {
	v := newFakeCredentials("acme")
	var dialled sync.Map
	r := newTestProxy(t, v, func(w http.ResponseWriter, req *http.Request) {
		dialled.Store(req.RemoteAddr, true)
		v.requireToken(echo)(w, req)
	})
	v.expire("acme")
	for range 20 {
		if got := r.do("POST", "/", strings.NewReader("hi")); got.StatusCode != 200 {
			t.Fatalf("status = %d, want 200", got.StatusCode)
		}
	}
	connections := 0
	dialled.Range(func(any, any) bool {
		connections++
		return true
	})
	// A connection may be released only after the next request has begun.
	if connections > 3 {
		t.Errorf("20 requests, one of them replayed, used %d upstream connections, want 3 at most", connections)
	}
}

func TestUpstreamTimeout(t *testing.T) {
	const timeout = 50 * time.Millisecond
	api := newTCPUpstream(t, func(r *bufio.Reader, _ net.Conn) { _, _ = io.Copy(io.Discard, r) })
	r := newTestProxyTo(t, newFakeCredentials("acme"), api.url, func(c *Config) {
		c.Upstream = newUpstream(t, api.url, func(c *upstream.Config) { c.ResponseTimeout = timeout })
	})
	got := r.do("GET", "/", nil)
	if p := decodeProblem(t, got.body); got.StatusCode != 504 || p.Code != "upstream_timeout" {
		t.Errorf("response = %d %s, want 504 upstream_timeout", got.StatusCode, p.Code)
	}
}

func TestClientDisconnect(t *testing.T) {
	arrived := make(chan struct{})
	api := newTCPUpstream(t, func(r *bufio.Reader, _ net.Conn) {
		readHead(r)
		close(arrived)
		_, _ = io.Copy(io.Discard, r)
	})
	r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "GET /@acme/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-arrived
	_ = conn.(*net.TCPConn).SetLinger(0) // closing resets the connection
	_ = conn.Close()
	if line := r.logEntry(); line["status"] != int64(499) || line["code"] != "client_closed_request" {
		t.Errorf("log = %v %v, want 499 client_closed_request", line["status"], line["code"])
	}
}
