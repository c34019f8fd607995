package refresh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/breaker"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/rollback"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

const (
	// responseTimeout is how long the authorization server may take. Losing an
	// answer loses the grant, so it is long.
	responseTimeout = 60 * time.Second
	// ownerTimeout is how long a successor that another process seems to hold is
	// waited for.
	ownerTimeout = 10 * time.Minute
	// peerSaveTimeout is the same after a shared store has lost changes: its other users
	// notice within seconds.
	peerSaveTimeout = 30 * time.Second
	// introspectionRetryDelay is when introspection is asked again that gave no answer about a
	// dead owner's intent, for introspectionFailureTimeout: the successor may be in a spool
	// that nobody has read yet.
	introspectionRetryDelay     = 5 * time.Second
	introspectionFailureTimeout = 24 * time.Hour
	// rollbackRetryDelay is when clients may ask again while a restored store waits to
	// be accepted.
	rollbackRetryDelay = 10 * time.Second
	// notConfiguredRetryDelay is when clients may ask again for a token that cannot be
	// refreshed here.
	notConfiguredRetryDelay = time.Minute
	// leaseMargin is what must be left of a lease when a token is sent.
	leaseMargin = 2 * time.Second
	// leasePollInterval is how often a lease that somebody else holds is tried again.
	leasePollInterval = 50 * time.Millisecond
	// leaseIdlePollInterval is the same while nobody waits.
	leaseIdlePollInterval = time.Second
	// leaseTimeout is how long it is tried.
	leaseTimeout = responseTimeout + 30*time.Second
	// minForcedInterval is the least time between two refreshes that 401s asked for;
	// it doubles with each in a row, up to maxForcedInterval.
	minForcedInterval = 30 * time.Second
	maxForcedInterval = time.Hour
	// halfTimes is how much longer it is for answers in a row that bring nothing
	// to send.
	halfTimes = 2
)

// attempt is one refresh of one connection, from the lease to the saved pair.
type attempt struct {
	m      *Manager
	e      *entry
	why    purpose
	flight *flight

	lease  credstore.Lease // nil until it is held
	slot   spool.Record    // reserved in the spool; nil until then
	state  credstore.State // as read under the lease
	intent credstore.Intent
	began  time.Time
	permit breaker.Permit
	braked bool // the circuit breaker is open since the response
}

// run returns nil once a newer credential is in memory, or nothing was to do;
// else why there is none. What must outlast the waiters' release is done by
// then or has been handed over to settle.
func (a *attempt) run(ctx context.Context) error {
	leave, err := a.enter(ctx)
	if err != nil {
		return a.unavailable(err)
	}
	defer leave()
	if done, err := a.acquireLease(ctx); done || err != nil {
		return err
	}
	if done, err := a.checkPreconditions(ctx); done || err != nil {
		return err
	}
	if err := a.pass(ctx); err != nil {
		return err
	}
	if err := a.recordIntent(ctx); err != nil {
		a.m.breaker.Record(a.permit, a.e.id, breaker.Inconclusive)
		return err
	}
	return a.send()
}

// pass waits until the circuit breaker lets the token through.
func (a *attempt) pass(ctx context.Context) (err error) {
	a.permit, err = a.m.breaker.Allow(ctx)
	var open *breaker.OpenError
	if errors.As(err, &open) {
		return &Error{
			Code: ServerUnavailable, Connection: a.e.current.Load().conn.Name,
			Reason: credstore.ReasonCircuitBreakerOpen, RetryAfter: open.RetryAfter, Err: breaker.ErrOpen,
		}
	}
	if err != nil {
		return a.unavailable(err)
	}
	return nil
}

// enter waits for room among the refreshes of this process, and for what
// earlier processes left in the spool. A background refresh that a request
// comes to wait for no longer queues behind the others of its sort.
func (a *attempt) enter(ctx context.Context) (leave func(), err error) {
	if err := a.m.recovered(ctx); err != nil {
		return nil, err
	}
	patient, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-a.flight.urgent:
			cancel()
		case <-patient.Done():
		}
	}()
	if a.why.ahead && a.m.background.Acquire(patient, 1) == nil {
		return func() { a.m.background.Release(1) }, nil
	}
	if err := a.m.onDemand.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	return func() { a.m.onDemand.Release(1) }, nil
}

