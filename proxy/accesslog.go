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

// statusClientClosed stands in log and metrics for a request whose client left
// before there was an answer. It is nginx's number, and never on the wire.
const statusClientClosed = 499

// accessEntry is what is remembered of a request for log and metrics. It holds no
// query, no field value that the client chose but the connection's name, and no
// secret.
type accessEntry struct {
	began      time.Time
	status     int
	byListener bool // the answer is ours
	code       code // what went wrong; may be set beside a status of the API
	attempts   int
	version    int64 // of the credential that was sent last
	received   int64 // bytes of the request's body
	sent       int64 // bytes of the answer's body
	upstream   time.Duration
	requestID  string
	err        error // why, for operators
}

func (e *accessEntry) origin() string {
	if e.byListener {
		return "proxy"
	}
	return "upstream"
}

// record counts the exchange and writes its line to the access log.
func (p *Proxy) record(x *exchange) {
	e := &x.entry
	took := time.Since(e.began)
	p.metrics.requests.WithLabelValues(statusLabel(e.status), e.origin()).Inc()
	p.metrics.duration.Observe(took.Seconds())
	if e.attempts > 0 {
		p.metrics.upstream.Observe(e.upstream.Seconds())
	}
	line := p.accessLog.Check(zap.InfoLevel, "request")
	if line == nil {
		return
	}
	path := x.target.path
	if path == "" {
		path = "-" // a target that was refused is not repeated
	}
	client := ""
	if x.client != nil {
		client = x.client.Name
	}
	line.Write(
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

// truncate bounds what others chose the length of.
func truncate(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

// statusLabel bounds the values of a label: a status that nobody registered
// counts as its class.
func statusLabel(status int) string {
	if http.StatusText(status) == "" && status != statusClientClosed {
		return strconv.Itoa(status/100) + "xx"
	}
	return strconv.Itoa(status)
}

// replayResult says what became of the wish to replay a request after a 401.
type replayResult string

const (
	replaySucceeded    replayResult = "healed"        // the replay was not answered 401
	replayRejected     replayResult = "rejected"      // it was
	replayFailed       replayResult = "failed"        // it was not answered
	replaySuppressed   replayResult = "suppressed"    // no refresh for this 401
	replayNoCredential replayResult = "no_credential" // none that is newer can be had
	replayNotBuffered  replayResult = "not_kept"      // the body is too large to be sent again
)

// replayResults lists every result.
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
			Help: "Requests by status, and by who answered: upstream or proxy. 499: the client left first.",
		}, []string{"code", "origin"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "pleo_proxy_request_duration_seconds",
			Help:    "Time from the head of a request to the end of its answer.",
			Buckets: durationBuckets(),
		}),
		upstream: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "pleo_proxy_upstream_duration_seconds",
			Help:    "Time that a request waited for the heads of the API's answers, over all its attempts.",
			Buckets: durationBuckets(),
		}),
		replays: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pleo_proxy_replays_total",
			Help: "Answers 401 of the API by what became of the replay.",
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

// durationBuckets are in seconds: from what the proxy adds itself to the
// longest that an answer may take.
func durationBuckets() []float64 {
	return []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
}
