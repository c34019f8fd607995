package credstore

import (
	"cmp"
	"fmt"
	"time"
)

// StoredState is what a store keeps of a connection, and [Apply] decides on. The
// secrets in Credential are not looked at, so a store need not decrypt them.
type StoredState struct {
	State

	// CredentialStatus and CredentialReason are what the credential gives the
	// connection: its status and reason, unless it is disabled.
	CredentialStatus Status
	CredentialReason string

	// Alarmed is set from an EventReauthorizationRequired to the next
	// EventRecovered. Subscribers get only the first of several alarms.
	Alarmed bool

	RefreshHash Hash // of the refresh token, also after it was deleted; without one, of the empty secret
	ParentHash  Hash // RefreshHash of the previous version; zero if there is none

	// RefreshTokenStored reports whether there is a refresh token: a rejected one
	// is deleted after [RejectedTokenRetention].
	RefreshTokenStored bool

	// ReminderWindow is the shortest time before the expiry of the key at which an
	// EventKeyExpiring was recorded; zero if none was.
	ReminderWindow time.Duration
}

// Transition is what a store writes in one transaction.
type Transition struct {
	State   StoredState
	Secrets SecretChanges
	// History holds the events to record, in their order: their type, code and
	// message, and the connection's status, reason and version afterwards.
	History []Event
	// Deliveries are the types of those events of History that go to subscribers.
	Deliveries []EventType
	// Conflict, if not nil, is an error for the caller to which the transition is
	// the reaction: it is written nevertheless.
	Conflict error
}

// SecretChanges are the secrets that a transition stores: nil leaves a secret as it
// is, and an empty secret deletes it.
type SecretChanges struct{ AccessToken, RefreshToken, APIKey, NextKey *Secret }

// Update makes the changes to c.
func (s SecretChanges) Update(c *Credential) {
	for _, change := range []struct{ from, to *Secret }{
		{s.AccessToken, &c.AccessToken}, {s.RefreshToken, &c.RefreshToken}, {s.APIKey, &c.APIKey}, {s.NextKey, &c.NextKey},
	} {
		if change.from != nil {
			*change.to = *change.from
		}
	}
}

// Action is something that happens to a connection. The types in this package that
// implement it are named like the methods of a store that apply them.
type Action interface {
	// apply changes t, which begins with a copy of the state, or returns an error.
	apply(t *Transition, now time.Time) error
}

// Apply returns the transition that the action causes, or the error that the store
// returns instead, having written nothing. It is the only place that decides on
// statuses, reasons, the history and what subscribers get.
//
// The store checks what Apply cannot know: that the lease is held, that its fence is
// the latest, and that names, companies and refresh tokens are unique. It does so,
// reads the state and writes the transition in one transaction.
func Apply(s StoredState, a Action, now time.Time) (Transition, error) {
	t := Transition{State: s}
	if s.Intent != nil {
		intent := *s.Intent
		t.State.Intent = &intent
	}
	if err := a.apply(&t, now); err != nil {
		return Transition{}, err
	}
	return t.finish(), nil
}

// Begin returns the transition that creates a connection.
func Begin(id string, n NewConnection, now time.Time) Transition {
	var t Transition
	s := &t.State
	s.Connection = Connection{
		ID: id, Name: n.Name, Kind: n.Kind,
		CompanyID: n.Company.ID, CompanyName: n.Company.Name, Subject: n.Company.Subject, SharedCompany: n.SharedCompany,
		ExternalTenant: n.ExternalTenant, Scope: n.Scope, CreatedAt: now,
	}
	s.RefreshHash = Secret{}.Hash()
	if n.Credential == nil {
		s.setStatus(Pending, ReasonNoCredential)
		t.record(EventCreated, "", "")
	} else {
		s.setStatus(Active, "")
		var obtained time.Time
		if n.Kind == OAuth {
			obtained = now // when it was really obtained is not known
		}
		t.store(*n.Credential, obtained)
		s.ParentHash = Hash{}
		t.record(EventImported, "", "")
	}
	if n.SharedCompany {
		t.record(EventCompanyOverride, "", "allowed: its company may be bound to other connections too")
	}
	return t.finish()
}

