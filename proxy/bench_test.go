package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy/upstream"
)

// benchmarkResponseSize is about as large as a page of Pleo's lists.
const benchmarkResponseSize = 4 << 10

// The two benchmarks have the same API over TLS and the same client. What differs
// is the proxy: this one with all that is on in production, or a ReverseProxy with
// a tuned transport and a pool of buffers.

func BenchmarkForward(b *testing.B) {
	benchmark(b, func(api *httptest.Server, roots *x509.CertPool) http.Handler {
		encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
		config := testConfig(newUpstream(b, api.URL, func(c *upstream.Config) { c.RootCAs = roots }))
		config.Credentials, config.Registerer = newFakeCredentials("acme"), prometheus.NewRegistry()
		config.AccessLog = zap.New(zapcore.NewCore(encoder, zapcore.AddSync(io.Discard), zap.InfoLevel))
		p, err := New(config)
		if err != nil {
			b.Fatal(err)
		}
		return p
	})
}

func BenchmarkReverseProxy(b *testing.B) {
	benchmark(b, func(api *httptest.Server, roots *x509.CertPool) http.Handler {
		transport := &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			MaxIdleConnsPerHost: 256,
			DisableCompression:  true,
		}
		b.Cleanup(transport.CloseIdleConnections)
		u := parseURL(b, api.URL)
		return &httputil.ReverseProxy{
			Transport:  transport,
			BufferPool: &bufferPool{},
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(u)
				r.Out.Header.Set("Authorization", "Bearer static")
			},
		}
	})
}

type bufferPool struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

// Put implements httputil.BufferPool.
func (p *bufferPool) Put(b []byte) { p.pool.Put(&b) }

func benchmark(b *testing.B, handler func(*httptest.Server, *x509.CertPool) http.Handler) {
	b.Helper()
	body := make([]byte, benchmarkResponseSize)
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	b.Cleanup(api.Close)
	front := httptest.NewServer(handler(api, api.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs))
	b.Cleanup(front.Close)
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
			b.Fatalf("response = %d with %d bytes, %v, want 200 with %d", res.StatusCode, n, err, benchmarkResponseSize)
		}
		_ = res.Body.Close()
	}
}

// BenchmarkMatchSegments measures paths that almost match, per segment.
func BenchmarkMatchSegments(b *testing.B) {
	pattern := strings.Split("/v1/**/items/**/files", "/")[1:]
	for _, n := range []int{100, 1_000, 10_000} {
		segments := strings.Split("/v1"+strings.Repeat("/items", n), "/")[1:]
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			for b.Loop() {
				matchSegments(pattern, segments)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/segment")
		})
	}
}
