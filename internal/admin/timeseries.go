package admin

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
	// maxSamples is a day of samples, and the one before its first: some 700 KiB.
	maxSamples = int(24*time.Hour/sampleInterval) + 1
)

// sample is how far the counters of the program were at a time. All only grow.
type sample struct {
	at        time.Time
	requests  [3]float64 // requests of clients, by requestClass
	refreshes [3]float64 // by refreshClass
	latency   []float64  // requests that took no longer than each of the bounds
	bounds    []float64  // in seconds; the last is infinite
}

// Classes of answers to clients.
const (
	requestSucceeded = iota // 1xx to 3xx
	requestRejected         // 4xx, also where the client has left
	requestFailed           // 5xx
)

// Classes of ends of a refresh.
const (
	refreshSucceeded = iota
	refreshFailed    // for now
	refreshRejected  // the refresh token is no good
)

// timeSeries remembers a day of samples of a registry.
type timeSeries struct {
	gatherer prometheus.Gatherer
	now      func() time.Time

	mu      sync.Mutex // guards what follows
	samples []sample   // the oldest first; maxSamples at most
}

// run takes samples until ctx ends.
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

// record adds a sample of this moment.
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

// currentSample returns a sample of this moment. What cannot be gathered is left out.
func (s *timeSeries) currentSample() sample {
	families, _ := s.gatherer.Gather() // what it has beside an error is good
	next := parseSample(families)
	next.at = s.now()
	return next
}

// parseSample reads a sample from what a registry holds.
func parseSample(families []*dto.MetricFamily) sample {
	var next sample
	for _, family := range families {
		switch family.GetName() {
		case "pleo_proxy_requests_total":
			for _, m := range family.GetMetric() {
				next.requests[requestClass(labelValue(m, "code"))] += m.GetCounter().GetValue()
			}
		case "pleo_refreshes_total":
			for _, m := range family.GetMetric() {
				next.refreshes[refreshClass(labelValue(m, "result"))] += m.GetCounter().GetValue()
			}
		case "pleo_proxy_request_duration_seconds":
			for _, m := range family.GetMetric() {
				next.bounds, next.latency = parseHistogram(m.GetHistogram())
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

// interval is what happened in one part of a time.
type interval struct {
	requests, refreshes [3]float64
	p50, p99            time.Duration // find requests: the 50th and the 99th of 100; 0 without requests
}

// intervals returns what happened in the steps up to now, the oldest first. Steps
// before the first sample are empty.
func (s *timeSeries) intervals(steps int, each time.Duration) []interval {
	now := s.currentSample()
	s.mu.Lock()
	all := append(slices.Clone(s.samples), now)
	s.mu.Unlock()
	found := make([]interval, steps)
	for i := range found {
		from := now.at.Add(-time.Duration(steps-i) * each)
		found[i] = difference(all, from, from.Add(each))
	}
	return found
}

// difference returns what happened between two times.
func difference(samples []sample, from, to time.Time) interval {
	first, later := latestBefore(samples, from), latestBefore(samples, to)
	if first == nil && len(samples) > 0 {
		first = &samples[0] // counters had begun before it: what they held then is not of this time
	}
	if first == nil || later == nil || !later.at.After(first.at) {
		return interval{}
	}
	var d interval
	for class := range d.requests {
		d.requests[class] = later.requests[class] - first.requests[class]
		d.refreshes[class] = later.refreshes[class] - first.refreshes[class]
	}
	counts := make([]float64, len(later.latency))
	for i := range counts {
		counts[i] = later.latency[i]
		if i < len(first.latency) {
			counts[i] -= first.latency[i]
		}
	}
	d.p50, d.p99 = quantile(later.bounds, counts, 0.5), quantile(later.bounds, counts, 0.99)
	return d
}

// latestBefore returns the latest sample that was taken by the time, or nil.
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

// quantile returns the time within which the share of requests was answered, by
// the counts of those that took no longer than each bound, as straight between
// bounds as Prometheus draws it.
func quantile(bounds, counts []float64, share float64) time.Duration {
	if len(counts) == 0 || counts[len(counts)-1] <= 0 {
		return 0
	}
	rank := share * counts[len(counts)-1]
	low, under := 0.0, 0.0
	for i, n := range counts {
		if n >= rank {
			high := bounds[i]
			if math.IsInf(high, 1) || n == under {
				return seconds(low)
			}
			return seconds(low + (high-low)*(rank-under)/(n-under))
		}
		low, under = bounds[i], n
	}
	return seconds(low)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