// recovered waits until the store has been compared with its witness, and the
// spool of earlier processes has been tried, which may hold the successor of the
// token that is about to be presented. Nothing is presented from a store that
// waits to be accepted; nor is the spool brought into it.
func (m *Manager) recovered(ctx context.Context) error {
	if m.Spool == nil {
		return nil
	}
	if err := m.guard.WaitCompared(ctx); err != nil || m.Restored() {
		return err
	}
	return await(ctx, m.Spool.Replayed())
}

// await returns when done is closed, or the context's error.
func await(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// acquireLease takes the lease and reads the state again under it. Whoever held it may
// have done our work: done is then true.
func (a *attempt) acquireLease(ctx context.Context) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	for {
		a.lease, err = a.acquire(ctx)
		if !errors.Is(err, credstore.ErrBusy) {
			break
		}
		if done, err := a.overtaken(ctx); done || err != nil {
			return done, err
		}
		if err := a.rest(ctx); err != nil {
			return false, a.unavailable(credstore.ErrBusy)
		}
	}
	if err != nil {
		a.m.health.recordStore(err)
		return false, a.storeError(err)
	}
	return a.loadState(ctx)
}

// acquire asks for the lease once.
func (a *attempt) acquire(ctx context.Context) (credstore.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return a.m.Store.Credentials.Acquire(ctx, a.e.id, a.m.Owner)
}

// rest waits until a lease that somebody else holds is tried again: longer while
// nobody waits for the refresh, which the holder is probably about.
func (a *attempt) rest(ctx context.Context) error {
	select {
	case <-a.flight.urgent:
		return pause(ctx, leasePollInterval)
	default:
	}
	timer := time.NewTimer(leaseIdlePollInterval)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-a.flight.urgent:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// overtaken reports whether the holder of the lease has saved what we want.
func (a *attempt) overtaken(ctx context.Context) (bool, error) {
	err := a.m.reread(ctx, a.e)
	return a.newer(), err
}

// loadState reads the state under the lease.
func (a *attempt) loadState(ctx context.Context) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	a.state, err = a.m.Store.Connections.Read(ctx, a.e.id)
	if errors.Is(err, credstore.ErrNotFound) {
		a.m.drop(a.e)
	}
	if err == nil {
		err = a.m.saveAnew(ctx, a.e, &a.state)
	}
	if err != nil {
		return false, a.storeError(err)
	}
	a.m.install(a.e, a.state)
	return a.newer(), nil
}

// newer reports whether memory holds a good credential newer than the one that
// needed a successor. If that is due itself, it is the next flight's: nobody who
// waits for this one is kept.
func (a *attempt) newer() bool {
	s := a.e.current.Load()
	return s.conn.Version > a.why.version && s.good(a.m.Now()) && !s.requested
}

// due reports whether a token should be refreshed although it is good.
func (s *snapshot) due(now time.Time) bool {
	return !s.refreshAt.IsZero() && !now.Before(s.refreshAt)
}

// checkPreconditions decides, under the lease, whether the refresh token may be presented
// now. If not it says why, or that there is nothing to do.
func (a *attempt) checkPreconditions(ctx context.Context) (done bool, err error) {
	s := a.e.current.Load()
	now := a.m.Now()
	if err := s.refusal(); err != nil {
		return false, err
	}
	if done, err := a.prove(ctx); done || err != nil {
		return done, err
	}
	if s.conn.Version > a.state.Credential.Version {
		if err := a.fallBack(s, now); err != nil {
			return false, err
		}
		s = a.e.current.Load()
	}
	if a.m.Server == nil || a.state.Credential.RefreshToken.IsZero() {
		return false, a.later(notConfiguredRetryDelay, errNotConfigured)
	}
	if a.why.requested && !a.requested() {
		return true, nil // somebody else has seen to it
	}
	if a.idle(s, now) {
		return true, nil
	}
	if a.m.Restored() {
		return false, a.later(rollbackRetryDelay, rollback.ErrRestored)
	}
	if a.why.rejected && a.pacedOut(now) {
		return false, ErrSuppressed
	}
	if left := s.retryAt.Sub(now); left > 0 && !a.hastened() {
		return false, a.later(left, nil)
	}
	if err := a.m.guard.Recheck(ctx); err != nil {
		return false, a.storeError(err)
	}
	return a.checkSuccessor(ctx)
}

