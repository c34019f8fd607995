package credstore_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// The tests of the status machine use one connection, one failure and one moment.
var (
	now     = time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)
	retryAt = now.Add(time.Hour)
	acme    = credstore.Company{ID: "c-1", Name: "Acme"}
	other   = credstore.Company{ID: "c-2", Name: "Other"}
	bound   = &credstore.ConflictError{Err: credstore.ErrCompanyBound, With: "another"}

	failure   = credstore.Failure{Code: "busy", Message: "try again later", At: now}
	busy      = credstore.RefreshFailure{Failure: failure, Reason: credstore.ReasonUnavailable, RetryAt: retryAt}
	rejection = credstore.Failure{Code: "rejected", Message: "invalid_grant", At: now}
)

const ownFence, otherFence = 7, 6

// stateOption changes the state that a transition begins with.
type stateOption func(*credstore.StoredState)

// oauth is a connection of kind oauth, active with version 1 unless changed.
func oauth(options ...stateOption) credstore.StoredState {
	return begin(credstore.OAuth, &credstore.NewCredential{
		AccessToken: secret("access"), RefreshToken: secret("refresh"), ExpiresAt: now.Add(time.Minute),
	}, options)
}

// apiKey is a connection of kind standalone_key, active with version 1 unless changed.
func apiKey(options ...stateOption) credstore.StoredState {
	return begin(credstore.StandaloneKey, &credstore.NewCredential{APIKey: secret("key"), ExpiresAt: now.Add(24 * time.Hour)}, options)
}

func begin(kind credstore.Kind, c *credstore.NewCredential, options []stateOption) credstore.StoredState {
	s := credstore.Begin("id", credstore.NewConnection{Name: "acme", Kind: kind, Credential: c}, now).State
	for _, option := range options {
		option(&s)
	}
	return s
}

func pending() credstore.StoredState { return begin(credstore.OAuth, nil, nil) }

// with applies actions to the state, which must succeed.
func with(actions ...credstore.Action) stateOption {
	return func(s *credstore.StoredState) {
		for _, a := range actions {
			t, err := credstore.Apply(*s, a, now)
			if err != nil {
				panic(err)
			}
			*s = t.State
		}
	}
}

func company(c credstore.Company) stateOption { return with(credstore.SetCompany{Company: c}) }

func secret(value string) credstore.Secret { return credstore.NewSecret(value) }

func parent(s credstore.StoredState) credstore.Parent {
	return credstore.Parent{ConnectionID: "id", Version: s.Connection.Version, RefreshHash: s.RefreshHash}
}

// The parents of oauth(), of apiKey() and of pending(), and one that is not stored.
func first() credstore.Parent    { return parent(oauth()) }
func firstKey() credstore.Parent { return parent(apiKey()) }
func stale() credstore.Parent {
	return credstore.Parent{ConnectionID: "id", Version: 1, RefreshHash: secret("earlier").Hash()}
}

// Actions on the connections above.
func intend(fence int64) credstore.Action {
	return credstore.RecordIntent{Parent: first(), Owner: "process", Fence: fence, At: now}
}

func unknown() credstore.Action {
	return credstore.MarkOutcomeUnknown{Parent: first(), Failure: busy}
}

func cancel(f *credstore.RefreshFailure) credstore.Action {
	return credstore.CancelIntent{Parent: first(), Fence: ownFence, Failure: f}
}

func reject(p credstore.Parent, reason string) credstore.Action {
	return credstore.MarkReauthorizationRequired{Parent: p, Failure: rejection, Reason: reason}
}

func save(p credstore.Parent) credstore.Save {
	return credstore.Save{Successor: credstore.Successor{Parent: p, AccessToken: secret("access 2"), RefreshToken: secret("refresh 2"), ObtainedAt: now}}
}

func saveUnusable(p credstore.Parent) credstore.Save {
	s := save(p)
	s.Successor.RefreshFailure = &credstore.RefreshFailure{Failure: failure, Reason: credstore.ReasonAccessTokenMissing, RetryAt: retryAt}
	return s
}

func saveConsent(p credstore.Parent) credstore.Save {
	s := save(p)
	s.Successor.Consent = true
	return s
}

