package admin

import (
	"crypto/rand"
	"crypto/subtle"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	sessionIdleTimeout = 30 * time.Minute // after the latest page
	maxSessionAge      = 12 * time.Hour   // after signing in
	maxSessions        = 256
	failedSignInWindow = 5 * time.Minute
	maxFailedSignIns   = 10   // find one address within failedSignInWindow
	maxTrackedNetworks = 4096 // whose wrong tokens are counted
)

// session is somebody who has signed in. Its fields are guarded by the mutex of
// the sessions, but for form.
type session struct {
	csrfToken      string         // what the forms of the session send back
	adminTokenHash credstore.Hash // find the admin token that it began with
	createdAt      time.Time
	lastUsedAt     time.Time
	notice         notice
}

// notice is what the next page of a session says first.
type notice struct {
	Text  string
	Error bool // something went wrong
}

// sessions are those who have signed in with this process. They end with it.
type sessions struct {
	token func() credstore.Secret
	now   func() time.Time

	mu       sync.Mutex // guards what follows
	byID     map[credstore.Hash]*session
	failures map[string]signInFailures // clientNetwork → wrong tokens
}

// signInFailures counts wrong tokens.
type signInFailures struct {
	count   int
	firstAt time.Time
}

func newSessions(token func() credstore.Secret, now func() time.Time) *sessions {
	return &sessions{token: token, now: now, byID: map[credstore.Hash]*session{}, failures: map[string]signInFailures{}}
}

// create opens a session and returns the value of its cookie.
func (s *sessions) create() credstore.Secret {
	cookie, token := credstore.NewSecret(rand.Text()+rand.Text()), s.token().Hash()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prune(token)
	now := s.now()
	s.byID[cookie.Hash()] = &session{csrfToken: rand.Text(), adminTokenHash: token, createdAt: now, lastUsedAt: now}
	return cookie
}

// prune ends what has ended, and the session that was idle for longest when there
// are too many. s.mu is held.
func (s *sessions) prune(token credstore.Hash) {
	var oldest credstore.Hash
	for id, open := range s.byID {
		if s.expired(open, token) {
			delete(s.byID, id)
		} else if first, ok := s.byID[oldest]; !ok || open.lastUsedAt.Before(first.lastUsedAt) {
			oldest = id
		}
	}
	if len(s.byID) >= maxSessions {
		delete(s.byID, oldest)
	}
}

// expired reports whether a session has: by time, or because the admin token is
// no longer the one that it began with. s.mu is held.
func (s *sessions) expired(open *session, token credstore.Hash) bool {
	now := s.now()
	return now.Sub(open.lastUsedAt) >= sessionIdleTimeout || now.Sub(open.createdAt) >= maxSessionAge || open.adminTokenHash != token
}

// find returns the session of the request, or nil.
func (s *sessions) find(r *http.Request) *session {
	cookie := sessionCookie(r)
	if cookie.IsZero() {
		return nil
	}
	token := s.token().Hash()
	s.mu.Lock()
	defer s.mu.Unlock()
	open, ok := s.byID[cookie.Hash()]
	if !ok || s.expired(open, token) {
		return nil
	}
	open.lastUsedAt = s.now()
	return open
}

// remove ends the session of the request.
func (s *sessions) remove(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, sessionCookie(r).Hash())
}

// setNotice has the next page of the session begin with a notice.
func (s *sessions) setNotice(open *session, n notice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	open.notice = n
}

// takeNotice returns the notice for a page, once.
func (s *sessions) takeNotice(open *session) notice {
	if open == nil {
		return notice{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := open.notice
	open.notice = notice{}
	return n
}

// validCSRF reports whether the form of a request comes from a page of the
// session.
func (open *session) validCSRF(form url.Values) bool {
	return subtle.ConstantTimeCompare([]byte(form.Get("csrf_token")), []byte(open.csrfToken)) == 1
}

// signInBlocked reports whether so many wrong tokens have come from the address of the
// request that right ones do not count either for a while.
func (s *sessions) signInBlocked(r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.failures, func(_ string, a signInFailures) bool { return s.now().Sub(a.firstAt) >= failedSignInWindow })
	wrong, known := s.failures[clientNetwork(r)]
	return wrong.count >= maxFailedSignIns || !known && len(s.failures) >= maxTrackedNetworks
}

// recordFailure counts a wrong token.
func (s *sessions) recordFailure(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := clientNetwork(r)
	wrong, known := s.failures[from]
	if !known {
		wrong.firstAt = s.now()
	}
	wrong.count++
	s.failures[from] = wrong
}

// clientNetwork returns what wrong tokens are counted by: an IPv4 address, the network
// that one customer of a provider has in IPv6, or all of a unix socket.
func clientNetwork(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return ""
	}
	ip = ip.Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	network, err := ip.Prefix(bits)
	if err != nil {
		return ""
	}
	return network.String()
}

// The names of the session's cookie, without the port: the prefix has the browser
// hold the cookie to this host over TLS (RFC 6265bis section 4.1.3.2).
const (
	plainCookie  = "pleo_admin"
	secureCookie = "__Host-pleo_admin"
)

// cookieName returns the name of the cookie for the port that the browser has asked.
// Cookies know of hosts only, and several dashboards may be on the ports of one.
func cookieName(name string, r *http.Request) string {
	if port := (&url.URL{Host: r.Host}).Port(); port != "" {
		return name + "_" + port
	}
	return name
}

func sessionCookie(r *http.Request) credstore.Secret {
	for _, name := range []string{secureCookie, plainCookie} {
		if c, err := r.Cookie(cookieName(name, r)); err == nil {
			return credstore.NewSecret(c.Value)
		}
	}
	return credstore.Secret{}
}

// setSessionCookie gives the browser the cookie; an empty value takes it away.
func setSessionCookie(w http.ResponseWriter, r *http.Request, value credstore.Secret) {
	c := &http.Cookie{
		Name: cookieName(plainCookie, r), Value: value.Reveal(), Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
	}
	if usesTLS(r) {
		c.Name, c.Secure = cookieName(secureCookie, r), true
	}
	if value.IsZero() {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// usesTLS reports whether the browser speaks TLS: to us, or to something in front
// of us, which its own Origin tells.
func usesTLS(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	origin, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && origin.Scheme == "https"
}