// fallBack goes back to the stored credential although memory knows a newer one,
// if that is gone for good: then the store has lost it.
func (a *attempt) fallBack(s *snapshot, now time.Time) error {
	if !a.m.Shared {
		// A pair waits to be saved, and the stored token is spent.
		return a.unavailable(errUnsaved)
	}
	if s.good(now) && !(a.why.rejected && s.conn.Version <= a.why.version) {
		return a.later(max(s.expiresAt.Sub(now), time.Second), errUnsaved)
	}
	a.e.revert()
	a.m.install(a.e, a.state)
	return nil
}

// prove learns whose the token pair is where a crash has kept a consent's from
// being looked at; done if it is the connection's own company's. A pair whose
// access token has ended may be refreshed, and is looked at then.
func (a *attempt) prove(ctx context.Context) (done bool, err error) {
	if !a.state.Connection.CompanyUnverified || a.state.Credential.AccessToken.IsZero() {
		return false, nil
	}
	found, err := a.m.companyOfCredential(ctx, a.state.Connection, a.state.Credential)
	if errors.Is(err, pleo.ErrUnauthorized) {
		return false, nil
	}
	if err != nil {
		return false, a.later(introspectionRetryDelay, err)
	}
	a.m.learn(ctx, a.e, found.company)
	s := a.e.current.Load()
	if s.good(a.m.Now()) {
		return true, nil
	}
	if err := s.refusal(); err != nil {
		return false, err
	}
	return false, a.unavailable(nil)
}

// requested reports whether an operator waits for a refresh.
func (a *attempt) requested() bool { return !a.state.RequestedAt.IsZero() }

// hastened reports whether an operator's request goes before the pace of our
// own tries. The wait that a busy server has asked for stands.
func (a *attempt) hastened() bool {
	last := a.state.Connection.LastError
	return a.requested() && (last == nil || last.Code != codeBusy)
}

var (
	errUnsaved       = errors.New("a new token pair waits to be saved")
	errNotConfigured = errors.New("OAuth is not configured here: set oauth.client_id and oauth.client_secret")
)

// idle reports whether the credential needs no refresh after all.
func (a *attempt) idle(s *snapshot, now time.Time) bool {
	if a.requested() || a.why.keepAlive && grownOld(a.state.Connection, now) || a.why.rejected && s.conn.Version <= a.why.version {
		return false
	}
	return s.good(now) && !s.due(now)
}

// pacedOut reports whether a refresh for a 401 would follow the last such one
// too soon.
func (a *attempt) pacedOut(now time.Time) bool {
	c := a.state.Credential
	return c.ForcedStreak > 0 && now.Sub(c.ForcedAt) < forcedInterval(c.ForcedStreak)
}

func forcedInterval(streak int) time.Duration {
	interval := minForcedInterval
	for ; streak > 1 && interval < maxForcedInterval; streak-- {
		interval *= 2
	}
	return min(interval, maxForcedInterval)
}

// pace is what the successor records of the refreshes that had to be made before
// the time, because of a 401 or of an answer that brought nothing to send: this
// one counts, on top of those in quick succession before it.
func (a *attempt) pace() (at time.Time, streak int) {
	c := a.state.Credential
	if a.halved() {
		return a.began, c.ForcedStreak + 1
	}
	if !a.why.rejected {
		return c.ForcedAt, c.ForcedStreak
	}
	if a.began.Sub(c.ForcedAt) > 2*forcedInterval(c.ForcedStreak) {
		return a.began, 1
	}
	return a.began, c.ForcedStreak + 1
}

