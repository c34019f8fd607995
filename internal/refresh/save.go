package refresh

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	// spoolDelay is how long the store alone is given to confirm a new pair.
	spoolDelay = 20 * time.Millisecond
	// saveTimeout bounds one try to save; it is tried again until it succeeds.
	saveTimeout = 30 * time.Second
	// Tries are this far apart at most, doubling: a pair is saved within a second of
	// the store's return.
	minSaveRetryDelay = 50 * time.Millisecond
	maxSaveRetryDelay = 250 * time.Millisecond
)

// complete makes the successor durable, in the store or, if that takes longer than
// spoolDelay, in the spool, whichever is first; hands it out; and returns when the
// store has it. It does not return before that unless the spool has it and the
// process gives up.
func (a *attempt) complete(s credstore.Successor) error {
	a.m.health.addUnsaved(1)
	defer a.m.health.addUnsaved(-1)
	first := a.save(s)
	select {
	case r := <-first:
		if !r.again() {
			return a.saved(s, r)
		}
		first = settledResult(r)
	case <-time.After(spoolDelay):
	}
	spooled, first := a.spool(s, first)
	if !spooled {
		if r := <-first; !r.again() {
			return a.saved(s, r)
		}
		first = settledResult(saveResult{err: credstore.ErrUnavailable})
	}
	a.handOut(s)
	return a.saveAgain(s, first, spooled)
}

// spool fills the slot, and reports whether the spool has the pair then. A store
// that confirms meanwhile releases the waiters: they do not wait for a slower disk.
func (a *attempt) spool(s credstore.Successor, first <-chan saveResult) (spooled bool, _ <-chan saveResult) {
	filled := make(chan error, 1)
	go func() { filled <- a.slot.Write(s) }()
	select {
	case err := <-filled:
		return a.spooled(err), first
	case r := <-first:
		if r.again() {
			return a.spooled(<-filled), settledResult(r)
		}
		if r.err == nil {
			a.handOut(s)
		}
		return <-filled == nil, settledResult(r)
	}
}

// spooled says so when the pair is in memory only.
func (a *attempt) spooled(err error) bool {
	if err != nil {
		a.m.logger(a.e).Error("a new token pair is in memory only: neither the store nor the spool has taken it yet", errField(err))
	}
	return err == nil
}

// saveResult is what the store said to one try.
type saveResult struct {
	conn credstore.Connection
	err  error
}

// again reports whether saving should be tried again: only a store that has
// answered, by taking the pair or by having a newer one, settles it.
func (r saveResult) again() bool {
	return r.err != nil && !errors.Is(r.err, credstore.ErrSuperseded) && !errors.Is(r.err, credstore.ErrNotFound)
}

func settledResult(r saveResult) <-chan saveResult {
	c := make(chan saveResult, 1)
	c <- r
	return c
}

// save tries once, in the background.
func (a *attempt) save(s credstore.Successor) <-chan saveResult {
	c := make(chan saveResult, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), saveTimeout)
		defer cancel()
		conn, err := a.m.Store.Credentials.Save(ctx, s)
		c <- saveResult{conn, err}
	}()
	return c
}

// saveAgain tries until the store has settled the pair. When the process gives
// up, a pair that the spool holds is left to it.
func (a *attempt) saveAgain(s credstore.Successor, result <-chan saveResult, spooled bool) error {
	for wait := minSaveRetryDelay; ; wait = min(2*wait, maxSaveRetryDelay) {
		r := <-result
		if !r.again() {
			return a.saved(s, r)
		}
		a.m.metrics.storeErrors.Inc()
		a.m.logger(a.e).Error("saving a new token pair; it is tried again", zap.Bool("spooled", spooled), errField(r.err))
		if !spooled {
			spooled = a.slot.Write(s) == nil
		}
		if a.restBeforeSaving(wait, spooled) {
			a.slot.Release()
			return nil
		}
		result = a.save(s)
	}
}

// restBeforeSaving waits for the next try to save, or until the store has settled
// another pair: those that wait try at different times, and the first to succeed
// wakes the others. It reports whether the pair can be left to the spool, since the
// process gives up. With the only copy in memory the process does not get to give
// up.
func (a *attempt) restBeforeSaving(wait time.Duration, spooled bool) (leave bool) {
	timer := time.NewTimer(wait/2 + a.m.Jitter(wait/2))
	defer timer.Stop()
	var end <-chan struct{}
	if spooled {
		end = a.m.lifetime.Done()
	}
	select {
	case <-timer.C:
	case <-a.m.storeBack.Wait():
	case <-end:
		return true
	}
	return false
}

// saved ends a refresh whose pair the store has taken, or has no use for.
func (a *attempt) saved(s credstore.Successor, r saveResult) error {
	a.m.storeBack.Broadcast()
	if r.err != nil {
		a.count(resultSuperseded)
		a.m.logger(a.e).Warn("a new token pair was dropped: the connection has a newer credential or was removed")
		a.e.revert()
		return a.rereadNow()
	}
	result := resultRefreshed
	if s.RefreshFailure != nil {
		result = resultIncomplete
	}
	a.count(result)
	a.install(s, r.conn)
	a.m.logger(a.e).Info(string(result), zap.Int64("version", r.conn.Version), zap.String("reason", a.why.reason()),
		zap.Duration("took", a.m.Now().Sub(a.began)))
	a.finish(nil)
	a.release()
	a.m.oracle.calibrate(s.RefreshToken)
	a.m.identify(a.e, s.AccessToken)
	return nil
}

// handOut gives the pair to the waiters before the store has it.
func (a *attempt) handOut(s credstore.Successor) {
	conn := a.e.current.Load().conn
	conn.Version, conn.Status, conn.Reason = s.Parent.Version+1, credstore.Active, ""
	conn.ExpiresAt, conn.RefreshedAt, conn.LastError = s.ExpiresAt, s.ObtainedAt, nil
	if f := s.RefreshFailure; f != nil {
		conn.Status, conn.Reason, conn.LastError = credstore.Degraded, f.Reason, &f.Failure
	}
	a.install(s, conn)
	a.finish(nil)
}

// install puts the pair in memory.
func (a *attempt) install(s credstore.Successor, conn credstore.Connection) {
	a.e.proven.Store(conn.Version)
	if a.m.Shared {
		a.e.latest.Store(&s)
	}
	var retryAt time.Time
	if s.RefreshFailure != nil {
		retryAt = s.RefreshFailure.RetryAt
	}
	a.m.install(a.e, credstore.State{
		Connection: conn,
		RetryAt:    retryAt,
		Credential: credstore.Credential{
			ConnectionID: conn.ID, Version: conn.Version,
			AccessToken: s.AccessToken, RefreshToken: s.RefreshToken,
			ExpiresAt: s.ExpiresAt, ObtainedAt: s.ObtainedAt,
		},
	})
}

// revert makes the entry take whatever the store holds, although memory knows a
// higher version: that one has been superseded.
func (e *entry) revert() {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := *e.current.Load()
	s.conn.Version, s.auth = 0, nil
	e.current.Store(&s)
}
