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
	sampleEvery = 30 * time.Second
	// samplesKept is a day of samples, and the one before its first: some 700 KiB.
	samplesKept = int(24*time.Hour/sampleEvery) + 1
)

// sample is how far the counters of the program were at a time. All only grow.
type sample struct {
	at        time.Time
	answers   [3]float64 // requests of clients, by answerClass
	refreshes [3]float64 // by refreshClass
	latency   []float64  // requests that took no longer than each of the bounds
	bounds    []float64  // in seconds; the last is infinite
}

// Classes of answers to clients.
const (
	answered    = iota // 1xx to 3xx
	clientError        // 4xx, also where the client has left
	serverError        // 5xx
)

// Classes of ends of a refresh.
const (
	refreshed      = iota
	refreshFailed  // for now
	refreshRefused // the refresh token is no good
)

// series remembers a day of samples of a registry.
type series struct {
	gatherer prometheus.Gatherer
	now      func() time.Time

	mu      sync.Mutex // guards what follows
	samples []sample   // the oldest first; samplesKept at most
}

// run takes samples until ctx ends.
func (s *series) run(ctx context.Context) {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		s.take()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// take adds a sample of this moment.
func (s *series) take() {
	next := s.look()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.samples) == samplesKept {
		copy(s.samples, s.samples[1:])
		s.samples = s.samples[:samplesKept-1]
	}
	s.samples = append(s.samples, next)
}

// look returns a sample of this moment. What cannot be gathered is left out.
func (s *series) look() sample {
	families, _ := s.gatherer.Gather() // what it has beside an error is good
	next := sampleOf(families)
	next.at = s.now()
	return next
}

// sampleOf reads a sample from what a registry holds.
func sampleOf(families []*dto.MetricFamily) sample {
	var next sample
	for _, family := range families {
		switch family.GetName() {
		case "pleo_proxy_requests_total":
			for _, m := range family.GetMetric() {
				next.answers[answerClass(label(m, "code"))] += m.GetCounter().GetValue()
			}
		case "pleo_refreshes_total":
			for _, m := range family.GetMetric() {
				next.refreshes[refreshClass(label(m, "result"))] += m.GetCounter().GetValue()
			}
		case "pleo_proxy_request_duration_seconds":
			for _, m := range family.GetMetric() {
				next.bounds, next.latency = latencies(m.GetHistogram())
			}
		}
	}
	return next
}

func latencies(h *dto.Histogram) (bounds, counts []float64) {
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

func label(m *dto.Metric, name string) string {
	for _, pair := range m.GetLabel() {
		if pair.GetName() == name {
			return pair.GetValue()
		}
	}
	return ""
}

func answerClass(status string) int {
	switch {
	case status != "" && status[0] == '4':
		return clientError
	case status != "" && status[0] == '5':
		return serverError
	}
	return answered
}

func refreshClass(result string) int {
	switch result {
	case "refreshed", "superseded":
		return refreshed
	case "refused":
		return refreshRefused
	}
	return refreshFailed
}

// step is what happened in one part of a time.
type step struct {
	answers, refreshes [3]float64
	median, slow       time.Duration // of requests: the 50th and the 99th of 100; 0 without requests
}

// last returns what happened in the steps up to now, the oldest first. Steps
// before the first sample are empty.
func (s *series) last(steps int, each time.Duration) []step {
	now := s.look()
	s.mu.Lock()
	all := append(slices.Clone(s.samples), now)
	s.mu.Unlock()
	found := make([]step, steps)
	for i := range found {
		from := now.at.Add(-time.Duration(steps-i) * each)
		found[i] = between(all, from, from.Add(each))
	}
	return found
}

// between returns what happened between two times.
func between(samples []sample, from, to time.Time) step {
	first, later := before(samples, from), before(samples, to)
	if first == nil && len(samples) > 0 {
		first = &samples[0] // counters had begun before it: what they held then is not of this time
	}
	if first == nil || later == nil || !later.at.After(first.at) {
		return step{}
	}
	var d step
	for class := range d.answers {
		d.answers[class] = later.answers[class] - first.answers[class]
		d.refreshes[class] = later.refreshes[class] - first.refreshes[class]
	}
	counts := make([]float64, len(later.latency))
	for i := range counts {
		counts[i] = later.latency[i]
		if i < len(first.latency) {
			counts[i] -= first.latency[i]
		}
	}
	d.median, d.slow = quantile(later.bounds, counts, 0.5), quantile(later.bounds, counts, 0.99)
	return d
}

// before returns the latest sample that was taken by the time, or nil.
func before(samples []sample, t time.Time) *sample {
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
