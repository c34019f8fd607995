// Command bench compares pleo-auth-proxy with nginx, a bare httputil.ReverseProxy and no
// proxy.
//
// It measures them in one run on one upstream with TLS, and writes the table and the plot
// of docs/performance.md. Every subject is a separate process, so that its CPU time can be
// read from the system; so is the upstream. It requires Linux, and nginx in PATH.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"
)

// plan says what to measure and for how long.
type plan struct {
	program           string        // the pleo-auth-proxy to measure
	doc               string        // the page with the table; empty: only print it
	plot              string        // the SVG beside it
	rounds            int           // interleaved, of each subject
	requests          int           // in a round
	concurrency       int           // connections that send at once
	rateDuration      time.Duration // how long the fixed rate is held for each subject
	reconnectDuration time.Duration // how long clients reconnect for each request
	pause             time.Duration // without load, between measurements
	limit             float64       // CPU time per request against the bare ReverseProxy; 0: none
}

func main() {
	if len(os.Args) > 1 {
		if role, ok := roles[os.Args[1]]; ok {
			exit(role(os.Args[2:]))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exit(run(ctx, readPlan(), os.Stdout))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func readPlan() plan {
	var p plan
	flag.StringVar(&p.program, "program", "bin/pleo-auth-proxy", "the `file` to measure")
	flag.StringVar(&p.doc, "doc", "", "the `page` whose table to replace; the plot is written beside it")
	flag.IntVar(&p.rounds, "rounds", 5, "interleaved rounds")
	flag.IntVar(&p.requests, "requests", 20_000, "requests of a round")
	flag.IntVar(&p.concurrency, "concurrency", 16, "connections that send at once")
	flag.DurationVar(&p.rateDuration, "at-rate", 10*time.Second, "how long to hold the fixed rate")
	flag.DurationVar(&p.reconnectDuration, "reconnect", 4*time.Second, "how long to reconnect for each request")
	flag.DurationVar(&p.pause, "rest", 300*time.Millisecond, "rest between measurements")
	flag.Float64Var(&p.limit, "limit", 1.25, "maximum CPU time per request relative to the bare ReverseProxy; 0: no limit")
	flag.Parse()
	if p.doc != "" {
		p.plot = p.doc[:len(p.doc)-len(".md")] + ".svg"
	}
	return p
}

// run measures and writes the results.
func run(ctx context.Context, p plan, out io.Writer) error {
	on := machine(ctx) // before the load of this program
	field, err := assemble(ctx, p)
	if err != nil {
		return err
	}
	defer field.close()
	results, err := measure(ctx, p, field.subjects, out)
	if err != nil {
		return err
	}
	r := report{plan: p, results: results, machine: on}
	if _, err := io.WriteString(out, r.table()); err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	if p.doc != "" {
		if err := r.publish(); err != nil {
			return err
		}
	}
	return r.check()
}

// errLimitExceeded means that the program uses more CPU time than permitted.
var errLimitExceeded = errors.New("the program uses more CPU time per request than its limit")
