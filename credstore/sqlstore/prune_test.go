package sqlstore

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// clockedStore is a store whose time stands still at *now.
func clockedStore(t *testing.T) (s *Store, now *time.Time) {
	t.Helper()
	s = openStore(t, filepath.Join(t.TempDir(), "store.db"))
	at := time.Now()
	s.db.now = func() time.Time { return at }
	return s, &at
}

func mustOpenLink(t *testing.T, s *Store, id string) credstore.Secret {
	t.Helper()
	token, _, err := s.Links.OpenLink(t.Context(), id, credstore.LinkRequest{TTL: time.Hour})
	if err != nil {
		t.Fatalf("OpenLink: %v", err)
	}
	return token
}

// TestConsentMayOutlastItsLink: who began in time is not turned away at the end.
func TestConsentMayOutlastItsLink(t *testing.T) {
	for _, test := range []struct {
		name  string
		after time.Duration // the link was opened
		want  error
	}{
		{"in time", time.Hour - time.Second, nil},
		{"begun in time", time.Hour + credstore.ConsentTimeout - time.Second, nil},
		{"too late", time.Hour + credstore.ConsentTimeout, credstore.ErrLinkExpired},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, now := clockedStore(t)
			c := mustCreate(t, s, newOAuth("acme"))
			link := mustOpenLink(t, s, c.ID)
			*now = now.Add(test.after)
			s.db.prune(t.Context())
			l, err := s.Credentials.Acquire(t.Context(), c.ID, "me")
			if err != nil {
				t.Fatalf("Acquire: %v", err)
			}
			r := credstore.Replacement{Credential: *newOAuth("consent").Credential, LinkToken: link}
			if _, err := s.Connections.Replace(t.Context(), l, r); !errors.Is(err, test.want) {
				t.Errorf("Replace = %v, want %v", err, test.want)
			}
		})
	}
}

func TestLinksAndConsentsArePruned(t *testing.T) {
	s, now := clockedStore(t)
	c := mustCreate(t, s, newOAuth("acme"))
	link := mustOpenLink(t, s, c.ID)
	err := s.Links.BeginConsent(t.Context(), credstore.Consent{
		State: credstore.NewSecret("s"), Link: link, Verifier: credstore.NewSecret("v"), Browser: []byte("b"),
	})
	if err != nil {
		t.Fatalf("BeginConsent: %v", err)
	}
	start := *now
	for _, test := range []struct {
		name                    string
		after                   time.Duration
		links, tokens, consents int
	}{
		{"at once", 0, 1, 1, 1},
		{"after the consent", credstore.ConsentTimeout, 1, 1, 0},
		{"after the link", time.Hour + credstore.ConsentTimeout, 1, 0, 0},
		{"much later", time.Hour + linkRetention, 0, 0, 0},
	} {
		*now = start.Add(test.after)
		s.db.prune(t.Context())
		var links, tokens, consents int
		err := s.db.dialect.readers().QueryRowContext(t.Context(), `
			SELECT count(*), count(token), (SELECT count(*) FROM consents) FROM links`).Scan(&links, &tokens, &consents)
		if err != nil || links != test.links || tokens != test.tokens || consents != test.consents {
			t.Errorf("%s: %d links, %d tokens, %d consents, %v; want %d, %d, %d", test.name,
				links, tokens, consents, err, test.links, test.tokens, test.consents)
		}
	}
	if _, err := s.Links.FindLink(t.Context(), link); !errors.Is(err, credstore.ErrNotFound) {
		t.Errorf("FindLink of a forgotten link = %v, want %v", err, credstore.ErrNotFound)
	}
}

func TestOldEventsArePruned(t *testing.T) {
	s, now := clockedStore(t)
	if _, err := s.Outbox.Subscribe(t.Context(), []credstore.Subscription{{Name: "hook", Types: credstore.PublicEvents()}}); err != nil {
		t.Fatalf("Subscribe: %v", err)
	}
	c := mustCreate(t, s, newOAuth("acme"))
	for _, e := range []credstore.EventType{credstore.EventConnected, credstore.EventRefreshed} {
		if err := s.History.RecordEvent(t.Context(), c.ID, credstore.Event{Type: e}); err != nil {
			t.Fatalf("Note: %v", err)
		}
	}
	start := *now
	for _, test := range []struct {
		after        time.Duration
		want, queued int
	}{{credstore.EventRetention - time.Second, 3, 1}, {credstore.EventRetention, 0, 0}} {
		*now = start.Add(test.after)
		s.db.prune(t.Context())
		page, err := s.History.Events(t.Context(), c.ID, "", 0)
		if err != nil || len(page.Events) != test.want {
			t.Errorf("events after %v = %d, %v, want %d", test.after, len(page.Events), err, test.want)
		}
		got, err := s.Outbox.ClaimDeliveries(t.Context(), "hook", "me", *now, time.Second, 10)
		if err != nil || len(got) != test.queued {
			t.Errorf("deliveries after %v = %d, %v, want %d", test.after, len(got), err, test.queued)
		}
	}
}

// TestPruningIsBounded: however much there is to forget, it takes no more than
// its share at a time, and goes on the next time.
func TestPruningIsBounded(t *testing.T) {
	s, now := clockedStore(t)
	const more = 300
	mustExec(t, writer(s), `
		WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
		INSERT INTO events (id, connection_id, connection, frequent, type, at, actor, status, reason, version, code, message)
		SELECT i, i, 'c', 0, 't', 1, 'a', 's', 'r', 1, '', '' FROM n`, pruneBatchSize*maxPruneBatches+more)
	for _, want := range []int{more, 0} {
		*now = now.Add(pruneInterval)
		s.db.pruneIfDue(t.Context())
		var left int
		if err := s.db.dialect.readers().QueryRowContext(t.Context(), `SELECT count(*) FROM events`).Scan(&left); err != nil || left != want {
			t.Errorf("old events left = %d, %v, want %d", left, err, want)
		}
	}
}