// finish completes the events with the state after them.
func (t Transition) finish() Transition {
	c := t.State.Connection
	for i := range t.History {
		e := &t.History[i]
		e.Status, e.Reason, e.Version = c.Status, c.Reason, c.Version
	}
	return t
}

// record adds an event, which goes to subscribers if its type is public.
func (t *Transition) record(kind EventType, code, message string) {
	t.recordSilently(kind, code, message)
	if kind.Public() {
		t.Deliveries = append(t.Deliveries, kind)
	}
}

func (t *Transition) recordSilently(kind EventType, code, message string) {
	t.History = append(t.History, Event{Type: kind, Code: CleanText(code), Message: CleanText(message)})
}

// recordStatus records what follows from the status that the connection has now: an
// alarm if it requires reauthorization, and the end of the alarm if it works again.
func (t *Transition) recordStatus() {
	s := &t.State
	switch {
	case s.Connection.Status == ReauthorizationRequired:
		var last Failure
		if s.Connection.LastError != nil {
			last = *s.Connection.LastError
		}
		t.alarm(last.Code, last.Message)
	case s.Connection.Status == Active && s.Alarmed:
		s.Alarmed = false
		t.record(EventRecovered, "", "")
	}
}

func (t *Transition) alarm(code, message string) {
	if t.State.Alarmed {
		t.recordSilently(EventReauthorizationRequired, code, message)
		return
	}
	t.State.Alarmed = true
	t.record(EventReauthorizationRequired, code, message)
}

// store puts a new grant or key in place of all secrets, as the next version.
func (t *Transition) store(n NewCredential, obtained time.Time) {
	s := &t.State
	none := Secret{}
	t.Secrets = SecretChanges{AccessToken: &n.AccessToken, RefreshToken: &n.RefreshToken, APIKey: &n.APIKey, NextKey: &none}
	s.setVersion(n.RefreshToken.Hash(), n.ExpiresAt, obtained)
	s.RefreshTokenStored = !n.RefreshToken.IsZero()
	s.Credential.NextKeyExpiresAt, s.ReminderWindow = time.Time{}, 0
}

// setStatus gives the credential's status to the connection too, unless that is
// disabled.
func (s *StoredState) setStatus(status Status, reason string) {
	s.CredentialStatus, s.CredentialReason = status, reason
	if s.Connection.Status != Disabled {
		s.Connection.Status, s.Connection.Reason = status, reason
	}
}

// disable overrides the credential's status until it is restored.
func (s *StoredState) disable(reason string) {
	s.Connection.Status, s.Connection.Reason = Disabled, reason
}

// restoreStatus ends the override of disable.
func (s *StoredState) restoreStatus() {
	s.Connection.Status, s.Connection.Reason = s.CredentialStatus, s.CredentialReason
}

// setVersion makes room for a credential with the refresh token of the hash.
func (s *StoredState) setVersion(hash Hash, expires, obtained time.Time) {
	c := &s.Connection
	c.Version++
	s.ParentHash, s.RefreshHash = s.RefreshHash, hash
	c.ExpiresAt, c.RefreshedAt = expires, obtained
	s.Credential.ConnectionID, s.Credential.Version = c.ID, c.Version
	if c.Kind == OAuth {
		s.Credential.ExpiresAt, s.Credential.ObtainedAt = expires, obtained
	}
}

// setCompany records a company that was verified.
func (s *StoredState) setCompany(company Company) {
	c := &s.Connection
	c.CompanyID, c.CompanyName, c.Subject, c.CompanyUnverified = company.ID, company.Name, company.Subject, false
}

// clearFailures forgets that refreshes have failed or were requested.
func (s *StoredState) clearFailures() {
	s.Connection.LastError, s.Credential.RejectedAt = nil, time.Time{}
	s.RetryAt, s.RequestedAt = time.Time{}, time.Time{}
	s.UnexpectedResponses, s.UnexpectedSince = 0, time.Time{}
}

