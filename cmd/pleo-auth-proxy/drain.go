package main

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// phase is where a server is in its life. The zero phase is the start.
type phase struct{ now atomic.Int32 }

const (
	starting int32 = iota
	serving
	draining
)

func (p *phase) set(now int32) { p.now.Store(now) }

// Why a server is not ready, as /readyz says it.
var (
	errStarting = errors.New("starting")
	errDraining = errors.New("draining")
)

// ready returns nil while requests should be sent here.
func (p *phase) ready() error {
	switch p.now.Load() {
	case starting:
		return errStarting
	case draining:
		return errDraining
	}
	return nil
}

// drain ends the server in order: not ready any more; no new requests, those
// under way finished; no new refreshes, those under way answered and saved.
// Probes and metrics are answered until the last token pair is safe. Only the
// requests are cut off after shutdown.drain: a token pair that nobody has saved
// is worth waiting for.
func (s *server) drain(signals <-chan os.Signal) {
	s.phase.set(draining)
	s.log.Info("draining", zap.Duration("at_most", s.cfg.Shutdown.Drain))
	stop := s.logSignals(signals)
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Shutdown.Drain)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { s.finishRequests(ctx) })
	running.Go(func() { s.finishRefreshes(ctx) })
	running.Wait()
	s.closeOperatorListeners()
}

// drainsRequests reports whether requests under way are worth waiting for: those of
// clients, and those of customers who have just given something.
func (l *listener) drainsRequests() bool { return l.forClients() || l.name == connectListener }

func (s *server) finishRequests(ctx context.Context) {
	var running sync.WaitGroup
	for _, l := range s.listeners {
		if !l.drainsRequests() {
			continue
		}
		running.Go(func() {
			if !l.shutdown(ctx) {
				s.log.Warn("requests were cut off, since they took longer than shutdown.drain", zap.String("listener", l.name))
			}
		})
	}
	running.Wait()
}

func (s *server) finishRefreshes(ctx context.Context) {
	if err := s.parts.manager.Drain(ctx); err != nil {
		s.log.Warn("refreshes took longer than shutdown.drain; what they brought is saved, at least in the spool")
	}
}

// operatorShutdownTimeout is for the answer to a scrape that is under way.
const operatorShutdownTimeout = time.Second

func (s *server) closeOperatorListeners() {
	ctx, cancel := context.WithTimeout(context.Background(), operatorShutdownTimeout)
	defer cancel()
	for _, l := range s.listeners {
		if !l.drainsRequests() {
			_ = l.shutdown(ctx) // a probe cut off now is no loss
		}
	}
}

// logSignals answers signals that come while the server drains: they do not
// hurry it, because the only copy of a token pair may be what it waits for.
func (s *server) logSignals(signals <-chan os.Signal) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-done:
				return
			case sig := <-signals:
				s.log.Warn("draining already; killing the program now may lose a token that is not saved yet", zap.Stringer("signal", sig))
			}
		}
	})
	return func() { close(done); running.Wait() }
}
