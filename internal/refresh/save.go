package refresh

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/broadcast"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

const (
	// spoolDelay is how long the store alone has to confirm a new pair.
	spoolDelay = 20 * time.Millisecond
	// saveTimeout bounds one attempt to save, which is repeated until it succeeds.
	saveTimeout = 30 * time.Second
	// The delay between attempts doubles: a pair is saved within a second of the
	// store's return.
	minSaveRetryDelay = 50 * time.Millisecond
	maxSaveRetryDelay = 250 * time.Millisecond
)

// saver makes new token pairs durable and installs them.
type saver struct {
	store   Store
	cache   *cache
	life    *lifecycle
	metrics *metrics
	health  *health
	shared  bool
	now     func() time.Time
	jitter  func(time.Duration) time.Duration

	stored broadcast.Signal // when the store has responded to an attempt to save
}

// obtained is a new token pair on its way into the store.
type obtained struct {
	credstore.Successor

	entry  *entry
	flight *flight
	record spool.Record // reserved for it
	sentAt time.Time    // when the parent was sent
}

// saveResult is the store's response to one attempt.
type saveResult struct {
	conn credstore.Connection
	err  error
}

// undecided reports whether saving must be tried again: only a store that has
// saved the pair, or has a newer one, decides.
func (r saveResult) undecided() bool {
	return r.err != nil && !errors.Is(r.err, credstore.ErrSuperseded) && !errors.Is(r.err, credstore.ErrNotFound)
}

// complete makes the pair durable in the store or, if that takes longer than
// spoolDelay, in the spool; releases the waiters when either has it; and returns
// when the store has it. It reports false if the pair was superseded, and if the
// process gave up and left the pair to the spool. It never gives up the only copy.
func (s *saver) complete(p obtained) (saved bool, err error) {
	s.health.addUnsaved(1)
	defer s.health.addUnsaved(-1)
	first := s.trySave(p)
	select {
	case r := <-first:
		if !r.undecided() {
			return s.finish(p, r)
		}
		first = resolved(r)
	case <-time.After(spoolDelay):
	}
	spooled, first := s.writeSpool(p, first)
	if !spooled {
		// Neither has it. The store may still respond to the first attempt; if it
		// fails, the pair is served from memory.
		r := <-first
		if !r.undecided() {
			return s.finish(p, r)
		}
		first = resolved(r)
	}
	s.handOut(p)
	return s.saveUntilDone(p, first, spooled)
}

// resolved returns a channel with the result.
func resolved(r saveResult) <-chan saveResult {
	c := make(chan saveResult, 1)
	c <- r
	return c
}

// trySave tries once, in the background.
func (s *saver) trySave(p obtained) <-chan saveResult {
	c := make(chan saveResult, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), saveTimeout)
		defer cancel()
		conn, err := s.store.Save(ctx, p.Successor)
		c <- saveResult{conn, err}
	}()
	return c
}

// writeSpool writes the pair to the spool and reports whether that has it. If the
// store confirms meanwhile, the waiters are released: they do not wait for a
// slower disk.
func (s *saver) writeSpool(p obtained, first <-chan saveResult) (spooled bool, _ <-chan saveResult) {
	written := make(chan error, 1)
	go func() { written <- p.record.Write(p.Successor) }()
	var err error
	select {
	case err = <-written:
	case r := <-first:
		first = resolved(r)
		if r.err == nil {
			s.handOut(p)
		}
		if err = <-written; !r.undecided() {
			return err == nil, first
		}
	}
	if err != nil {
		s.cache.logger(p.entry).Error("a new token pair is in memory only: neither the store nor the spool could be written", zap.Error(err))
	}
	return err == nil, first
}

// saveUntilDone repeats the attempt until the store has decided about the pair.
// When the process gives up, a pair that is in the spool stays there.
func (s *saver) saveUntilDone(p obtained, attempt <-chan saveResult, spooled bool) (saved bool, err error) {
	for delay := minSaveRetryDelay; ; delay = min(2*delay, maxSaveRetryDelay) {
		r := <-attempt
		if !r.undecided() {
			return s.finish(p, r)
		}
		s.metrics.storeErrors.Inc()
		s.cache.logger(p.entry).Error("saving a new token pair failed; retrying", zap.Bool("spooled", spooled), zap.Error(r.err))
		if !spooled {
			spooled = p.record.Write(p.Successor) == nil
		}
		if s.waitToRetry(delay, spooled) {
			p.record.Release()
			return false, nil
		}
		attempt = s.trySave(p)
	}
}

// waitToRetry waits for the delay, or until the store has saved another pair:
// waiting pairs are tried at different times, and the first to succeed wakes the
// others. It reports whether the process gives up, which it does not while only
// memory has the pair.
func (s *saver) waitToRetry(delay time.Duration, spooled bool) (giveUp bool) {
	timer := time.NewTimer(delay/2 + s.jitter(delay/2))
	defer timer.Stop()
	var end <-chan struct{}
	if spooled {
		end = s.life.ctx.Done()
	}
	select {
	case <-timer.C:
	case <-s.stored.Wait():
	case <-end:
		return true
	}
	return false
}

// finish ends the refresh of a pair that the store has saved or superseded.
func (s *saver) finish(p obtained, r saveResult) (saved bool, err error) {
	s.stored.Broadcast()
	if r.err != nil {
		s.metrics.count(resultSuperseded, p.flight.purpose)
		s.cache.logger(p.entry).Warn("dropped a new token pair: the connection has a newer credential or was removed")
		p.entry.revert()
		return false, s.cache.rereadNow(p.entry)
	}
	result := resultRefreshed
	if p.RefreshFailure != nil {
		result = resultIncomplete
	}
	s.metrics.count(result, p.flight.purpose)
	s.install(p, r.conn)
	s.cache.logger(p.entry).Info(string(result), zap.Int64("version", r.conn.Version), zap.String("reason", p.flight.purpose.reason()),
		zap.Duration("took", s.now().Sub(p.sentAt)))
	p.flight.land(nil)
	return true, nil
}

// handOut gives the pair to the waiters before the store has it.
func (s *saver) handOut(p obtained) {
	conn := p.entry.current.Load().conn
	conn.Version, conn.Status, conn.Reason = p.Parent.Version+1, credstore.Active, ""
	conn.ExpiresAt, conn.RefreshedAt, conn.LastError = p.ExpiresAt, p.ObtainedAt, nil
	if f := p.RefreshFailure; f != nil {
		conn.Status, conn.Reason, conn.LastError = credstore.Degraded, f.Reason, &f.Failure
	}
	s.install(p, conn)
	p.flight.land(nil)
}

// install puts the pair into memory.
func (s *saver) install(p obtained, conn credstore.Connection) {
	p.entry.proven.Store(conn.Version)
	if s.shared {
		p.entry.latest.Store(&p.Successor)
	}
	var retryAt time.Time
	if p.RefreshFailure != nil {
		retryAt = p.RefreshFailure.RetryAt
	}
	s.cache.install(p.entry, credstore.State{
		Connection: conn,
		RetryAt:    retryAt,
		Credential: credstore.Credential{
			ConnectionID: conn.ID, Version: conn.Version,
			AccessToken: p.AccessToken, RefreshToken: p.RefreshToken,
			ExpiresAt: p.ExpiresAt, ObtainedAt: p.ObtainedAt,
		},
	})
}