func consent(r credstore.Replacement) credstore.Replace {
	r.Credential = credstore.NewCredential{AccessToken: secret("access 2"), RefreshToken: secret("refresh 2")}
	return credstore.Replace{Replacement: r}
}

func newKey() credstore.Replace {
	return credstore.Replace{Replacement: credstore.Replacement{Credential: credstore.NewCredential{APIKey: secret("key 2")}}}
}

var disable = credstore.Disable{Reason: credstore.ReasonOperator}

// transition is one line of the specification.
type transition struct {
	name   string
	state  credstore.StoredState
	action credstore.Action

	status     string // and the reason, and behind a slash those that the credential gives a disabled connection
	history    string // types of the events without "connection."
	deliveries string // those of them that go to subscribers
	err        error  // instead of a transition
}

// lost is a connection whose refresh token was rejected.
func lost(options ...stateOption) credstore.StoredState {
	return oauth(append([]stateOption{with(reject(first(), credstore.ReasonRefreshTokenRejected))}, options...)...)
}

func TestApply(t *testing.T) {
	const (
		rejected = "reauthorization_required refresh_token_rejected"
		alarm    = "reauthorization_required"
	)
	for _, tt := range []transition{
		// A refresh succeeds.
		{name: "save", state: oauth(with(intend(ownFence))), action: save(first()), status: "active", history: "refreshed"},
		{name: "save ends degraded", state: oauth(with(intend(ownFence), cancel(&busy))), action: save(first()), status: "active", history: "refreshed"},
		{name: "save ends an alarm", state: lost(), action: save(first()), status: "active", history: "recovered", deliveries: "recovered"},
		{name: "save onto disabled", state: oauth(with(disable)), action: save(first()), status: "disabled operator/active", history: "refreshed"},
		{name: "save ends an alarm of disabled later", state: lost(with(disable)), action: save(first()), status: "disabled operator/active", history: "refreshed"},
		{name: "save without an access token", state: oauth(), action: saveUnusable(first()), status: "degraded access_token_missing", history: "degraded"},
		{name: "save a consent on pending", state: pending(), action: saveConsent(parent(pending())), status: "active", history: "connected", deliveries: "connected"},
		{name: "save onto another credential", state: oauth(), action: save(stale()), err: credstore.ErrSuperseded},
		{name: "save a pair onto a key", state: apiKey(), action: save(firstKey()), err: credstore.ErrSuperseded},

		// It fails before it is sent, or its response shows that the token was not exchanged.
		{name: "intent", state: oauth(), action: intend(ownFence), status: "active"},
		{name: "intent for another credential", state: oauth(), action: credstore.RecordIntent{Parent: stale()}, err: credstore.ErrSuperseded},
		{name: "cancel", state: oauth(with(intend(ownFence))), action: cancel(nil), status: "active"},
		{name: "cancel with a failure", state: oauth(with(intend(ownFence))), action: cancel(&busy), status: "degraded refresh_unavailable", history: "degraded"},
		{name: "the same failure again", state: oauth(with(cancel(&busy))), action: cancel(&busy), status: "degraded refresh_unavailable"},
		{
			name: "another failure", state: oauth(with(cancel(&credstore.RefreshFailure{Failure: rejection, Reason: credstore.ReasonClientRejected}))),
			action: cancel(&busy), status: "degraded refresh_unavailable", history: "refresh_failed",
		},
		{name: "failure of a rejected credential", state: lost(), action: cancel(&busy), status: rejected, history: "refresh_failed"},
		{name: "failure of disabled", state: oauth(with(disable)), action: cancel(&busy), status: "disabled operator/degraded refresh_unavailable", history: "refresh_failed"},
		{name: "cancel for another credential", state: oauth(), action: credstore.CancelIntent{Parent: stale()}, err: credstore.ErrSuperseded},

		// Its outcome is unknown.
		{name: "unknown outcome", state: oauth(with(intend(ownFence))), action: unknown(), status: "degraded refresh_unavailable", history: "degraded"},
		{name: "unknown outcome without an intent", state: oauth(), action: unknown(), err: credstore.ErrSuperseded},

		// The credential is rejected.
		{name: "rejected", state: oauth(with(intend(ownFence))), action: reject(first(), credstore.ReasonRefreshTokenRejected), status: rejected, history: alarm, deliveries: alarm},
		{name: "rejected again", state: lost(), action: reject(first(), credstore.ReasonRefreshTokenRejected), status: rejected},
		{
			name: "rejected for another reason", state: lost(), action: reject(first(), credstore.ReasonUninstalled),
			status: "reauthorization_required uninstalled", history: alarm,
		},
		{name: "key rejected", state: apiKey(), action: reject(firstKey(), credstore.ReasonKeyRejected), status: "reauthorization_required key_rejected", history: alarm, deliveries: alarm},
		{name: "rejected while disabled", state: oauth(with(disable)), action: reject(first(), credstore.ReasonRefreshTokenRejected), status: "disabled operator/" + rejected},
		{name: "another credential rejected", state: oauth(), action: reject(stale(), credstore.ReasonRefreshTokenRejected), err: credstore.ErrSuperseded},
		{name: "reinstated", state: lost(), action: credstore.Reinstate{Parent: first()}, status: "active", history: "recovered", deliveries: "recovered"},
		{name: "reinstated without an alarm", state: oauth(with(cancel(&busy))), action: credstore.Reinstate{Parent: first()}, status: "active"},
		{name: "another credential reinstated", state: lost(), action: credstore.Reinstate{Parent: stale()}, err: credstore.ErrSuperseded},

		// An operator asks for something.
		{name: "refresh requested", state: oauth(), action: credstore.RequestRefresh{At: now}, status: "active", history: "refresh_requested"},
		{name: "retry", state: lost(), action: credstore.RetryRejected{At: now}, status: "degraded retry_requested", history: "retry_requested"},
		{name: "retry of a token that was deleted", state: lost(func(s *credstore.StoredState) { s.RefreshTokenStored = false }), action: credstore.RetryRejected{}, err: credstore.ErrNotRejected},
		{name: "retry of what is not rejected", state: oauth(), action: credstore.RetryRejected{}, err: credstore.ErrNotRejected},
		{name: "retry of a key", state: apiKey(with(reject(firstKey(), credstore.ReasonKeyRejected))), action: credstore.RetryRejected{}, err: credstore.ErrNotRejected},
		{name: "disable", state: oauth(), action: disable, status: "disabled operator/active", history: "disabled"},
		{name: "disable twice", state: oauth(with(disable)), action: credstore.Disable{Reason: "again"}, status: "disabled operator/active"},
		{name: "enable", state: oauth(with(disable)), action: credstore.Enable{}, status: "active", history: "enabled"},
		{name: "enable what is enabled", state: oauth(), action: credstore.Enable{}, status: "active"},
		{
			name: "enable what was rejected meanwhile", state: oauth(with(disable, reject(first(), credstore.ReasonRefreshTokenRejected))), action: credstore.Enable{},
			status: rejected, history: "enabled " + alarm, deliveries: alarm,
		},
		{name: "enable what recovered meanwhile", state: lost(with(disable, save(first()))), action: credstore.Enable{}, status: "active", history: "enabled recovered", deliveries: "recovered"},
		{name: "export", state: oauth(), action: credstore.Export{}, status: "disabled exported/active", history: "exported"},
		{name: "export what is disabled", state: oauth(with(disable)), action: credstore.Export{}, status: "disabled exported/active", history: "exported"},
		{name: "remove", state: oauth(), action: credstore.Remove{}, status: "active", history: "removed", deliveries: "removed"},

		// Keys.
		{name: "stage a key", state: apiKey(), action: credstore.StageKey{Key: secret("next")}, status: "active", history: "key_staged"},
		{name: "stage a key for a token pair", state: oauth(), action: credstore.StageKey{Key: secret("next")}, err: credstore.ErrSuperseded},
		{name: "promote", state: apiKey(), action: credstore.PromoteKey{Parent: firstKey(), NextKey: secret("next")}, status: "active", history: "key_promoted"},
		{
			name: "promote after a rejection", state: apiKey(with(reject(firstKey(), credstore.ReasonKeyRejected))), action: credstore.PromoteKey{Parent: firstKey(), NextKey: secret("next")},
			status: "active", history: "key_promoted recovered", deliveries: "recovered",
		},
		{name: "promote without a staged key", state: apiKey(), action: credstore.PromoteKey{Parent: firstKey()}, err: credstore.ErrSuperseded},
		{name: "key expires", state: apiKey(), action: credstore.RecordKeyExpiring{Within: 48 * time.Hour}, status: "active", history: "key_expiring", deliveries: "key_expiring"},
		{name: "key expires later", state: apiKey(), action: credstore.RecordKeyExpiring{Within: time.Hour}, status: "active"},
		{name: "key expires, recorded before", state: apiKey(with(credstore.RecordKeyExpiring{Within: 48 * time.Hour})), action: credstore.RecordKeyExpiring{Within: 72 * time.Hour}, status: "active"},
		{name: "key of a rejected connection expires", state: apiKey(with(reject(firstKey(), credstore.ReasonKeyRejected))), action: credstore.RecordKeyExpiring{Within: 48 * time.Hour}, status: "reauthorization_required key_rejected"},

		// A new consent or key.
		{name: "first consent", state: pending(), action: consent(credstore.Replacement{Company: acme}), status: "active", history: "connected", deliveries: "connected"},
		{name: "another consent", state: oauth(company(acme)), action: consent(credstore.Replacement{Company: acme}), status: "active", history: "connected", deliveries: "connected"},
		{name: "consent ends an alarm", state: lost(), action: consent(credstore.Replacement{}), status: "active", history: "recovered", deliveries: "recovered"},
		{name: "consent for disabled", state: oauth(with(disable)), action: consent(credstore.Replacement{}), status: "disabled operator/active", history: "connected", deliveries: "connected"},
		{name: "another key", state: apiKey(), action: newKey(), status: "active", history: "key_set"},
		{name: "consent of another company", state: oauth(company(acme)), action: consent(credstore.Replacement{Company: other}), err: credstore.ErrOtherCompany},
		{
			name: "consent of another company, allowed", state: oauth(company(acme)), action: consent(credstore.Replacement{Company: other, AllowOtherCompany: true}),
			status: "active", history: "company_override connected", deliveries: "connected",
		},
		{
			name: "consent of a company bound to another connection", state: oauth(),
			action: credstore.Replace{Replacement: credstore.Replacement{Company: acme}, Bound: bound}, err: credstore.ErrCompanyBound,
		},
		{
			name: "consent of a company bound to another connection, allowed", state: oauth(),
			action: credstore.Replace{Replacement: credstore.Replacement{Company: acme, AllowSharedCompany: true}, Bound: bound},
			status: "active", history: "company_override connected", deliveries: "connected",
		},

		// The company of the credential.
		{name: "company learned", state: oauth(), action: credstore.SetCompany{Company: acme}, status: "active", history: "company_learned"},
		{name: "company known", state: oauth(company(acme)), action: credstore.SetCompany{Company: acme}, status: "active"},
		{
			name: "company bound to another connection", state: oauth(), action: credstore.SetCompany{Company: acme, Bound: bound},
			status: "disabled company_conflict/active", history: "disabled " + alarm, deliveries: alarm,
		},
		{
			name: "unverified consent of another company", state: oauth(company(acme), with(saveConsent(first()))), action: credstore.SetCompany{Company: other},
			status: "disabled company_conflict/active", history: "disabled " + alarm, deliveries: alarm,
		},
		{
			name: "consent ends a company conflict", state: oauth(with(credstore.SetCompany{Company: acme, Bound: bound})), action: consent(credstore.Replacement{Company: other}),
			status: "active", history: "recovered", deliveries: "recovered",
		},
		{
			name: "unverified consent leaves a company conflict", state: oauth(with(credstore.SetCompany{Company: acme, Bound: bound})), action: consent(credstore.Replacement{}),
			status: "disabled company_conflict/active", history: "connected", deliveries: "connected",
		},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.check(t) })
	}
}

