package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// statusClientClosed is the status in log and metrics of a request whose client
// disconnected before the response. nginx uses the same number. It is never sent.
const statusClientClosed = 499

// accessEntry is what log and metrics say about a request. It contains no query,
// no header value of the client but the connection's name, and no secret.
type accessEntry struct {
	began     time.Time
	status    int
	byProxy   bool // the response is not the API's
	code      code // what went wrong; may be set beside a status of the API
	attempts  int
	version   int64 // of the credential that was sent last
	received  int64 // bytes of the request body
	sent      int64 // bytes of the response body
	upstream  time.Duration
	requestID string
	err       error // the cause, for operators
}

func (e *accessEntry) origin() string {
	if e.byProxy {
		return "proxy"
	}
	return "upstream"
}

// record counts the exchange and writes its entry to the access log.
func (p *Proxy) record(x *exchange) {
	e := &x.entry
	took := time.Since(e.began)
	p.metrics.requests.WithLabelValues(statusLabel(e.status), e.origin()).Inc()
	p.metrics.duration.Observe(took.Seconds())
	if e.attempts > 0 {
		p.metrics.upstream.Observe(e.upstream.Seconds())
	}
	entry := p.accessLog.Check(zap.InfoLevel, "request")
	if entry == nil {
		return
	}
	path := x.target.path
	if path == "" {
		path = "-" // the target was rejected
	}
	client := ""
	if x.client != nil {
		client = x.client.Name
	}
	entry.Write(
		zap.String("client", truncate(client, 128)),
		zap.String("connection", x.name),
		zap.String("method", truncate(x.in.Method, 32)),
		zap.String("path", truncate(path, 512)),
		zap.Int("status", e.status),
		zap.String("origin", e.origin()),
		zap.String("code", string(e.code)),
		zap.Int("attempts", e.attempts),
		zap.Int64("version", e.version),
		zap.Int64("bytes_in", e.received),
		zap.Int64("bytes_out", e.sent),
		zap.Duration("duration", took),
		zap.Duration("upstream_duration", e.upstream),
		zap.String("request_id", truncate(e.requestID, 128)),
		zap.NamedError("error", e.err),
	)
}

// truncate bounds a string that a client or the API chose.
func truncate(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "..."
}

// statusLabel returns the label value of a status. Unregistered ones are counted
// by their class, to bound the number of values.
func statusLabel(status int) string {
	if http.StatusText(status) == "" && status != statusClientClosed {
		return strconv.Itoa(status/100) + "xx"
	}
	return strconv.Itoa(status)
}

// replayResult is what a 401 of the API led to.
type replayResult string

const (
	replaySucceeded    replayResult = "succeeded"     // the response to the replay was not a 401
	replayRejected     replayResult = "rejected"      // it was a 401
	replayFailed       replayResult = "failed"        // there was no response to the replay
	replaySuppressed   replayResult = "suppressed"    // the 401 does not call for a newer credential
	replayNoCredential replayResult = "no_credential" // no newer one is available
	replayNotBuffered  replayResult = "not_buffered"  // the request body exceeds a limit
)

// replayResults returns every result.
func replayResults() []replayResult {
	return []replayResult{replaySucceeded, replayRejected, replayFailed, replaySuppressed, replayNoCredential, replayNotBuffered}
}

type metrics struct {
	requests *prometheus.CounterVec
	duration prometheus.Histogram
	upstream prometheus.Histogram
	replays  *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pleo_proxy_requests_total",
			Help: "Requests by status and origin of the response: upstream or proxy. 499: the client disconnected first.",
		}, []string{"code", "origin"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "pleo_proxy_request_duration_seconds",
			Help:    "Time from the head of a request to the end of its response.",
			Buckets: durationBuckets(),
		}),
		upstream: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "pleo_proxy_upstream_duration_seconds",
			Help:    "Time that a request waited for response heads of the API, over all its attempts.",
			Buckets: durationBuckets(),
		}),
		replays: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pleo_proxy_replays_total",
			Help: "401 responses of the API, by the result of the replay.",
		}, []string{"result"}),
	}
	for _, result := range replayResults() {
		m.replays.WithLabelValues(string(result))
	}
	if r == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.upstream, m.replays} {
		if err := r.Register(c); err != nil {
			errs = append(errs, fmt.Errorf("registering metrics: %w", err))
		}
	}
	return m, errors.Join(errs...)
}

func (m *metrics) replayed(r replayResult) { m.replays.WithLabelValues(string(r)).Inc() }

// durationBuckets are in seconds: from what the proxy itself adds to the default
// upstream timeout.
func durationBuckets() []float64 {
	return []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
}
