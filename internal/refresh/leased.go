package refresh

import (
	"hash/fnv"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	// minForcedInterval is the least time between two refreshes because of 401s. It
	// doubles with each in a row, up to maxForcedInterval.
	minForcedInterval = 30 * time.Second
	maxForcedInterval = time.Hour

	// keepAliveAge is the age at which an idle grant is refreshed, less up to
	// keepAliveJitter: Pleo promises 60 days, a week leaves room for trouble.
	keepAliveAge    = 7 * 24 * time.Hour
	keepAliveJitter = 12 * time.Hour
)

// leased is a connection whose lease this process holds.
type leased struct {
	entry  *entry
	flight *flight
	lease  credstore.Lease
	state  credstore.State // as read under the lease
}

// forcedInterval is the least time after the streak of forced refreshes.
func forcedInterval(streak int) time.Duration {
	interval := minForcedInterval
	for ; streak > 1 && interval < maxForcedInterval; streak-- {
		interval *= 2
	}
	return min(interval, maxForcedInterval)
}

// requested reports whether an operator waits for a refresh.
func (l leased) requested() bool { return !l.state.RequestedAt.IsZero() }

// skipsDelay reports whether an operator's request goes before our own delay. The
// delay that a server asked for stands.
func (l leased) skipsDelay() bool {
	last := l.state.Connection.LastError
	return l.requested() && (last == nil || last.Code != codeRateLimited)
}

// unneeded reports whether the credential needs no refresh after all.
func (l leased) unneeded(s *snapshot, now time.Time) bool {
	p := l.flight.purpose
	if l.requested() || p.reason == reasonKeepAlive && needsKeepAlive(l.state.Connection, now) || p.reason == reasonRejected && s.conn.Version <= p.version {
		return false
	}
	return s.valid(now) && !s.due(now)
}

// forcedTooSoon reports whether a refresh because of a 401 would follow the last
// such one too soon.
func (l leased) forcedTooSoon(now time.Time) bool {
	c := l.state.Credential
	return c.ForcedStreak > 0 && now.Sub(c.ForcedAt) < forcedInterval(c.ForcedStreak)
}

// nextForced returns what the successor records of refreshes that came before
// their time, because of a 401 or because a response had no access token: this
// one counts, on top of those in quick succession before it.
func (l leased) nextForced(now time.Time) (at time.Time, streak int) {
	c := l.state.Credential
	switch {
	case l.lacksAccessToken():
		return now, c.ForcedStreak + 1
	case l.flight.purpose.reason != reasonRejected:
		return c.ForcedAt, c.ForcedStreak
	case now.Sub(c.ForcedAt) > 2*forcedInterval(c.ForcedStreak):
		return now, 1
	}
	return now, c.ForcedStreak + 1
}

// lacksAccessToken reports whether the stored pair came without an access token.
func (l leased) lacksAccessToken() bool {
	last := l.state.Connection.LastError
	return l.state.Credential.AccessToken.IsZero() && last != nil && last.Code == codeAccessTokenMissing
}

// needsKeepAlive reports whether an idle grant should be refreshed.
func needsKeepAlive(c credstore.Connection, now time.Time) bool {
	return now.Sub(c.RefreshedAt) >= keepAliveAge-keepAliveOffset(c.ID)
}

// keepAliveOffset spreads connections that were connected at the same time over
// keepAliveJitter. It is always the same for a connection.
func keepAliveOffset(id string) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return time.Duration(h.Sum32()) % keepAliveJitter
}
