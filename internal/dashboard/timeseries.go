package dashboard

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

const (
	sampleInterval = 30 * time.Second
	// maxSamples is a day of samples, and the one before it: about 700 KiB.
	maxSamples = int(24*time.Hour/sampleInterval) + 1
)

// sample has the values of the program's counters at one time.
type sample struct {
	at        time.Time
	requests  [3]float64 // by requestClass
	refreshes [3]float64 // by refreshClass
	durations []float64  // number of requests within each of bounds
	bounds    []float64  // in seconds; the last one is infinite
}

// Classes of requests, by the status of their responses.
const (
	requestSucceeded = iota // 1xx to 3xx
	requestRejected         // 4xx, also if the client has left
	requestFailed           // 5xx
)

// Classes of refreshes, by their results.
const (
	refreshSucceeded = iota
	refreshFailed    // will be retried
	refreshRejected
)

// timeSeries has the samples of the last 24 hours.
type timeSeries struct {
	gatherer prometheus.Gatherer
	now      func() time.Time

	mu      sync.Mutex // guards samples
	samples []sample   // oldest first; at most maxSamples
}

// run records samples until ctx ends.
func (s *timeSeries) run(ctx context.Context) {
	ticker := time.NewTicker(sampleInterval)
	defer ticker.Stop()
	for {
		s.record()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// record adds a sample of the present.
func (s *timeSeries) record() {
	next := s.currentSample()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.samples) == maxSamples {
		copy(s.samples, s.samples[1:])
		s.samples = s.samples[:maxSamples-1]
	}
	s.samples = append(s.samples, next)
}

// currentSample returns a sample of the present. Metrics that cannot be gathered are
// left out.
func (s *timeSeries) currentSample() sample {
	families, _ := s.gatherer.Gather() // returns the others even if it fails
	next := parseSample(families)
	next.at = s.now()
	return next
}

func parseSample(families []*dto.MetricFamily) sample {
	var next sample
	for _, family := range families {
		for _, m := range family.GetMetric() {
			switch family.GetName() {
			case "pleo_proxy_requests_total":
				next.requests[requestClass(labelValue(m, "code"))] += m.GetCounter().GetValue()
			case "pleo_refreshes_total":
				next.refreshes[refreshClass(labelValue(m, "result"))] += m.GetCounter().GetValue()
			case "pleo_proxy_request_duration_seconds":
				next.bounds, next.durations = parseHistogram(m.GetHistogram())
			}
		}
	}
	return next
}

func parseHistogram(h *dto.Histogram) (bounds, counts []float64) {
	for _, b := range h.GetBucket() {
		bounds = append(bounds, b.GetUpperBound())
		counts = append(counts, float64(b.GetCumulativeCount()))
	}
	if len(bounds) == 0 || !math.IsInf(bounds[len(bounds)-1], 1) {
		bounds = append(bounds, math.Inf(1))
		counts = append(counts, float64(h.GetSampleCount()))
	}
	return bounds, counts
}

func labelValue(m *dto.Metric, name string) string {
	for _, pair := range m.GetLabel() {
		if pair.GetName() == name {
			return pair.GetValue()
		}
	}
	return ""
}

func requestClass(status string) int {
	switch {
	case status != "" && status[0] == '4':
		return requestRejected
	case status != "" && status[0] == '5':
		return requestFailed
	}
	return requestSucceeded
}

func refreshClass(result string) int {
	switch result {
	case "refreshed", "superseded":
		return refreshSucceeded
	case "rejected":
		return refreshRejected
	}
	return refreshFailed
}

// interval has the requests and refreshes of one part of a period.
type interval struct {
	requests, refreshes [3]float64
	p50, p99            time.Duration // response times; 0 without requests
}

// intervals returns the last n intervals of a length, oldest first. Those before the
// first sample are empty.
func (s *timeSeries) intervals(n int, length time.Duration) []interval {
	now := s.currentSample()
	s.mu.Lock()
	all := append(slices.Clone(s.samples), now)
	s.mu.Unlock()
	found := make([]interval, n)
	for i := range found {
		from := now.at.Add(-time.Duration(n-i) * length)
		found[i] = difference(all, from, from.Add(length))
	}
	return found
}

// difference returns the requests and refreshes between two times.
func difference(samples []sample, from, to time.Time) interval {
	first, last := latestBefore(samples, from), latestBefore(samples, to)
	if first == nil && len(samples) > 0 {
		first = &samples[0] // its counters include times before sampling began
	}
	if first == nil || last == nil || !last.at.After(first.at) {
		return interval{}
	}
	var d interval
	for class := range d.requests {
		d.requests[class] = last.requests[class] - first.requests[class]
		d.refreshes[class] = last.refreshes[class] - first.refreshes[class]
	}
	counts := make([]float64, len(last.durations))
	for i := range counts {
		counts[i] = last.durations[i]
		if i < len(first.durations) {
			counts[i] -= first.durations[i]
		}
	}
	d.p50, d.p99 = quantile(last.bounds, counts, 0.5), quantile(last.bounds, counts, 0.99)
	return d
}

// latestBefore returns the latest sample at or before t, or nil.
func latestBefore(samples []sample, t time.Time) *sample {
	n, _ := slices.BinarySearchFunc(samples, t, func(s sample, t time.Time) int {
		if s.at.After(t) {
			return 1
		}
		return -1
	})
	if n == 0 {
		return nil
	}
	return &samples[n-1]
}

// quantile returns the response time of the q-quantile, from the number of requests
// within each bound. It interpolates linearly between bounds, as Prometheus does.
func quantile(bounds, counts []float64, q float64) time.Duration {
	if len(counts) == 0 || counts[len(counts)-1] <= 0 {
		return 0
	}
	rank := q * counts[len(counts)-1]
	low, below := 0.0, 0.0
	for i, n := range counts {
		if n >= rank {
			high := bounds[i]
			if math.IsInf(high, 1) || n == below {
				return seconds(low)
			}
			return seconds(low + (high-low)*(rank-below)/(n-below))
		}
		low, below = bounds[i], n
	}
	return seconds(low)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