func (tt transition) check(t *testing.T) {
	t.Helper()
	got, err := credstore.Apply(tt.state, tt.action, now)
	if !errors.Is(err, tt.err) {
		t.Fatalf("Apply = %v, want %v", err, tt.err)
	}
	if err != nil {
		return
	}
	var history, deliveries []string
	for _, e := range got.History {
		history = append(history, short(e.Type))
		c := got.State.Connection
		if e.Status != c.Status || e.Reason != c.Reason || e.Version != c.Version {
			t.Errorf("%s has %s %q, version %d, want those after the transition", e.Type, e.Status, e.Reason, e.Version)
		}
	}
	for _, kind := range got.Deliveries {
		deliveries = append(deliveries, short(kind))
	}
	want := []string{tt.status, tt.history, tt.deliveries}
	if diff := cmp.Diff(want, []string{status(got.State), strings.Join(history, " "), strings.Join(deliveries, " ")}); diff != "" {
		t.Errorf("status, history and deliveries (-want +got):\n%s", diff)
	}
}

func short(kind credstore.EventType) string { return strings.TrimPrefix(string(kind), "connection.") }

func status(s credstore.StoredState) string {
	text := strings.TrimSpace(string(s.Connection.Status) + " " + s.Connection.Reason)
	if s.Connection.Status == credstore.Disabled {
		text += "/" + strings.TrimSpace(string(s.CredentialStatus)+" "+s.CredentialReason)
	}
	return text
}

