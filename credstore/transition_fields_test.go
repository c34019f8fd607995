package credstore_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// used sets all that a connection can have besides its credential, so that a
// transition shows what it clears and what it keeps.
func used(s *credstore.StoredState) {
	s.Alarmed, s.ReminderWindow = true, time.Hour
	s.RetryAt, s.RequestedAt = now.Add(time.Second), now
	s.UnexpectedResponses, s.UnexpectedSince = 1, now
	c := &s.Connection
	c.LastError = &credstore.Failure{Code: "earlier", At: now}
	c.Scope, c.RefreshedAt = "read", now.Add(-time.Hour)
	s.Credential.RejectedAt, s.Credential.ForcedAt, s.Credential.ForcedStreak = now, now, 2
	if c.Kind.IsKey() {
		s.Credential.NextKeyExpiresAt = now.Add(48 * time.Hour)
	}
}

func unverified(s *credstore.StoredState) { s.Connection.CompanyUnverified = true }

func shared(s *credstore.StoredState) { s.Connection.SharedCompany = true }

// fields returns the fields of the state other than its statuses and intent. Times are
// relative to now, and those that are zero are empty.
func fields(s credstore.StoredState) map[string]string {
	at := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.Sub(now).String()
	}
	c := s.Connection
	f := map[string]string{
		"alarmed": strconv.FormatBool(s.Alarmed), "reminder": s.ReminderWindow.String(), "error": "",
		"retry": at(s.RetryAt), "requested": at(s.RequestedAt),
		"unexpected": strconv.Itoa(s.UnexpectedResponses), "unexpected_since": at(s.UnexpectedSince),
		"scope": c.Scope, "company": c.CompanyID, "shared": strconv.FormatBool(c.SharedCompany), "unverified": strconv.FormatBool(c.CompanyUnverified),
		"expires": at(c.ExpiresAt), "refreshed": at(c.RefreshedAt), "next_expires": at(s.Credential.NextKeyExpiresAt),
		"rejected": at(s.Credential.RejectedAt), "forced": fmt.Sprint(at(s.Credential.ForcedAt), "*", s.Credential.ForcedStreak),
		"token_stored": strconv.FormatBool(s.RefreshTokenStored),
	}
	if c.LastError != nil {
		f["error"] = c.LastError.Code
	}
	return f
}

// changed returns the fields that differ, sorted, with their values in after.
func changed(before, after credstore.StoredState) string {
	old, current := fields(before), fields(after)
	var changes []string
	for _, name := range slices.Sorted(maps.Keys(current)) {
		if current[name] != old[name] {
			changes = append(changes, name+"="+current[name])
		}
	}
	return strings.Join(changes, " ")
}

