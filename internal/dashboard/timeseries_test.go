package dashboard

import (
	"context"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage/managetest"
)

// traffic has the metrics of the proxy.
type traffic struct {
	requests, refreshes *prometheus.CounterVec
	duration            prometheus.Histogram
}

func newTraffic(r prometheus.Registerer) traffic {
	t := traffic{
		requests:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pleo_proxy_requests_total"}, []string{"code", "origin"}),
		refreshes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pleo_refreshes_total"}, []string{"result", "reason"}),
		duration:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "pleo_proxy_request_duration_seconds", Buckets: []float64{.001, .01, .1, 1}}),
	}
	r.MustRegister(t.requests, t.refreshes, t.duration)
	return t
}

func TestTimeSeriesIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		program := newTraffic(registry)
		program.requests.WithLabelValues("200", "upstream").Add(1000) // before sampling begins
		s := &timeSeries{gatherer: registry, now: time.Now}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { s.run(ctx); close(ended) }()
		synctest.Wait()
		time.Sleep(2*time.Minute + time.Second)
		program.requests.WithLabelValues("200", "upstream").Add(90)
		program.requests.WithLabelValues("404", "upstream").Add(5)
		program.requests.WithLabelValues("499", "proxy").Add(1)
		program.requests.WithLabelValues("503", "proxy").Add(4)
		program.refreshes.WithLabelValues("refreshed", "expired").Add(3)
		program.refreshes.WithLabelValues("rejected", "expired").Add(1)
		program.refreshes.WithLabelValues("busy", "expired").Add(2)
		for range 98 {
			program.duration.Observe(.005)
		}
		program.duration.Observe(.5)
		program.duration.Observe(.5)
		time.Sleep(time.Minute)
		synctest.Wait()
		steps := s.intervals(4, time.Minute)
		for i, step := range steps[:3] {
			if step.requests != [3]float64{} {
				t.Errorf("step %d has %v, want nothing", i, step.requests)
			}
		}
		got := steps[3]
		if got.requests != [3]float64{90, 6, 4} || got.refreshes != [3]float64{3, 2, 1} {
			t.Errorf("the last minute has %v requests and %v refreshes, want [90 6 4] and [3 2 1]", got.requests, got.refreshes)
		}
		if got.p50 < time.Millisecond || got.p50 > 10*time.Millisecond || got.p99 < 100*time.Millisecond || got.p99 > time.Second {
			t.Errorf("p50 = %v and p99 = %v, want those of their buckets", got.p50, got.p99)
		}
		stop()
		<-ended
	})
}

// TestResponseTimeOfPeriod checks that the legend is about the whole period, and
// that a line is drawn even for a single interval.
func TestResponseTimeOfPeriod(t *testing.T) {
	registry := prometheus.NewRegistry()
	program := newTraffic(registry)
	now := time.Unix(1e9, 0)
	s := &timeSeries{gatherer: registry, now: func() time.Time { return now }}
	s.record()
	observe := func(n int, seconds float64) string {
		for range n {
			program.requests.WithLabelValues("200", "upstream").Inc()
			program.duration.Observe(seconds)
		}
		now = now.Add(5 * time.Minute)
		s.record()
		c := s.charts(chartPeriods()[0])[1]
		for _, l := range c.Lines {
			if !strings.Contains(l.Points, " ") {
				t.Errorf("the line %q is invisible", l.Points)
			}
		}
		return c.Legend[0].Value
	}
	if got, want := observe(100, .5), "550 ms"; got != want { // the middle of its bucket
		t.Errorf("p50 of slow requests = %s, want %s", got, want)
	}
	if got, want := observe(1, .0005), "545 ms"; got != want {
		t.Errorf("p50 of 100 slow requests and a fast one = %s, want %s", got, want)
	}
}

// TestTimeSeriesIsBounded records more than a day of samples.
func TestTimeSeriesIsBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := &timeSeries{gatherer: prometheus.NewRegistry(), now: func() time.Time { return now }}
	for range 3 * maxSamples {
		now = now.Add(sampleInterval)
		s.record()
	}
	if len(s.samples) != maxSamples || cap(s.samples) > 2*maxSamples {
		t.Errorf("%d samples with capacity %d, want %d", len(s.samples), cap(s.samples), maxSamples)
	}
	if got := now.Sub(s.samples[0].at); got != 24*time.Hour {
		t.Errorf("the oldest sample is %v old, want 24h", got)
	}
}

func TestQuantile(t *testing.T) {
	inf := math.Inf(1)
	for _, test := range []struct {
		name           string
		bounds, counts []float64
		share          float64
		want           time.Duration
	}{
		{"nothing", nil, nil, .5, 0},
		{"no request", []float64{1, inf}, []float64{0, 0}, .5, 0},
		{"half of a bucket", []float64{1, 2, inf}, []float64{0, 10, 10}, .5, 1500 * time.Millisecond},
		{"first bucket", []float64{1, inf}, []float64{10, 10}, .5, 500 * time.Millisecond},
		{"beyond the last bound", []float64{1, inf}, []float64{0, 10}, .99, time.Second},
	} {
		if got := quantile(test.bounds, test.counts, test.share); got != test.want {
			t.Errorf("%s: quantile = %v, want %v", test.name, got, test.want)
		}
	}
}

// TestChartsStayInFrame checks extreme values.
func TestChartsStayInFrame(t *testing.T) {
	steps := make([][3]float64, 60)
	for i := range steps {
		steps[i] = [3]float64{float64(i * i * 1000), 1, float64(i)}
	}
	names := [3]legendEntry{{Class: "a"}, {Class: "b"}, {Class: "c"}}
	for _, c := range []chart{
		stackedBars("x", steps, names), stackedBars("x", make([][3]float64, 3), names),
		statusBar(map[credstore.Status]int{credstore.Active: 100_000, credstore.Pending: 1, credstore.Disabled: 1}),
		statusBar(nil), responseTimes("x", []interval{{}, {p50: time.Millisecond, p99: time.Hour}}, interval{}),
	} {
		for _, b := range c.Bars {
			if b.X < 0 || b.Y < 0 || b.W <= 0 || b.H <= 0 || b.X+b.W > chartWidth+.1 || b.Y+b.H > chartHeight+.1 {
				t.Errorf("%s: the bar %+v is outside of the frame", c.Title, b)
			}
		}
		for _, l := range c.Lines {
			if strings.Contains(l.Points, "NaN") || strings.Contains(l.Points, "-") {
				t.Errorf("%s: the line %q is outside of the frame", c.Title, l.Points)
			}
		}
	}
	if c := stackedBars("x", steps, names); c.Legend[0].Value != "70,210,000" || c.Top != "5,000,000" {
		t.Errorf("the legend says %q below %q, want 70,210,000 below 5,000,000", c.Legend[0].Value, c.Top)
	}
}

// TestSamplingDoesNotReadStore protects the store, which many processes may
// share.
func TestSamplingDoesNotReadStore(t *testing.T) {
	store := &countingStore{Store: &managetest.Store{}}
	a := newTestDashboard(t, nil, func(c *Config) { c.Operator.Store = store })
	a.series.record()
	if store.counts != 0 {
		t.Errorf("a sample counts the connections %d times, want 0", store.counts)
	}
}

// countingStore counts the calls of Count.
type countingStore struct {
	*managetest.Store
	counts int
}

func (s *countingStore) Count(ctx context.Context) (map[credstore.Group]int, error) {
	s.counts++
	return s.Store.Count(ctx)
}
