package refresh

import (
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// fallBack restores old data, as a server does that fails over to a lagging replica. Every connection is reported as changed.
func (m *memory) fallBack(old *memory) {
	was := old.backup()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost += len(m.log) - len(was.log) + len(was.rows) + 1
	m.rows, m.facts = was.rows, was.facts
	for id := range was.rows {
		m.send(id)
	}
}

// A process that obtained a pair saves it again, and the others wait for that. A token
// whose successor is lost is not sent.
func TestSharedStoreThatLostChanges(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.polling, w.shared = true, true
		w.calibrate()
		for _, name := range []string{"kept", "gone", "untouched"} {
			w.connect(name)
		}
		stays, stops, other := w.start(""), w.start(""), w.start("")
		defer stays.stop()
		defer other.stop()
		time.Sleep(4 * time.Minute) // the high-water marks are up to date
		old := w.data.backup()
		expire()
		stays.mustAuthorize("kept")
		stops.mustAuthorize("gone")
		time.Sleep(4 * time.Minute)
		stops.stop()
		w.data.fallBack(old)
		time.Sleep(time.Second)

		other.mustAuthorize("kept")
		other.mustAuthorize("untouched")
		_, err := other.Authorize(t.Context(), "gone")
		wantCode(t, err, ServerUnavailable) // another process might still have the pair
		time.Sleep(peerSaveTimeout + time.Second)
		_, err = other.Authorize(t.Context(), "gone")
		if e := wantCode(t, err, ReauthorizationRequired); e.Reason != credstore.ReasonRefreshTokenInactive {
			t.Errorf("reason %q, want %q", e.Reason, credstore.ReasonRefreshTokenInactive)
		}
		stays.mustAuthorize("kept")
		if twice := w.server.sentMoreThan(1); len(twice) > 0 {
			t.Errorf("tokens sent more than once: %v", twice)
		}
	})
}

// Of processes that all use a connection, one refreshes it ahead of expiry, and the
// others read the result.
func TestOneOfManyProcessesRefreshesAheadOfExpiry(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.shared = true
		w.connect("acme")
		var all []*process
		for range 5 {
			p := w.start("")
			defer p.stop()
			p.mustAuthorize("acme")
			all = append(all, p)
		}
		for range 6 { // lifetimes of a token
			time.Sleep(w.server.life)
			for _, p := range all {
				p.mustAuthorize("acme")
			}
		}
		if n := w.server.count(); n > 8 {
			t.Errorf("%d refreshes in 6 lives of a token, want one in each", n)
		}
		if twice := w.server.sentMoreThan(1); len(twice) > 0 {
			t.Errorf("tokens sent more than once: %v", twice)
		}
	})
}