// checkSuccessor decides what to do where a successor of the refresh token may exist:
// after an intent whose owner is gone, or where the token comes from a time
// that this process knows nothing of. It may be presented if neither is done nor
// an error.
func (a *attempt) checkSuccessor(ctx context.Context) (done bool, err error) {
	intent := a.state.Intent
	if intent != nil && intent.Outcome == credstore.OutcomeUnknown {
		return false, nil // nobody can hold the successor; retryAt has passed
	}
	c := a.state.Credential
	if intent == nil && a.e.proven.Load() == c.Version && a.suspectSince().IsZero() {
		return false, nil
	}
	switch a.m.oracle.ask(ctx, c.RefreshToken) {
	case tokenActive:
		return false, nil
	case tokenInactive:
		if left := a.graceLeft(intent); left > 0 {
			return false, a.later(left, nil)
		}
		// Also where the verdict came too late to be recorded: then somebody has
		// changed the credential, and it is not ours to present any more.
		return true, a.spent()
	case tokenUntrusted:
		if left := a.graceLeft(intent); left > 0 {
			return false, a.later(left, nil)
		}
	case introspectionFailed:
		if since := a.suspectSince(); !since.IsZero() && a.m.Now().Sub(since) < introspectionFailureTimeout {
			return false, a.later(introspectionRetryDelay, nil)
		}
	case introspectionUnsupported:
	}
	return false, a.unasked(intent)
}

// suspectSince is when something happened after which the refresh token is only
// presented if introspection has been heard, or cannot be; zero if nothing has.
func (a *attempt) suspectSince() time.Time {
	switch s := a.state; {
	case s.Intent != nil:
		return s.Intent.At
	case s.Connection.Reason == credstore.ReasonRetryRequested:
		return s.RequestedAt // it was refused, or called inactive, before
	default:
		return a.m.guard.SuspectSince(s.Credential.ObtainedAt)
	}
}

// graceLeft is how long the owner of the intent is still waited for: it may
// hold the successor in a spool that is not ours.
func (a *attempt) graceLeft(intent *credstore.Intent) time.Duration {
	if intent == nil {
		return a.lossGraceLeft()
	}
	if a.m.Spool.Abandoned(intent.Parent) {
		return 0
	}
	return ownerTimeout - a.m.Now().Sub(intent.At)
}

// lossGraceLeft is how long others are waited for after a shared store has lost
// changes: they save again what they have obtained.
func (a *attempt) lossGraceLeft() time.Duration {
	since := a.m.guard.SuspectSince(a.state.Credential.ObtainedAt)
	if !a.m.Shared || since.IsZero() {
		return 0
	}
	return peerSaveTimeout - a.m.Now().Sub(since)
}

// spent ends a connection whose refresh token introspection calls inactive, and
// whose successor nobody is left to bring.
func (a *attempt) spent() error {
	return a.reject(verdict{
		reason:  credstore.ReasonRefreshTokenInactive,
		message: "the authorization server calls the refresh token inactive",
	})
}

// unasked deals with a dead owner's intent when there is nobody to ask: its
// request may be on the way until the answer deadline.
func (a *attempt) unasked(intent *credstore.Intent) error {
	if intent == nil {
		return nil
	}
	if left := responseTimeout - a.m.Now().Sub(intent.At); left > 0 {
		return a.later(left, nil)
	}
	return nil
}

// recordIntent reserves room in the spool and writes the intent. The token is not
// sent unless both are durable.
func (a *attempt) recordIntent(ctx context.Context) error {
	parent := a.state.Credential.Parent()
	slot, err := a.m.Spool.Reserve(parent)
	a.m.health.recordSpool(err)
	if err != nil {
		a.m.logger(a.e).Error("no refresh is started: the spool cannot be written", errField(err))
		return a.storeError(fmt.Errorf("reserving a spool record: %w", err))
	}
	a.slot = slot
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	a.intent, err = a.m.Store.Credentials.RecordIntent(ctx, a.lease, parent, a.m.Now())
	a.m.health.recordStore(err)
	if errors.Is(err, credstore.ErrSuperseded) {
		_ = a.m.reread(ctx, a.e) // counted; the waiters read what memory holds
	}
	if err != nil {
		return a.storeError(err)
	}
	if a.lease.Remaining() < leaseMargin {
		_ = a.withdraw(nil) // what there is to say is that the lease has ended
		return a.unavailable(credstore.ErrLeaseLost)
	}
	return nil
}