// TestApplyToIntent: an intent ends with its outcome. The last of several attempts may
// be cancelled, and an orphaned intent is never: its token may be on the way.
func TestApplyToIntent(t *testing.T) {
	afterUnknownOutcome := with(intend(otherFence), unknown())
	for _, tt := range []struct {
		name   string
		state  credstore.StoredState
		action credstore.Action
		want   *credstore.Intent // without its parent, owner and times
	}{
		{"first attempt", oauth(), intend(ownFence), &credstore.Intent{Fence: ownFence, Outcome: credstore.OutcomePending, Attempts: 1}},
		{"attempt after an unknown outcome", oauth(afterUnknownOutcome), intend(ownFence), &credstore.Intent{Fence: ownFence, Outcome: credstore.OutcomePending, Attempts: 2}},
		{"unknown outcome", oauth(with(intend(ownFence))), unknown(), &credstore.Intent{Fence: ownFence, Outcome: credstore.OutcomeUnknown, Attempts: 1, NextAt: retryAt}},
		{"cancelled", oauth(with(intend(ownFence))), cancel(nil), nil},
		{"second attempt cancelled", oauth(afterUnknownOutcome, with(intend(ownFence))), cancel(&busy), &credstore.Intent{Fence: ownFence, Outcome: credstore.OutcomeUnknown, Attempts: 1, NextAt: retryAt}},
		{"cancelled twice", oauth(afterUnknownOutcome, with(intend(ownFence), cancel(nil))), cancel(nil), &credstore.Intent{Fence: ownFence, Outcome: credstore.OutcomeUnknown, Attempts: 1}},
		{"orphaned", oauth(with(intend(otherFence))), cancel(&busy), &credstore.Intent{Fence: otherFence, Outcome: credstore.OutcomePending, Attempts: 1}},
		{"saved", oauth(with(intend(ownFence))), save(first()), nil},
		{"rejected", oauth(with(intend(ownFence))), reject(first(), credstore.ReasonRefreshTokenRejected), nil},
		{"replaced", oauth(with(intend(ownFence))), consent(credstore.Replacement{}), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := tt.state.Intent
			copied := credstore.Intent{}
			if before != nil {
				copied = *before
			}
			got, err := credstore.Apply(tt.state, tt.action, now)
			if err != nil {
				t.Fatalf("Apply: %v", err)
			}
			if i := got.State.Intent; i != nil {
				i.Parent, i.Owner, i.At, i.FirstAt = credstore.Parent{}, "", time.Time{}, time.Time{}
			}
			if diff := cmp.Diff(tt.want, got.State.Intent); diff != "" {
				t.Errorf("intent (-want +got):\n%s", diff)
			}
			if before != nil && *before != copied {
				t.Error("Apply changed the intent of the state that it was given")
			}
		})
	}
}

