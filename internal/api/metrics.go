package api

import (
	"context"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/singleflight"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// metricsHandler serves all metrics. Those of the store are read only on request,
// and not for the samples of the dashboard: many processes may share the store.
func metricsHandler(g prometheus.Gatherer, store counter) http.Handler {
	stored := prometheus.NewRegistry()
	stored.MustRegister(newCollector(store))
	return promhttp.HandlerFor(prometheus.Gatherers{g, stored}, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// counter counts the connections of a store.
type counter interface {
	Count(ctx context.Context) (map[credstore.Group]int, error)
}

// newCollector returns a collector that counts the connections of the store each
// time it is collected, for at most 2 seconds: pleo_connections by kind and status,
// and pleo_store_up, whether that succeeded. Concurrent collections share one count.
func newCollector(store counter) prometheus.Collector {
	return &collector{
		store: store,
		connections: prometheus.NewDesc("pleo_connections",
			"Connections by kind and status.", []string{"kind", "status"}, nil),
		up: prometheus.NewDesc("pleo_store_up",
			"1 if the store could be read for this scrape, else 0.", nil, nil),
	}
}

type collector struct {
	store       counter
	connections *prometheus.Desc
	up          *prometheus.Desc
	counting    singleflight.Group
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	descs <- c.connections
	descs <- c.up
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	counts, err := c.count()
	if err != nil {
		metrics <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, 0)
		return
	}
	metrics <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, 1)
	for _, kind := range credstore.Kinds() {
		for _, status := range credstore.Statuses() {
			n := float64(counts[credstore.Group{Kind: kind, Status: status}])
			metrics <- prometheus.MustNewConstMetric(c.connections, prometheus.GaugeValue, n, string(kind), string(status))
		}
	}
}

func (c *collector) count() (map[credstore.Group]int, error) {
	counts, err, _ := c.counting.Do("", func() (any, error) {
		// Collectors have no context, so that a scrape that is canceled does not
		// cancel the count.
		ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
		defer cancel()
		return c.store.Count(ctx)
	})
	if err != nil {
		return nil, err
	}
	return counts.(map[credstore.Group]int), nil
}
