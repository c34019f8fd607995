package refresh

import (
	"context"
	"errors"
	"sync"
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
	*core
	stored broadcast.Signal // when the store has decided about a pair
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
// when the store has it. If both fail, the waiters get the pair from memory. It
// reports false if the pair was superseded, and if the process gave up and left the
// pair to the spool. It never gives up the only copy.
func (s *saver) complete(p obtained) (saved bool, err error) {
	s.health.addUnsaved(1)
	defer s.health.addUnsaved(-1)
	attempt := s.trySave(p)
	var (
		first    = time.After(spoolDelay)
		retry    <-chan time.Time // between two attempts; another pair that is saved ends it too
		wake     <-chan struct{}
		written  <-chan error // while the spool is being written
		toSpool  bool         // the pair must be written to the spool
		spooled  bool
		failures int
		handOut  = sync.OnceFunc(func() { s.handOut(p) })
	)
	for {
		var giveUp <-chan struct{} // not during an attempt, and not with the only copy
		if spooled && retry != nil {
			giveUp = s.life.ctx.Done()
		}
		if toSpool && !spooled && written == nil {
			toSpool, written = false, writeSpool(p)
		}
		select {
		case r := <-attempt:
			if !r.undecided() {
				return s.finish(p, r, written)
			}
			s.metrics.storeErrors.Inc()
			s.cache.logger(p.entry).Error("saving a new token pair failed; retrying", zap.Bool("spooled", spooled), zap.Error(r.err))
			failures++
			toSpool, retry, wake = true, time.After(s.retryDelay(failures)), s.stored.Wait()
		case <-first:
			toSpool = true
		case err := <-written:
			written, spooled = nil, err == nil
			if err != nil {
				s.cache.logger(p.entry).Error("a new token pair is in memory only: the spool could not be written", zap.Error(err))
			}
			if spooled || failures > 0 {
				handOut()
			}
		case <-retry:
			attempt, retry, wake = s.trySave(p), nil, nil
		case <-wake:
			attempt, retry, wake = s.trySave(p), nil, nil
		case <-giveUp:
			p.record.Release()
			return false, nil
		}
	}
}

// retryDelay is the delay after that many failures. Pairs that wait for the store
// are tried at different times; the first to be saved wakes the others.
func (s *saver) retryDelay(failures int) time.Duration {
	delay := min(minSaveRetryDelay<<min(failures-1, 8), maxSaveRetryDelay)
	return delay/2 + s.Jitter(delay/2)
}

// trySave tries once, in the background.
func (s *saver) trySave(p obtained) <-chan saveResult {
	c := make(chan saveResult, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), saveTimeout)
		defer cancel()
		conn, err := s.Store.Save(ctx, p.Successor)
		c <- saveResult{conn, err}
	}()
	return c
}

// writeSpool writes the pair to the spool, in the background.
func writeSpool(p obtained) <-chan error {
	c := make(chan error, 1)
	go func() { c <- p.record.Write(p.Successor) }()
	return c
}

// finish ends the refresh of a pair that the store has saved or superseded. Then
// waiters do not wait for the spool, but the record must not be removed while it
// is being written.
func (s *saver) finish(p obtained, r saveResult, written <-chan error) (saved bool, err error) {
	s.stored.Broadcast()
	if r.err == nil {
		s.install(p, r.conn)
		p.flight.land(nil)
	}
	if written != nil {
		<-written //nolint:errcheck // the store has the pair, or a newer one
	}
	if r.err != nil {
		s.metrics.count(resultSuperseded, p.flight.purpose.reason)
		s.cache.logger(p.entry).Warn("dropped a new token pair: the connection has a newer credential or was removed")
		p.entry.revert()
		return false, s.cache.rereadNow(p.entry)
	}
	result := resultRefreshed
	if p.RefreshFailure != nil {
		result = resultIncomplete
	}
	s.metrics.count(result, p.flight.purpose.reason)
	s.cache.logger(p.entry).Info(string(result), zap.Int64("version", r.conn.Version), zap.String("reason", string(p.flight.purpose.reason)),
		zap.Duration("took", s.Now().Sub(p.sentAt)))
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
	if s.Shared {
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
