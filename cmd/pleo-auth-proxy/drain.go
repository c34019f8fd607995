package main

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/listen"
)

// phase is the phase of a server's life. The zero phase is starting.
type phase struct{ now atomic.Int32 }

const (
	starting int32 = iota
	serving
	draining
)

func (p *phase) set(now int32) { p.now.Store(now) }

// Why a server is not ready, as /readyz reports it.
var (
	errStarting = errors.New("starting")
	errDraining = errors.New("draining")
)

// ready returns nil while the server accepts requests.
func (p *phase) ready() error {
	switch p.now.Load() {
	case starting:
		return errStarting
	case draining:
		return errDraining
	}
	return nil
}

// drain shuts the server down in order. It first reports that it is not ready, then
// stops accepting requests and finishes those in flight, and starts no refreshes and
// saves those in flight. Probes and metrics are served until the last token pair is
// saved. shutdown.drain only limits the requests: a token pair that is not saved yet
// is worth waiting for.
func (s *server) drain(signals <-chan os.Signal) {
	s.phase.set(draining)
	s.log.Info("draining", zap.Duration("timeout", s.cfg.Shutdown.Drain))
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

// drainsRequests reports whether requests in flight are worth waiting for: those of
// clients, and those of customers who have just given consent or a key.
func drainsRequests(l *listen.Listener) bool {
	return l.Role == listen.Proxy || l.Role == listen.Connect
}

func (s *server) finishRequests(ctx context.Context) {
	var running sync.WaitGroup
	for _, l := range s.listeners {
		if !drainsRequests(l) {
			continue
		}
		running.Go(func() {
			if !l.Shutdown(ctx) {
				s.log.Warn("closed connections with requests in flight, after shutdown.drain", zap.String("listener", l.Name))
			}
		})
	}
	running.Wait()
}

func (s *server) finishRefreshes(ctx context.Context) {
	if err := s.parts.manager.Drain(ctx); err != nil {
		s.log.Warn("refreshes took longer than shutdown.drain; their token pairs are saved, at least in the spool")
	}
}

// operatorShutdownTimeout lets a scrape in flight end.
const operatorShutdownTimeout = time.Second

func (s *server) closeOperatorListeners() {
	ctx, cancel := context.WithTimeout(context.Background(), operatorShutdownTimeout)
	defer cancel()
	for _, l := range s.listeners {
		if !drainsRequests(l) {
			_ = l.Shutdown(ctx) // an interrupted probe is no loss
		}
	}
}

// logSignals logs signals that arrive while the server drains. They do not speed it
// up: it may be waiting for the only copy of a token pair to be saved.
func (s *server) logSignals(signals <-chan os.Signal) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-done:
				return
			case sig := <-signals:
				s.log.Warn("already draining; killing the program now may lose a token that is not saved yet", zap.Stringer("signal", sig))
			}
		}
	})
	return func() { close(done); running.Wait() }
}