func (s *StoredState) setLastError(f Failure) {
	f.Code, f.Message = CleanText(f.Code), CleanText(f.Message)
	s.Connection.LastError = &f
}

// checkParent returns ErrSuperseded if another credential than parent is stored.
func (s *StoredState) checkParent(parent Parent) error {
	c := s.Connection
	if parent != (Parent{ConnectionID: c.ID, Version: c.Version, RefreshHash: s.RefreshHash}) {
		return ErrSuperseded
	}
	return nil
}

// fail records a refresh that failed without a rejection. Only an active or degraded
// connection becomes degraded: a failed refresh says nothing about the others.
func (t *Transition) fail(f RefreshFailure, retryAt time.Time) {
	s := &t.State
	before := s.Connection
	if s.CredentialStatus == Active || s.CredentialStatus == Degraded {
		s.setStatus(Degraded, f.Reason)
	}
	s.setLastError(f.Failure)
	s.RetryAt, s.RequestedAt = retryAt, time.Time{}
	last := s.Connection.LastError
	switch {
	case before.Status != s.Connection.Status:
		t.record(EventDegraded, last.Code, last.Message)
	case before.LastError == nil || before.LastError.Code != last.Code: // a repetition would only fill the history
		t.record(EventRefreshFailed, last.Code, last.Message)
	}
}

// RecordIntent is [Credentials.RecordIntent] under the lease of the owner.
type RecordIntent struct {
	Parent Parent
	Owner  string
	Fence  int64
	At     time.Time
}

func (a RecordIntent) apply(t *Transition, _ time.Time) error {
	s := &t.State
	if err := s.checkParent(a.Parent); err != nil {
		return err
	}
	if s.Intent == nil || s.Intent.Parent != a.Parent {
		s.Intent = &Intent{Parent: a.Parent, FirstAt: a.At}
	}
	i := s.Intent
	i.Owner, i.Fence, i.At = a.Owner, a.Fence, a.At
	i.Outcome, i.NextAt = OutcomePending, time.Time{}
	i.Attempts++
	return nil
}

// CancelIntent is [Credentials.CancelIntent] under the lease with the fence.
type CancelIntent struct {
	Parent  Parent
	Fence   int64
	Failure *RefreshFailure // nil: nothing was sent
}

// An orphaned intent stays, since its token may be on the way: only the lease that
// recorded an intent can know that it was not sent. Therefore cancelling again, as
// after ErrUnavailable, changes nothing more.
func (a CancelIntent) apply(t *Transition, _ time.Time) error {
	s := &t.State
	if err := s.checkParent(a.Parent); err != nil {
		return err
	}
	i := s.Intent
	cancelled := i != nil && i.Fence == a.Fence && i.Outcome == OutcomePending
	if cancelled {
		s.cancelAttempt(a.Failure)
	}
	if a.Failure == nil {
		return nil
	}
	t.fail(*a.Failure, a.Failure.RetryAt)
	if cancelled && a.Failure.Unexpected {
		s.UnexpectedResponses++
		if s.UnexpectedSince.IsZero() {
			s.UnexpectedSince = a.Failure.Failure.At
		}
	}
	return nil
}

// cancelAttempt removes the intent, or the last attempt of it if earlier ones have
// an unknown outcome.
func (s *StoredState) cancelAttempt(f *RefreshFailure) {
	i := s.Intent
	if i.Attempts == 1 {
		s.Intent = nil
		return
	}
	i.Attempts--
	i.Outcome, i.NextAt = OutcomeUnknown, time.Time{}
	if f != nil {
		i.NextAt = f.RetryAt
	}
}

// MarkOutcomeUnknown is [Credentials.MarkOutcomeUnknown].
type MarkOutcomeUnknown struct {
	Parent  Parent
	Failure RefreshFailure
}

