package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestAccessLog(t *testing.T) {
	v := newFakeCredentials("acme")
	r := newTestProxy(t, v, v.requireToken(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Request-Id", "r-1")
		echo(w, req)
	}))
	r.do("POST", "/v1/a%2Fb?secret=query", strings.NewReader("12345"), "X-Canary", "secret")
	line := r.logEntry()
	for _, timed := range []string{"duration", "upstream_duration"} {
		if _, ok := line[timed]; !ok {
			t.Errorf("log has no %s", timed)
		}
		delete(line, timed)
	}
	want := map[string]any{
		"client": "", "connection": "acme", "method": "POST", "path": "/v1/a%2Fb", "status": int64(200), "origin": "upstream", "code": "",
		"attempts": int64(1), "version": int64(1), "bytes_in": int64(5), "bytes_out": int64(5), "request_id": "r-1",
	}
	if diff := cmp.Diff(want, line); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// The log bounds what clients and the API choose and contains no secret, even if
// the API sends the request back instead of a response.
func TestAccessLogIsBoundedAndHoldsNoSecret(t *testing.T) {
	v := newFakeCredentials("acme")
	r := newTestProxy(t, v, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Request-Id", strings.Repeat("r", 5000))
		if req.URL.Path == "/broken" {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n"+req.Header.Get("Authorization")+"\r\n\r\n")
			_ = conn.Close()
		}
	})
	long := strings.Repeat("x", 9000)
	r.raw("GET /@" + long + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	r.raw(long + " /@acme/" + long + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	r.raw("GET http://" + long + "/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	r.raw("GET /@acme/broken HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	for range 4 {
		text := fmt.Sprint(r.logEntry())
		if len(text) > 1500 || strings.Contains(text, "secret") {
			t.Errorf("log = %q, want less than 1500 bytes and no secret", text)
		}
	}
}

func TestMetrics(t *testing.T) {
	v := newFakeCredentials("acme")
	r := newTestProxy(t, v, v.requireToken(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/odd" {
			w.WriteHeader(299)
		}
	}))
	r.do("GET", "/", nil)
	r.do("GET", "/odd", nil)
	r.do("GET", "/@unknown/", nil)
	for range 3 {
		r.logEntry()
	}
	const want = `
# HELP pleo_proxy_requests_total Requests by status and origin of the response: upstream or proxy. 499: the client disconnected first.
# TYPE pleo_proxy_requests_total counter
pleo_proxy_requests_total{code="200",origin="upstream"} 1
pleo_proxy_requests_total{code="2xx",origin="upstream"} 1
pleo_proxy_requests_total{code="400",origin="proxy"} 1
`
	if err := testutil.GatherAndCompare(r.metrics, strings.NewReader(want), "pleo_proxy_requests_total"); err != nil {
		t.Error(err)
	}
	for name, samples := range map[string]int{
		"pleo_proxy_request_duration_seconds": 1, "pleo_proxy_upstream_duration_seconds": 1, "pleo_proxy_replays_total": len(replayResults()),
	} {
		if got, err := testutil.GatherAndCount(r.metrics, name); got != samples || err != nil {
			t.Errorf("series of %s = %d, %v, want %d", name, got, err, samples)
		}
	}
}

func TestMetricsRegisteredTwice(t *testing.T) {
	r := newTestProxy(t, newFakeCredentials(), ok)
	if _, err := newMetrics(r.metrics); err == nil {
		t.Error("newMetrics = no error for a registry that has them, want one")
	}
	if _, err := newMetrics(nil); err != nil {
		t.Errorf("newMetrics(nil) = %v, want none", err)
	}
}
