package refresh

import (
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

type metrics struct {
	refreshes   *prometheus.CounterVec
	duration    prometheus.Histogram
	unknown     prometheus.Counter
	unsaved     prometheus.Gauge
	storeErrors prometheus.Counter
	breakerOpen prometheus.Gauge
}

// result is how a refresh ended.
type result string

const (
	resultRefreshed      result = "refreshed"
	resultIncomplete     result = "incomplete"      // answered with a refresh token and nothing to send
	resultSuperseded     result = "superseded"      // the connection has a newer credential, or was removed
	resultRejected       result = "rejected"        // the refresh token is no good
	resultClientRejected result = "client_rejected" // our client or its secret is not
	resultBusy           result = "busy"            // 429
	resultUnexpected     result = "unexpected"      // any other 4xx
	resultUnknown        result = "unknown"         // sent and never readably answered
	resultNotSent        result = "not_sent"
)

// results lists every result.
func results() []result {
	return []result{
		resultRefreshed, resultIncomplete, resultSuperseded, resultRejected, resultClientRejected,
		resultBusy, resultUnexpected, resultUnknown, resultNotSent,
	}
}

// newMetrics registers the metrics of refreshes. No label names a connection.
func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		refreshes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pleo_refreshes_total",
			Help: "Refreshes by result and by what they were for.",
		}, []string{"result", "reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "pleo_refresh_duration_seconds",
			Help:    "Time from sending a refresh token to the answer.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}),
		unknown: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pleo_refresh_unknown_outcomes_total",
			Help: "Refreshes that were sent and never readably answered.",
		}),
		unsaved: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pleo_unsaved_credentials",
			Help: "New token pairs that the store has not taken yet.",
		}),
		storeErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pleo_store_errors_total",
			Help: "Reads and writes that the store could not do.",
		}),
		breakerOpen: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pleo_circuit_breaker_open",
			Help: "1 while refreshes are stopped because many connections were rejected at once.",
		}),
	}
	// A counter that begins with its first event hides that event from increase().
	for _, result := range results() {
		for _, reason := range reasons() {
			m.refreshes.WithLabelValues(string(result), reason)
		}
	}
	if r != nil {
		r.MustRegister(m.refreshes, m.duration, m.unknown, m.unsaved, m.storeErrors, m.breakerOpen)
	}
	return m
}

// spooled returns a function that keeps the pairs left in the spool by earlier
// processes among the unsaved ones.
func (m *Manager) spooled() func(int) {
	before := 0
	return func(now int) {
		m.health.addUnsaved(now - before)
		before = now
	}
}

// count counts the end of a refresh.
func (a *attempt) count(r result) {
	a.m.metrics.refreshes.WithLabelValues(string(r), a.why.reason()).Inc()
}

// logger names the connection that a log line is about.
func (m *Manager) logger(e *entry) *zap.Logger {
	return m.Logger.With(zap.String("connection", e.current.Load().conn.Name))
}

func errField(err error) zap.Field { return zap.Error(err) }