func (a MarkOutcomeUnknown) apply(t *Transition, _ time.Time) error {
	s := &t.State
	if err := s.checkParent(a.Parent); err != nil {
		return err
	}
	if s.Intent == nil || s.Intent.Parent != a.Parent {
		return ErrSuperseded
	}
	s.Intent.Outcome, s.Intent.NextAt = OutcomeUnknown, a.Failure.RetryAt
	t.fail(a.Failure, time.Time{}) // the intent has the time of the next try
	return nil
}

// Save is [Credentials.Save].
type Save struct{ Successor Successor }

func (a Save) apply(t *Transition, _ time.Time) error {
	s, n := &t.State, a.Successor
	if err := s.checkParent(n.Parent); err != nil || s.Connection.Kind != OAuth {
		return ErrSuperseded
	}
	s.clearFailures()
	s.setVersion(n.RefreshToken.Hash(), n.ExpiresAt, n.ObtainedAt)
	s.RefreshTokenStored = true
	t.Secrets = SecretChanges{AccessToken: &n.AccessToken, RefreshToken: &n.RefreshToken}
	s.Connection.Scope = cmp.Or(n.Scope, s.Connection.Scope)
	s.Credential.ForcedAt, s.Credential.ForcedStreak = n.ForcedAt, n.ForcedStreak
	s.Connection.CompanyUnverified = s.Connection.CompanyUnverified || n.Consent
	s.Intent = nil
	if f := n.RefreshFailure; f != nil {
		s.setStatus(Degraded, f.Reason)
		s.setLastError(f.Failure)
		s.RetryAt = f.RetryAt
		t.record(EventDegraded, f.Failure.Code, f.Failure.Message)
		return nil
	}
	s.setStatus(Active, "")
	switch {
	case s.Alarmed && s.Connection.Status == Active:
		t.recordStatus()
	case n.Consent:
		t.record(EventConnected, "", "")
	default:
		t.record(EventRefreshed, "", "")
	}
	return nil
}

// IsSaved reports whether the successor is what is stored already, as after a COMMIT
// whose response was lost. accessToken is the stored one.
func (s StoredState) IsSaved(n Successor, accessToken Secret) bool {
	c := s.Connection
	if c.ID != n.Parent.ConnectionID || c.Version != n.Parent.Version+1 || s.ParentHash != n.Parent.RefreshHash || s.RefreshHash != n.RefreshToken.Hash() {
		return false
	}
	// Different pairs have the same refresh token if it was not rotated. An access
	// token that is missing was deleted when the credential was rejected.
	return accessToken.IsZero() || accessToken.Equal(n.AccessToken)
}

// MarkReauthorizationRequired is [Credentials.MarkReauthorizationRequired].
type MarkReauthorizationRequired struct {
	Parent          Parent
	Failure         Failure
	Reason          string
	DropAccessToken bool
}

func (a MarkReauthorizationRequired) apply(t *Transition, _ time.Time) error {
	s := &t.State
	if err := s.checkParent(a.Parent); err != nil {
		return err
	}
	before := s.Connection
	s.setStatus(ReauthorizationRequired, a.Reason)
	s.setLastError(a.Failure)
	s.Intent, s.RetryAt, s.RequestedAt = nil, time.Time{}, time.Time{}
	if s.Connection.Kind == OAuth {
		s.Credential.RejectedAt = a.Failure.At
	}
	if a.DropAccessToken {
		t.Secrets.AccessToken = &Secret{}
		s.Connection.ExpiresAt, s.Credential.ExpiresAt = time.Time{}, time.Time{}
	}
	if before.Status != s.Connection.Status || before.Reason != s.Connection.Reason {
		t.recordStatus()
	}
	return nil
}

// Reinstate is [Credentials.Reinstate].
type Reinstate struct{ Parent Parent }

func (a Reinstate) apply(t *Transition, _ time.Time) error {
	if err := t.State.checkParent(a.Parent); err != nil {
		return err
	}
	t.State.reinstate()
	t.recordStatus()
	return nil
}

func (s *StoredState) reinstate() {
	s.setStatus(Active, "")
	s.Connection.LastError, s.Credential.RejectedAt = nil, time.Time{}
}

