package refresh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/breaker"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/rollback"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

const (
	// responseTimeout is how long the authorization server may take. Losing a
	// response loses the grant, so it is long.
	responseTimeout = 60 * time.Second
	// ownerTimeout is how long to wait for a successor that another process seems to
	// have.
	ownerTimeout = 10 * time.Minute
	// peerSaveTimeout is the same after a shared store lost changes: its other users
	// notice within seconds.
	peerSaveTimeout = 30 * time.Second
	// introspectionRetryDelay is when introspection is tried again that failed for an
	// orphaned intent, for introspectionFailureTimeout: the successor may be in a
	// spool that has not been replayed.
	introspectionRetryDelay     = 5 * time.Second
	introspectionFailureTimeout = 24 * time.Hour
	// rollbackRetryDelay is when clients may try again while a restored store waits
	// to be accepted.
	rollbackRetryDelay = 10 * time.Second
	// notConfiguredRetryDelay is when they may try again for a token that cannot be
	// refreshed here.
	notConfiguredRetryDelay = time.Minute
	// minLeaseRemaining is what must be left of a lease when a token is sent.
	minLeaseRemaining = 2 * time.Second
	// leaseIdlePollInterval is how often a lease that another process holds is tried
	// while no request waits.
	leaseIdlePollInterval = time.Second
	// leaseTimeout is how long it is tried.
	leaseTimeout = responseTimeout + 30*time.Second
)

var (
	errUnsaved       = errors.New("a new token pair is not saved yet")
	errNotConfigured = errors.New("OAuth is not configured here: set oauth.client_id and oauth.client_secret")
)

// refresher refreshes token pairs, one connection at a time. It holds what a
// refresh needs and no state of one: that is passed from step to step.
type refresher struct {
	*core
	guard         *rollback.Guard
	breaker       *breaker.Breaker
	introspection *introspection
	companies     *companies
	recorder      *recorder
	saver         *saver

	onDemand   *semaphore.Weighted
	background *semaphore.Weighted
}

// run refreshes the token pair of the entry and lands the flight. It returns when
// the pair is saved, or spooled if the process gives up on the store.
func (r *refresher) run(ctx context.Context, e *entry, f *flight) {
	leave, err := r.waitTurn(ctx, f)
	if err != nil {
		f.land(e.retryLater(time.Second, err))
		return
	}
	defer leave()
	pair, err := r.refresh(ctx, e, f)
	f.land(err) // unless it landed when the pair was durable
	if pair != nil {
		r.introspection.calibrate(pair.RefreshToken)
		r.companies.identify(e, pair.AccessToken)
	}
}

// refresh is the sequence of one refresh. It returns the new pair if the store has
// saved it. Without a pair and an error there was nothing to do, or another
// process has done it.
func (r *refresher) refresh(ctx context.Context, e *entry, f *flight) (*credstore.Successor, error) {
	lease, err := r.acquireLease(ctx, e, f)
	if lease == nil || err != nil {
		return nil, err
	}
	defer r.releaseLease(e, lease)
	state, err := r.loadState(ctx, e)
	if err != nil || e.current.Load().satisfies(f.purpose, r.Now()) {
		return nil, err
	}
	l := leased{entry: e, flight: f, lease: lease, state: state}

	// May the refresh token be sent now?
	if done, err := r.checkPreconditions(ctx, l); done || err != nil {
		return nil, err
	}
	if done, err := r.checkSuccessor(ctx, l); done || err != nil {
		return nil, err
	}
	permit, err := r.breaker.Allow(ctx)
	if err != nil {
		return nil, notAllowed(e, err)
	}

	// Nothing is sent that is not recorded, and nothing without space for its result.
	record, intent, err := r.recordIntent(ctx, l)
	if err != nil {
		r.breaker.Record(permit, e.id, breaker.Inconclusive)
		return nil, err
	}
	defer record.Remove() // does nothing if the record was released to the next process
	sentAt := r.Now()
	tokens, err := r.send(l)
	breakerOpen := r.breaker.Record(permit, e.id, r.resultOf(l, err))
	if err != nil {
		return nil, r.recorder.record(l, intent, err, breakerOpen)
	}

	pair := r.successor(l, tokens, sentAt)
	saved, err := r.saver.complete(obtained{Successor: pair, entry: e, flight: f, record: record, sentAt: sentAt})
	if !saved {
		return nil, err
	}
	return &pair, nil
}