// send sends the refresh token and settles what comes back. It is not
// cancelled by anything but the deadline.
func (a *attempt) send() error {
	ctx, cancel := context.WithTimeout(context.Background(), responseTimeout)
	defer cancel()
	a.began = a.m.Now()
	a.flight.presented.Store(true)
	tokens, err := a.m.Server.Refresh(ctx, a.state.Credential.RefreshToken)
	a.m.health.recordServer(err)
	a.m.metrics.duration.Observe(a.m.Now().Sub(a.began).Seconds())
	a.braked = a.m.breaker.Record(a.permit, a.e.id, a.judgement(err))
	if err != nil {
		return a.settle(err)
	}
	return a.complete(a.successor(tokens))
}

// judgement is what the outcome of a refresh says about Pleo and our client:
// nothing if another process has exchanged the rejected token meanwhile.
func (a *attempt) judgement(err error) breaker.Result {
	if err == nil {
		return breaker.Accepted
	}
	var response *pleo.ResponseError
	if !errors.As(err, &response) || response.Class != pleo.TokenRejected || a.superseded() {
		return breaker.Inconclusive
	}
	return breaker.Rejected
}

// superseded reports whether the store is known to hold another credential by now.
func (a *attempt) superseded() bool {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	state, err := a.m.Store.Connections.Read(ctx, a.e.id)
	if errors.Is(err, credstore.ErrNotFound) {
		return true
	}
	return err == nil && state.Credential.Parent() != a.state.Credential.Parent()
}

// successor is the credential that the tokens make of the parent.
func (a *attempt) successor(t pleo.Tokens) credstore.Successor {
	s := credstore.Successor{
		Parent:       a.state.Credential.Parent(),
		AccessToken:  t.AccessToken,
		RefreshToken: t.RefreshToken,
		ObtainedAt:   t.SentAt,
		Scope:        t.Scope,
	}
	s.ForcedAt, s.ForcedStreak = a.pace()
	if s.RefreshToken.IsZero() {
		s.RefreshToken = a.state.Credential.RefreshToken
	}
	if t.Lifetime > 0 {
		s.ExpiresAt = t.SentAt.Add(t.Lifetime)
	}
	if s.AccessToken.IsZero() {
		s.ExpiresAt = t.SentAt // there is none to use: due at once
		s.RefreshFailure = a.accessTokenMissing(s.ForcedStreak)
	}
	return s
}

// accessTokenMissing is what is recorded of an answer with a refresh token and no access
// token. The next refresh may follow at once; after a second such answer in a
// row it waits, longer each time, since each spends a token for nothing.
func (a *attempt) accessTokenMissing(streak int) *credstore.RefreshFailure {
	const message = "the authorization server answered with a refresh token and without a readable access token"
	s := a.setbackAt(codeAccessTokenMissing, credstore.ReasonAccessTokenMissing, 0, errors.New(message))
	s.RetryAt = time.Time{}
	if a.halved() {
		s.RetryAt = a.m.Now().Add(min(halfTimes*forcedInterval(streak), maxForcedInterval))
	}
	a.m.logger(a.e).Warn("a refresh brought nothing to send; it is tried again", zap.String("code", codeAccessTokenMissing), zap.Time("next_at", s.RetryAt))
	return &s
}

// halved reports whether the parent came without an access token.
func (a *attempt) halved() bool {
	last := a.state.Connection.LastError
	return a.state.Credential.AccessToken.IsZero() && last != nil && last.Code == codeAccessTokenMissing
}

// release gives back what the attempt holds. It does nothing the second time.
func (a *attempt) release() {
	if a.slot != nil {
		a.slot.Remove()
		a.slot = nil
	}
	if a.lease == nil {
		return
	}
	if err := a.lease.Release(); err != nil {
		a.m.logger(a.e).Warn("releasing a lease", errField(err))
	}
	a.lease = nil
}

// unavailable tells clients that a refresh could not be made now.
func (a *attempt) unavailable(err error) error { return a.later(time.Second, err) }

// later tells clients when a refresh may be tried again.
func (a *attempt) later(left time.Duration, err error) error {
	s := a.e.current.Load()
	return &Error{Code: ServerUnavailable, Connection: s.conn.Name, Reason: s.conn.Reason, RetryAfter: left, Err: err}
}

func (a *attempt) storeError(err error) error {
	return a.m.storeError(a.e.current.Load().conn.Name, err)
}

// pause waits for d, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