// StageKey is [Connections.StageKey].
type StageKey struct {
	Key       Secret
	ExpiresAt time.Time
}

func (a StageKey) apply(t *Transition, _ time.Time) error {
	c := t.State.Connection
	if !c.Kind.IsKey() || c.Version == 0 || a.Key.IsZero() {
		return fmt.Errorf("%w: %q has no API key to be replaced later", ErrSuperseded, c.Name)
	}
	t.Secrets.NextKey, t.State.Credential.NextKeyExpiresAt = &a.Key, a.ExpiresAt
	t.record(EventKeyStaged, "", "")
	return nil
}

// PromoteKey is [Credentials.PromoteKey].
type PromoteKey struct {
	Parent  Parent
	NextKey Secret // the staged key; empty if there is none
}

func (a PromoteKey) apply(t *Transition, _ time.Time) error {
	s := &t.State
	if err := s.checkParent(a.Parent); err != nil || a.NextKey.IsZero() {
		return ErrSuperseded
	}
	s.reinstate()
	s.Connection.Version++
	s.Credential.Version = s.Connection.Version
	s.Connection.ExpiresAt = s.Credential.NextKeyExpiresAt
	s.Credential.NextKeyExpiresAt, s.ReminderWindow = time.Time{}, 0
	t.Secrets.APIKey, t.Secrets.NextKey = &a.NextKey, &Secret{}
	t.record(EventKeyPromoted, "", "")
	t.recordStatus()
	return nil
}

// Replace is [Connections.Replace]. Bound is what the store found out about the
// company of the replacement: a ConflictError of ErrCompanyBound, or nil.
type Replace struct {
	Replacement Replacement
	Bound       error
}

func (a Replace) apply(t *Transition, now time.Time) error {
	s, r := &t.State, a.Replacement
	override, err := s.moveToCompany(r, a.Bound)
	if err != nil {
		return err
	}
	c := &s.Connection
	if c.Status == Disabled && c.Reason == ReasonCompanyConflict && !r.Company.IsZero() {
		s.restoreStatus() // the new credential has no conflict
	}
	obtained := r.ObtainedAt
	if c.Kind == OAuth && obtained.IsZero() {
		obtained = now
	}
	c.CompanyUnverified = r.CompanyUnverified || r.Company.IsZero() && !c.Company().IsZero()
	c.Scope = cmp.Or(r.Scope, c.Scope)
	s.clearFailures()
	s.Intent = nil
	s.Credential.ForcedAt, s.Credential.ForcedStreak = time.Time{}, 0
	t.store(r.Credential, obtained)
	s.setStatus(Active, "")
	if override != "" {
		t.record(EventCompanyOverride, "", override)
	}
	t.recordReplaced()
	return nil
}

// recordReplaced records what the new credential is: the end of an alarm, a key in
// place of one that may have worked, or else a new connection to Pleo.
func (t *Transition) recordReplaced() {
	c := t.State.Connection
	switch {
	case t.State.Alarmed && c.Status == Active:
		t.recordStatus()
	case c.Version > 1 && c.Kind.IsKey():
		t.record(EventKeySet, "", "")
	default:
		t.record(EventConnected, "", "")
	}
}

// moveToCompany gives the connection the company of its new credential, if it may
// have it, and returns what had to be overridden for that.
func (s *StoredState) moveToCompany(r Replacement, bound error) (override string, err error) {
	if r.Company.IsZero() {
		return "", nil
	}
	have := s.Connection.Company()
	moves := !have.IsZero() && !have.Same(r.Company)
	if moves {
		other := &OtherCompanyError{Have: have, Got: r.Company}
		if !r.AllowOtherCompany {
			return "", other
		}
		override = "allowed: " + other.Error()
	}
	// Permission to share one company does not extend to another.
	shared := s.Connection.SharedCompany && !moves
	if !shared && bound != nil {
		if !r.AllowSharedCompany {
			return "", bound
		}
		shared, override = true, "allowed: "+bound.Error()
	}
	s.Connection.SharedCompany = shared
	s.setCompany(r.Company)
	return override, nil
}