// TestApplyToCredential checks the versions, hashes and secrets that actions store.
func TestApplyToCredential(t *testing.T) {
	none := credstore.Secret{}
	access, refresh, next, key := secret("access 2"), secret("refresh 2"), secret("next"), secret("key 2")
	dropped := credstore.MarkReauthorizationRequired{Parent: first(), Failure: rejection, DropAccessToken: true}
	for _, tt := range []struct {
		name    string
		state   credstore.StoredState
		action  credstore.Action
		version int64
		want    credstore.SecretChanges
	}{
		{"save", oauth(), save(first()), 2, credstore.SecretChanges{AccessToken: &access, RefreshToken: &refresh}},
		{"failure", oauth(), cancel(&busy), 1, credstore.SecretChanges{}},
		{"rejected", oauth(), reject(first(), "reason"), 1, credstore.SecretChanges{}},
		{"rejected with its access token", oauth(), dropped, 1, credstore.SecretChanges{AccessToken: &none}},
		{"stage", apiKey(), credstore.StageKey{Key: next}, 1, credstore.SecretChanges{NextKey: &next}},
		{"promote", apiKey(), credstore.PromoteKey{Parent: firstKey(), NextKey: next}, 2, credstore.SecretChanges{APIKey: &next, NextKey: &none}},
		{"replace", apiKey(), newKey(), 2, credstore.SecretChanges{AccessToken: &none, RefreshToken: &none, APIKey: &key, NextKey: &none}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := credstore.Apply(tt.state, tt.action, now)
			if err != nil {
				t.Fatalf("Apply: %v", err)
			}
			if v := got.State.Connection.Version; v != tt.version || got.State.Credential.Version != v {
				t.Errorf("version %d and %d, want %d", v, got.State.Credential.Version, tt.version)
			}
			revealed := cmp.Comparer(func(a, b credstore.Secret) bool { return a.Equal(b) })
			if diff := cmp.Diff(tt.want, got.Secrets, revealed); diff != "" {
				t.Errorf("secrets (-want +got):\n%s", diff)
			}
		})
	}
}