// TestApplyClearsAndKeeps checks which fields an action changes. Those that a line does
// not name stay as they are.
func TestApplyClearsAndKeeps(t *testing.T) {
	forced := save(first())
	forced.Successor.Scope, forced.Successor.ExpiresAt = "write", now.Add(2*time.Hour)
	forced.Successor.ForcedAt, forced.Successor.ForcedStreak = now.Add(-time.Minute), 3
	dropped := credstore.MarkReauthorizationRequired{Parent: first(), Failure: rejection, Reason: "reason", DropAccessToken: true}
	allowed := consent(credstore.Replacement{Company: acme, AllowSharedCompany: true})
	allowed.Bound = bound
	later := rejection
	later.At = now.Add(time.Second)
	for _, tt := range []struct {
		name   string
		state  credstore.StoredState
		action credstore.Action
		want   string
	}{
		{"save", oauth(used), forced, "alarmed=false error= expires=2h0m0s forced=-1m0s*3 refreshed=0s rejected= requested= retry= scope=write unexpected=0 unexpected_since="},
		{"save keeps the scope, and a company unverified", oauth(used, unverified), save(first()), "alarmed=false error= expires= forced=*0 refreshed=0s rejected= requested= retry= unexpected=0 unexpected_since="},
		{"save without an access token", oauth(used), saveUnusable(first()), "error=busy expires= forced=*0 refreshed=0s rejected= requested= retry=1h0m0s unexpected=0 unexpected_since="},
		{"save a consent", oauth(used), saveConsent(first()), "alarmed=false error= expires= forced=*0 refreshed=0s rejected= requested= retry= unexpected=0 unexpected_since= unverified=true"},
		{"save after the token was deleted", oauth(func(s *credstore.StoredState) { s.RefreshTokenStored = false }), save(first()), "expires= token_stored=true"},
		{"intent", oauth(used), intend(ownFence), ""},
		{"cancel", oauth(used, with(intend(ownFence))), cancel(nil), ""},
		{"failure", oauth(used, with(intend(ownFence))), cancel(&credstore.RefreshFailure{Failure: failure, RetryAt: now.Add(time.Minute)}), "error=busy requested= retry=1m0s"},
		{"unknown outcome", oauth(used, with(intend(ownFence))), unknown(), "error=busy requested= retry="},
		{"rejected", oauth(used), credstore.MarkReauthorizationRequired{Parent: first(), Failure: later, Reason: "reason"}, "error=rejected rejected=1s requested= retry="},
		{"rejected with its access token", oauth(used), dropped, "error=rejected expires= requested= retry="},
		{"key rejected", apiKey(used), credstore.MarkReauthorizationRequired{Parent: firstKey(), Failure: later, Reason: "reason"}, "error=rejected requested= retry="},
		{"reinstated", oauth(used), credstore.Reinstate{Parent: first()}, "alarmed=false error= rejected="},
		{"stage a key", apiKey(used), credstore.StageKey{Key: secret("next"), ExpiresAt: now.Add(72 * time.Hour)}, "next_expires=72h0m0s"},
		{"promote", apiKey(used), credstore.PromoteKey{Parent: firstKey(), NextKey: secret("next")}, "alarmed=false error= expires=48h0m0s next_expires= rejected= reminder=0s"},
		{"key expires", apiKey(), credstore.RecordKeyExpiring{Within: 48 * time.Hour}, "reminder=48h0m0s"},
		{"another key", apiKey(used), newKey(), "alarmed=false error= expires= forced=*0 next_expires= refreshed= rejected= reminder=0s requested= retry= unexpected=0 unexpected_since="},
		{"consent", oauth(used, unverified), consent(credstore.Replacement{Company: acme, Scope: "write"}), "alarmed=false company=c-1 error= expires= forced=*0 refreshed=0s rejected= reminder=0s requested= retry= scope=write unexpected=0 unexpected_since= unverified=false"},
		{"consent of an earlier time", oauth(), consent(credstore.Replacement{ObtainedAt: now.Add(-time.Minute)}), "expires= refreshed=-1m0s"},
		{"consent of an unknown company", oauth(company(acme)), consent(credstore.Replacement{}), "expires= unverified=true"},
		{"consent that may be any company's", oauth(), consent(credstore.Replacement{CompanyUnverified: true}), "expires= unverified=true"},
		{"consent of a shared company", oauth(), allowed, "company=c-1 expires= shared=true"},
		{"consent of another company ends sharing", oauth(company(acme), shared), consent(credstore.Replacement{Company: other, AllowOtherCompany: true}), "company=c-2 expires= shared=false"},
		{"company of a shared connection", oauth(shared, unverified), credstore.SetCompany{Company: acme, Bound: bound}, "company=c-1 unverified=false"},
		{"company that another connection has", oauth(unverified), credstore.SetCompany{Company: acme, Bound: bound}, "alarmed=true"},
		{"refresh requested", oauth(), credstore.RequestRefresh{At: now}, "requested=0s"},
		{"retry", lost(), credstore.RetryRejected{At: now}, "rejected= requested=0s"},
		{"disable", oauth(used), disable, ""},
		{"enable", oauth(used, with(disable)), credstore.Enable{}, "alarmed=false"},
		{"export", oauth(used), credstore.Export{}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := credstore.Apply(tt.state, tt.action, now)
			if err != nil {
				t.Fatalf("Apply: %v", err)
			}
			if diff := cmp.Diff(tt.want, changed(tt.state, got.State)); diff != "" {
				t.Errorf("changed fields (-want +got):\n%s", diff)
			}
		})
	}
}
