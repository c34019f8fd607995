package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"
)

// result is the result of one subject.
type result struct {
	name       string
	cpu        []time.Duration // per request, of each round; none for no proxy
	throughput []float64       // requests per second, of each round
	rate       float64         // of requests for p50 and p99
	p50, p99   time.Duration
	reconnects float64 // requests per second
}

// measure runs the plan for all subjects.
func measure(ctx context.Context, p plan, subjects []*subject, out io.Writer) ([]*result, error) {
	var results []*result
	for _, s := range subjects {
		results = append(results, &result{name: s.name})
		if _, err := sendAll(ctx, s.target, p.requests/4, p.concurrency); err != nil { // warms up
			return nil, fmt.Errorf("warming %s up: %w", s.name, err)
		}
	}
	if err := measureRounds(ctx, p, subjects, results, out); err != nil {
		return nil, err
	}
	rate := slowestThroughput(results) / 2
	for i, s := range subjects {
		time.Sleep(p.pause)
		took, err := sendAtRate(ctx, s.target, rate, p.rateDuration, p.concurrency)
		if err != nil {
			return nil, fmt.Errorf("sending to %s at a fixed rate: %w", s.name, err)
		}
		slices.Sort(took)
		results[i].rate, results[i].p50, results[i].p99 = rate, quantile(took, .5), quantile(took, .99)
	}
	for i, s := range subjects {
		time.Sleep(p.pause)
		perSecond, err := sendReconnecting(ctx, s.fresh, p.reconnectDuration, p.concurrency)
		if err != nil {
			return nil, fmt.Errorf("reconnecting to %s: %w", s.name, err)
		}
		results[i].reconnects = perSecond
	}
	return results, nil
}

// measureRounds alternates between the subjects, so that other load on the machine affects
// all of them. Each round starts with another subject.
func measureRounds(ctx context.Context, p plan, subjects []*subject, results []*result, out io.Writer) error {
	for round := range p.rounds {
		for i := range subjects {
			at := (i + round) % len(subjects)
			time.Sleep(p.pause)
			if err := results[at].round(ctx, p, subjects[at]); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(out, "round %d of %d\n", round+1, p.rounds); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	return nil
}

func (r *result) round(ctx context.Context, p plan, s *subject) error {
	before, err := s.cpuTime()
	if err != nil {
		return err
	}
	took, err := sendAll(ctx, s.target, p.requests, p.concurrency)
	if err != nil {
		return fmt.Errorf("loading %s: %w", s.name, err)
	}
	after, err := s.cpuTime()
	if err != nil {
		return err
	}
	n := p.requests / p.concurrency * p.concurrency
	r.throughput = append(r.throughput, float64(n)/took.Seconds())
	if s.running() {
		r.cpu = append(r.cpu, (after-before)/time.Duration(n))
	}
	return nil
}

// slowestThroughput returns the throughput of the slowest subject.
func slowestThroughput(results []*result) float64 {
	slowest := median(results[0].throughput)
	for _, r := range results {
		slowest = min(slowest, median(r.throughput))
	}
	return slowest
}

// median returns the middle of the values, 0 of none.
func median[T int64 | float64 | time.Duration](values []T) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