// waitTurn waits until records of earlier processes are replayed, and for room
// among the refreshes of this process. A background refresh that a request comes
// to wait for leaves the queue of background refreshes.
func (r *refresher) waitTurn(ctx context.Context, f *flight) (leave func(), err error) {
	if err := r.recovered(ctx); err != nil {
		return nil, err
	}
	queued, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-f.urgent:
			cancel()
		case <-queued.Done():
		}
	}()
	if f.purpose.reason.background() && r.background.Acquire(queued, 1) == nil {
		return func() { r.background.Release(1) }, nil
	}
	if err := r.onDemand.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	return func() { r.onDemand.Release(1) }, nil
}

// recovered waits until the store has been compared with its high-water mark and
// the spool has been replayed, which may hold the successor of the token that is
// about to be sent. The spool is not replayed into a restored store; nothing is
// sent from that either.
func (r *refresher) recovered(ctx context.Context) error {
	if r.Spool == nil {
		return nil
	}
	if err := await(ctx, r.guard.Compared()); err != nil || r.guard.Detected() {
		return err
	}
	return await(ctx, r.Spool.Replayed())
}

// acquireLease acquires the lease. It returns nil if the process that held it has
// done this refresh.
func (r *refresher) acquireLease(ctx context.Context, e *entry, f *flight) (credstore.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	for {
		lease, err := r.tryAcquire(ctx, e)
		if err == nil {
			return lease, nil
		}
		if !errors.Is(err, credstore.ErrBusy) {
			r.health.recordStore(err)
			return nil, r.cache.entryError(e, err)
		}
		if err := r.cache.reread(ctx, e); err != nil || e.current.Load().satisfies(f.purpose, r.Now()) {
			return nil, err
		}
		if pauseUntilUrgent(ctx, f) != nil {
			return nil, e.retryLater(time.Second, credstore.ErrBusy)
		}
	}
}

func (r *refresher) tryAcquire(ctx context.Context, e *entry) (credstore.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return r.Store.Acquire(ctx, e.id, r.Owner)
}

