package refresh

import "github.com/prometheus/client_golang/prometheus"

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
	resultIncomplete     result = "incomplete"      // the response had a refresh token and no access token
	resultSuperseded     result = "superseded"      // the connection has a newer credential, or was removed
	resultRejected       result = "rejected"        // the refresh token is not valid
	resultClientRejected result = "client_rejected" // our client or its secret is not valid
	resultRateLimited    result = "busy"            // 429
	resultUnexpected     result = "unexpected"      // any other 4xx
	resultUnknown        result = "unknown"         // sent without a readable response
	resultNotSent        result = "not_sent"
)

// results returns every result.
func results() []result {
	return []result{
		resultRefreshed, resultIncomplete, resultSuperseded, resultRejected, resultClientRejected,
		resultRateLimited, resultUnexpected, resultUnknown, resultNotSent,
	}
}

// newMetrics registers the metrics of refreshes. No label names a connection.
func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		refreshes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pleo_refreshes_total",
			Help: "Refreshes by result and reason.",
		}, []string{"result", "reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "pleo_refresh_duration_seconds",
			Help:    "Time from sending a refresh token to the response.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}),
		unknown: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pleo_refresh_unknown_outcomes_total",
			Help: "Refreshes that were sent and had no readable response.",
		}),
		unsaved: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pleo_unsaved_credentials",
			Help: "New token pairs that the store has not saved yet.",
		}),
		storeErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pleo_store_errors_total",
			Help: "Reads and writes that the store failed.",
		}),
		breakerOpen: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pleo_circuit_breaker_open",
			Help: "1 while refreshes are stopped because many connections were rejected at once.",
		}),
	}
	// A counter that starts with its first event hides that event from increase().
	for _, result := range results() {
		for _, reason := range reasons() {
			m.refreshes.WithLabelValues(string(result), string(reason))
		}
	}
	if r != nil {
		r.MustRegister(m.refreshes, m.duration, m.unknown, m.unsaved, m.storeErrors, m.breakerOpen)
	}
	return m
}

// count counts the end of a refresh.
func (m *metrics) count(r result, why reason) {
	m.refreshes.WithLabelValues(string(r), string(why)).Inc()
}