// TestIsSaved: the same successor again is no conflict, and any other is.
func TestIsSaved(t *testing.T) {
	s := save(first())
	stored := oauth(with(s))
	different := s.Successor
	different.AccessToken = secret("another")
	for _, tt := range []struct {
		name        string
		state       credstore.StoredState
		successor   credstore.Successor
		accessToken credstore.Secret
		want        bool
	}{
		{"saved", stored, s.Successor, secret("access 2"), true},
		{"saved, access token dropped since", stored, s.Successor, credstore.Secret{}, true},
		{"another access token", stored, different, secret("access 2"), false},
		{"not saved", oauth(), s.Successor, secret("access"), false},
		{"replaced since", oauth(with(s, consent(credstore.Replacement{}))), s.Successor, secret("access 2"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.state.IsSaved(tt.successor, tt.accessToken); got != tt.want {
				t.Errorf("IsSaved = %v, want %v", got, tt.want)
			}
		})
	}
}

// TestUnexpectedResponsesAreCounted: those in a row, from the first one on.
func TestUnexpectedResponsesAreCounted(t *testing.T) {
	odd := busy
	odd.Unexpected = true
	s := oauth(with(intend(ownFence), cancel(&odd), intend(ownFence), cancel(&busy), intend(ownFence), cancel(&odd)))
	if s.UnexpectedResponses != 2 || !s.UnexpectedSince.Equal(now) || !s.RetryAt.Equal(retryAt) {
		t.Errorf("%d unexpected responses since %v, next try at %v, want 2 since %v, %v", s.UnexpectedResponses, s.UnexpectedSince, s.RetryAt, now, retryAt)
	}
	with(cancel(&odd))(&s) // without an intent nothing was sent
	if s.UnexpectedResponses != 2 {
		t.Errorf("%d unexpected responses after one that was not cancelled, want 2", s.UnexpectedResponses)
	}
	with(save(first()))(&s)
	if s.UnexpectedResponses != 0 || !s.UnexpectedSince.IsZero() || !s.RetryAt.IsZero() {
		t.Errorf("after Save %d unexpected responses since %v, want none", s.UnexpectedResponses, s.UnexpectedSince)
	}
}