// pauseUntilUrgent waits until the lease is tried again: longer while no request
// waits, since the process that holds it is probably refreshing.
func pauseUntilUrgent(ctx context.Context, f *flight) error {
	select {
	case <-f.urgent:
		return pause(ctx, credstore.LeasePollInterval)
	default:
	}
	select {
	case <-time.After(leaseIdlePollInterval):
		return nil
	case <-f.urgent:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *refresher) releaseLease(e *entry, lease credstore.Lease) {
	if err := lease.Release(); err != nil {
		r.cache.logger(e).Warn("releasing a lease", zap.Error(err))
	}
}

// loadState reads the state again, under the lease.
func (r *refresher) loadState(ctx context.Context, e *entry) (credstore.State, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return r.cache.read(ctx, e)
}

// checkPreconditions reports whether there is nothing to refresh. The error says
// why the refresh token may not be sent now.
func (r *refresher) checkPreconditions(ctx context.Context, l leased) (done bool, err error) {
	s, now := l.entry.current.Load(), r.Now()
	if err := s.unusable(); err != nil {
		return false, err
	}
	if done, err := r.verifyCompany(ctx, l); done || err != nil {
		return done, err
	}
	if s.conn.Version > l.state.Credential.Version {
		if err := r.fallBack(l, s, now); err != nil {
			return false, err
		}
		s = l.entry.current.Load()
	}
	switch p := l.flight.purpose; {
	case r.Server == nil || l.state.Credential.RefreshToken.IsZero():
		return false, l.entry.retryLater(notConfiguredRetryDelay, errNotConfigured)
	case p.reason == reasonRequested && !l.requested():
		return true, nil // another process has done it
	case l.unneeded(s, now):
		return true, nil
	case r.guard.Detected():
		return false, l.entry.retryLater(rollbackRetryDelay, rollback.ErrRestored)
	case p.reason == reasonRejected && l.forcedTooSoon(now):
		return false, ErrSuppressed
	}
	if left := s.retryAt.Sub(now); left > 0 && !l.skipsDelay() {
		return false, l.entry.retryLater(left, nil)
	}
	if err := r.guard.Recheck(ctx); err != nil {
		return false, r.cache.entryError(l.entry, err)
	}
	return false, nil
}

// verifyCompany finds out whose the pair of a consent is, if a crash or an
// unavailable API prevented that before. It reports true if the pair may be used.
// A pair whose access token has expired is refreshed first.
func (r *refresher) verifyCompany(ctx context.Context, l leased) (usable bool, err error) {
	if !l.state.Connection.CompanyUnverified || l.state.Credential.AccessToken.IsZero() {
		return false, nil
	}
	found, err := r.companies.find(ctx, l.state.Connection, l.state.Credential)
	if errors.Is(err, pleo.ErrUnauthorized) {
		return false, nil
	}
	if err != nil {
		return false, l.entry.retryLater(introspectionRetryDelay, err)
	}
	r.companies.record(ctx, l.entry, found.company)
	s := l.entry.current.Load()
	if s.valid(r.Now()) {
		return true, nil
	}
	if err := s.unusable(); err != nil {
		return false, err
	}
	return false, l.entry.retryLater(time.Second, nil)
}

// fallBack returns to the stored credential if a newer one in memory is lost for
// good: a shared store has lost it after confirming it, and it is of no use any
// more.
func (r *refresher) fallBack(l leased, s *snapshot, now time.Time) error {
	if !r.Shared {
		// The pair is being saved, and the stored refresh token has been exchanged.
		return l.entry.retryLater(time.Second, errUnsaved)
	}
	p := l.flight.purpose
	if s.valid(now) && !(p.reason == reasonRejected && s.conn.Version <= p.version) {
		return l.entry.retryLater(max(s.expiresAt.Sub(now), time.Second), errUnsaved)
	}
	l.entry.revert()
	r.cache.install(l.entry, l.state)
	return nil
}

// checkSuccessor decides whether the refresh token may be sent although a
// successor may exist: after an orphaned intent, or if the token comes from a time
// that this process knows nothing of. It reports true if the connection needs
// nothing more; the error says when to try again.
func (r *refresher) checkSuccessor(ctx context.Context, l leased) (done bool, err error) {
	intent, token := l.state.Intent, l.state.Credential
	if intent != nil && intent.Outcome == credstore.OutcomeUnknown {
		return false, nil // no process can have the successor, and retryAt has passed
	}
	if intent == nil && l.entry.proven.Load() == token.Version && r.suspectSince(l.state).IsZero() {
		return false, nil
	}
	result := r.introspection.check(ctx, token.RefreshToken)
	// Both are read after the introspection, which takes its time: meanwhile the store
	// may have failed over, or the spool may have been found empty.
	suspectSince, ownerLeft := r.suspectSince(l.state), r.ownerTimeLeft(l.state)
	switch result {
	case tokenActive:
		return false, nil
	case tokenInactive:
		if ownerLeft > 0 {
			return false, l.entry.retryLater(ownerLeft, nil)
		}
		// Even if this comes too late to be recorded: then the credential was changed,
		// and must not be sent either.
		return true, r.recorder.reject(l, inactiveToken)
	case tokenUntrusted:
		if ownerLeft > 0 {
			return false, l.entry.retryLater(ownerLeft, nil)
		}
	case introspectionFailed:
		if !suspectSince.IsZero() && r.Now().Sub(suspectSince) < introspectionFailureTimeout {
			return false, l.entry.retryLater(introspectionRetryDelay, nil)
		}
	case introspectionUnsupported:
	}
	if intent == nil {
		return false, nil
	}
	// The owner's request may be on its way until the response timeout.
	if left := responseTimeout - r.Now().Sub(intent.At); left > 0 {
		return false, l.entry.retryLater(left, nil)
	}
	return false, nil
}

// suspectSince returns when something happened after which the refresh token is
// sent only if introspection has succeeded or is not supported; zero if nothing
// has.
func (r *refresher) suspectSince(s credstore.State) time.Time {
	switch {
	case s.Intent != nil:
		return s.Intent.At
	case s.Connection.Reason == credstore.ReasonRetryRequested:
		return s.RequestedAt // it was rejected, or called inactive, before
	default:
		return r.guard.SuspectSince(s.Credential.ObtainedAt)
	}
}

// ownerTimeLeft returns how long to wait for another process to bring the
// successor: the owner of an orphaned intent may have it in a spool that this
// process cannot read, and after a shared store has lost changes, the processes
// save again what they have obtained.
func (r *refresher) ownerTimeLeft(s credstore.State) time.Duration {
	if intent := s.Intent; intent != nil {
		if r.Spool.Abandoned(intent.Parent) {
			return 0
		}
		return ownerTimeout - r.Now().Sub(intent.At)
	}
	since := r.guard.SuspectSince(s.Credential.ObtainedAt)
	if !r.Shared || since.IsZero() {
		return 0
	}
	return peerSaveTimeout - r.Now().Sub(since)
}

// notAllowed is the error of a refresh that the circuit breaker does not allow.
func notAllowed(e *entry, err error) error {
	var open *breaker.OpenError
	if !errors.As(err, &open) {
		return e.retryLater(time.Second, err)
	}
	return &Error{
		Code: ServerUnavailable, Connection: e.current.Load().conn.Name,
		Reason: credstore.ReasonCircuitBreakerOpen, RetryAfter: open.RetryAfter, Err: breaker.ErrOpen,
	}
}

// recordIntent reserves a spool record and writes the intent. The token may be
// sent only if both are durable.
func (r *refresher) recordIntent(ctx context.Context, l leased) (spool.Record, credstore.Intent, error) {
	parent := l.state.Credential.Parent()
	record, err := r.Spool.Reserve(parent)
	r.health.spool.set(err)
	if err != nil {
		r.cache.logger(l.entry).Error("no refresh is started: the spool cannot be written", zap.Error(err))
		return nil, credstore.Intent{}, r.cache.entryError(l.entry, fmt.Errorf("reserving a spool record: %w", err))
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	intent, err := r.Store.RecordIntent(ctx, l.lease, parent, r.Now())
	r.health.recordStore(err)
	switch {
	case errors.Is(err, credstore.ErrSuperseded):
		_ = r.cache.reread(ctx, l.entry) // counted; the waiters use what memory has
		err = r.cache.entryError(l.entry, err)
	case err != nil:
		err = r.cache.entryError(l.entry, err)
	case l.lease.Remaining() < minLeaseRemaining:
		_ = r.recorder.cancelIntent(l, intent, nil) // the error to return is that the lease has ended
		err = l.entry.retryLater(time.Second, credstore.ErrLeaseLost)
	}
	if err != nil {
		record.Remove()
		return nil, intent, err
	}
	return record, intent, nil
}

// send sends the refresh token. Nothing but the timeout cancels it.
func (r *refresher) send(l leased) (pleo.Tokens, error) {
	ctx, cancel := context.WithTimeout(context.Background(), responseTimeout)
	defer cancel()
	l.flight.sent.Store(true)
	start := r.Now()
	tokens, err := r.Server.Refresh(ctx, l.state.Credential.RefreshToken)
	r.health.recordServer(err)
	r.metrics.duration.Observe(r.Now().Sub(start).Seconds())
	return tokens, err
}

// resultOf is what the outcome means for the circuit breaker. The rejection of a
// token that another process has replaced was to be expected.
func (r *refresher) resultOf(l leased, err error) breaker.Result {
	if err == nil {
		return breaker.Accepted
	}
	var response *pleo.ResponseError
	if !errors.As(err, &response) || response.Class != pleo.TokenRejected || r.superseded(l.state) {
		return breaker.Inconclusive
	}
	return breaker.Rejected
}

// superseded reports whether the store is known to have another credential by now.
func (r *refresher) superseded(was credstore.State) bool {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	state, err := r.Store.Read(ctx, was.Connection.ID)
	if errors.Is(err, credstore.ErrNotFound) {
		return true
	}
	return err == nil && state.Credential.Parent() != was.Credential.Parent()
}

// successor is the credential that the response makes of its parent.
func (r *refresher) successor(l leased, t pleo.Tokens, sentAt time.Time) credstore.Successor {
	s := credstore.Successor{
		Parent:       l.state.Credential.Parent(),
		AccessToken:  t.AccessToken,
		RefreshToken: t.RefreshToken,
		ExpiresAt:    expiryOf(t),
		ObtainedAt:   t.SentAt,
		Scope:        t.Scope,
	}
	s.ForcedAt, s.ForcedStreak = l.nextForced(sentAt)
	if s.RefreshToken.IsZero() {
		s.RefreshToken = l.state.Credential.RefreshToken
	}
	if s.AccessToken.IsZero() {
		s.ExpiresAt = t.SentAt // there is none to use: due at once
		s.RefreshFailure = r.accessTokenMissing(l, s.ForcedStreak)
	}
	return s
}

// accessTokenMissing is the failure recorded with a pair that has no readable
// access token. The next refresh may follow at once; after a second such response
// in a row it waits, longer each time, since each exchanges a token for nothing.
func (r *refresher) accessTokenMissing(l leased, streak int) *credstore.RefreshFailure {
	err := errors.New("the authorization server returned a refresh token without a readable access token")
	f := failureOf(r.Now(), codeAccessTokenMissing, credstore.ReasonAccessTokenMissing, 0, err)
	f.RetryAt = time.Time{}
	if l.lacksAccessToken() {
		f.RetryAt = r.Now().Add(min(2*forcedInterval(streak), maxForcedInterval))
	}
	r.cache.logger(l.entry).Warn("a refresh brought no access token; retrying", zap.String("code", codeAccessTokenMissing), zap.Time("retry_at", f.RetryAt))
	return &f
}

// expiryOf returns when the access token expires, or zero if that is unknown.
func expiryOf(t pleo.Tokens) time.Time {
	if t.Lifetime <= 0 {
		return time.Time{}
	}
	return t.SentAt.Add(t.Lifetime)
}
