package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// benchmarkResponseSize is about as large as a page of Pleo's lists.
const benchmarkResponseSize = 4 << 10

// The two benchmarks differ in the handler only: same upstream over TLS, same
// transport, same client. What this package adds is the difference.

func BenchmarkForward(b *testing.B) {
	benchmark(b, func(api *httptest.Server, transport *http.Transport) http.Handler {
		encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
		p, err := New(Config{
			ConnectionHeaders: []string{"Pleo-Connection", "Connection-Id"},
			Upstream:          parseURL(b, api.URL), Transport: transport, Credentials: newFakeCredentials("acme"),
			AccessLog:  zap.New(zapcore.NewCore(encoder, zapcore.AddSync(io.Discard), zap.InfoLevel)),
			Registerer: prometheus.NewRegistry(),
		})
		if err != nil {
			b.Fatal(err)
		}
		return p
	})
}

func BenchmarkReverseProxy(b *testing.B) {
	benchmark(b, func(api *httptest.Server, transport *http.Transport) http.Handler {
		u := parseURL(b, api.URL)
		return &httputil.ReverseProxy{
			Transport: transport,
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(u)
				r.Out.Header.Set("Authorization", "Bearer static")
			},
		}
	})
}

func benchmark(b *testing.B, handler func(*httptest.Server, *http.Transport) http.Handler) {
	b.Helper()
	response := make([]byte, benchmarkResponseSize)
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(response) }))
	defer api.Close()
	transport := NewTransport(TransportConfig{RootCAs: api.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs})
	defer transport.CloseIdleConnections()
	front := httptest.NewServer(handler(api, transport))
	defer front.Close()
	client := front.Client()
	b.ReportAllocs()
	for b.Loop() {
		req, err := http.NewRequest(http.MethodGet, front.URL+"/v1/companies?limit=10", nil)
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Pleo-Connection", "acme")
		res, err := client.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, res.Body); n != benchmarkResponseSize || res.StatusCode != http.StatusOK {
			b.Fatalf("answer = %d with %d bytes, %v, want 200 with %d", res.StatusCode, n, err, benchmarkResponseSize)
		}
		_ = res.Body.Close()
	}
}