// SetCompany is [Connections.SetCompany]. Bound is as in [Replace].
type SetCompany struct {
	Company Company
	Bound   error
}

func (a SetCompany) apply(t *Transition, _ time.Time) error { //nolint:unparam // implements Action
	s := &t.State
	have := s.Connection.Company()
	conflict := a.Bound
	if s.Connection.SharedCompany {
		conflict = nil
	}
	if s.Connection.CompanyUnverified && !have.IsZero() && !have.Same(a.Company) {
		conflict = &OtherCompanyError{Have: have, Got: a.Company}
	}
	if conflict != nil {
		t.Conflict = conflict
		s.disable(ReasonCompanyConflict)
		t.record(EventDisabled, "", conflict.Error())
		t.alarm(ReasonCompanyConflict, conflict.Error()) // only a person can fix it
		return nil
	}
	s.setCompany(a.Company)
	if !a.Company.IsZero() && !have.Same(a.Company) {
		t.record(EventCompanyLearned, "", cmp.Or(a.Company.Name, a.Company.ID, a.Company.Subject))
	}
	return nil
}

// Disable is [Connections.Disable].
type Disable struct{ Reason string }

func (a Disable) apply(t *Transition, _ time.Time) error { //nolint:unparam // implements Action
	if t.State.Connection.Status != Disabled {
		t.State.disable(a.Reason)
		t.record(EventDisabled, "", "")
	}
	return nil
}

// Enable is [Connections.Enable].
type Enable struct{}

func (Enable) apply(t *Transition, _ time.Time) error { //nolint:unparam // implements Action
	if t.State.Connection.Status == Disabled {
		t.State.restoreStatus()
		t.record(EventEnabled, "", "")
		t.recordStatus()
	}
	return nil
}

// Export is [Connections.Export].
type Export struct{}

func (Export) apply(t *Transition, _ time.Time) error { //nolint:unparam // implements Action
	t.State.disable(ReasonExported)
	t.record(EventExported, "", "")
	return nil
}

// RequestRefresh is [Credentials.RequestRefresh].
type RequestRefresh struct{ At time.Time }

func (a RequestRefresh) apply(t *Transition, _ time.Time) error { //nolint:unparam // implements Action
	t.State.RequestedAt = a.At
	t.record(EventRefreshRequested, "", "")
	return nil
}

// RetryRejected is [Credentials.RetryRejected].
type RetryRejected struct{ At time.Time }

func (a RetryRejected) apply(t *Transition, _ time.Time) error {
	s := &t.State
	if s.Connection.Kind != OAuth || s.Connection.Status != ReauthorizationRequired || !s.RefreshTokenStored {
		return ErrNotRejected
	}
	s.setStatus(Degraded, ReasonRetryRequested)
	s.Credential.RejectedAt, s.RequestedAt = time.Time{}, a.At
	t.record(EventRetryRequested, "", "")
	return nil
}

// RecordKeyExpiring is [Outbox.RecordKeyExpiring].
type RecordKeyExpiring struct{ Within time.Duration }

func (a RecordKeyExpiring) apply(t *Transition, now time.Time) error { //nolint:unparam // implements Action
	s := &t.State
	c := s.Connection
	inUse := c.Kind.IsKey() && (c.Status == Active || c.Status == Degraded)
	expires := !c.ExpiresAt.IsZero() && !c.ExpiresAt.After(now.Add(a.Within))
	if inUse && expires && (s.ReminderWindow == 0 || s.ReminderWindow > a.Within) {
		s.ReminderWindow = a.Within
		t.record(EventKeyExpiring, "", "the API key expires at "+c.ExpiresAt.Format(time.RFC3339))
	}
	return nil
}

// Remove is [Connections.Remove]: the connection ends with its last event.
type Remove struct{}

func (Remove) apply(t *Transition, _ time.Time) error { //nolint:unparam // implements Action
	t.record(EventRemoved, "", "")
	return nil
}
