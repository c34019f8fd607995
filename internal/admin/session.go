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
	sessionIdle     = 30 * time.Minute // after the latest page
	sessionAtMost   = 12 * time.Hour   // after signing in
	sessionsAtOnce  = 256
	wrongTokensKept = 5 * time.Minute
	wrongTokens     = 10   // of one address within wrongTokensKept
	addressesAtOnce = 4096 // whose wrong tokens are counted
)

// session is somebody who has signed in. Its fields are guarded by the mutex of
// the sessions, but for form.
type session struct {
	form  string         // what the forms of the session send back
	token credstore.Hash // of the admin token that it began with
	began time.Time
	seen  time.Time
	said  notice
}

// notice is what the next page of a session says first.
type notice struct {
	Text string
	Bad  bool // something went wrong
}

// sessions are those who have signed in with this process. They end with it.
type sessions struct {
	token func() credstore.Secret
	now   func() time.Time

	mu    sync.Mutex // guards what follows
	open  map[credstore.Hash]*session
	wrong map[string]attempts // address → wrong tokens
}

// attempts counts wrong tokens.
type attempts struct {
	count int
	since time.Time
}

func newSessions(token func() credstore.Secret, now func() time.Time) *sessions {
	return &sessions{token: token, now: now, open: map[credstore.Hash]*session{}, wrong: map[string]attempts{}}
}

// begin opens a session and returns the value of its cookie.
func (s *sessions) begin() credstore.Secret {
	cookie, token := credstore.NewSecret(rand.Text()+rand.Text()), s.token().Hash()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tidy(token)
	now := s.now()
	s.open[cookie.Hash()] = &session{form: rand.Text(), token: token, began: now, seen: now}
	return cookie
}

// tidy ends what has ended, and the session that was idle for longest when there
// are too many. s.mu is held.
func (s *sessions) tidy(token credstore.Hash) {
	var oldest credstore.Hash
	for id, open := range s.open {
		if s.ended(open, token) {
			delete(s.open, id)
		} else if first, ok := s.open[oldest]; !ok || open.seen.Before(first.seen) {
			oldest = id
		}
	}
	if len(s.open) >= sessionsAtOnce {
		delete(s.open, oldest)
	}
}

// ended reports whether a session has: by time, or because the admin token is
// no longer the one that it began with. s.mu is held.
func (s *sessions) ended(open *session, token credstore.Hash) bool {
	now := s.now()
	return now.Sub(open.seen) >= sessionIdle || now.Sub(open.began) >= sessionAtMost || open.token != token
}

// of returns the session of the request, or nil.
func (s *sessions) of(r *http.Request) *session {
	cookie := sessionCookie(r)
	if cookie.IsZero() {
		return nil
	}
	token := s.token().Hash()
	s.mu.Lock()
	defer s.mu.Unlock()
	open, ok := s.open[cookie.Hash()]
	if !ok || s.ended(open, token) {
		return nil
	}
	open.seen = s.now()
	return open
}

// end ends the session of the request.
func (s *sessions) end(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, sessionCookie(r).Hash())
}

// say has the next page of the session begin with a notice.
func (s *sessions) say(open *session, n notice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	open.said = n
}

// said returns the notice for a page, once.
func (s *sessions) said(open *session) notice {
	if open == nil {
		return notice{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := open.said
	open.said = notice{}
	return n
}

// sentBack reports whether the form of a request comes from a page of the
// session.
func (open *session) sentBack(form url.Values) bool {
	return subtle.ConstantTimeCompare([]byte(form.Get("form")), []byte(open.form)) == 1
}

// tooMany reports whether so many wrong tokens have come from the address of the
// request that right ones do not count either for a while.
func (s *sessions) tooMany(r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.wrong, func(_ string, a attempts) bool { return s.now().Sub(a.since) >= wrongTokensKept })
	wrong, known := s.wrong[address(r)]
	return wrong.count >= wrongTokens || !known && len(s.wrong) >= addressesAtOnce
}

// failed counts a wrong token.
func (s *sessions) failed(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := address(r)
	wrong, known := s.wrong[from]
	if !known {
		wrong.since = s.now()
	}
	wrong.count++
	s.wrong[from] = wrong
}

// address returns what wrong tokens are counted by: an IPv4 address, the network
// that one customer of a provider has in IPv6, or all of a unix socket.
func address(r *http.Request) string {
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

// ofPort returns the name of the cookie for the port that the browser has asked.
// Cookies know of hosts only, and several dashboards may be on the ports of one.
func ofPort(name string, r *http.Request) string {
	if port := (&url.URL{Host: r.Host}).Port(); port != "" {
		return name + "_" + port
	}
	return name
}

func sessionCookie(r *http.Request) credstore.Secret {
	for _, name := range []string{secureCookie, plainCookie} {
		if c, err := r.Cookie(ofPort(name, r)); err == nil {
			return credstore.NewSecret(c.Value)
		}
	}
	return credstore.Secret{}
}

// setCookie gives the browser the cookie; an empty value takes it away.
func setCookie(w http.ResponseWriter, r *http.Request, value credstore.Secret) {
	c := &http.Cookie{
		Name: ofPort(plainCookie, r), Value: value.Reveal(), Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
	}
	if byTLS(r) {
		c.Name, c.Secure = ofPort(secureCookie, r), true
	}
	if value.IsZero() {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// byTLS reports whether the browser speaks TLS: to us, or to something in front
// of us, which its own Origin tells.
func byTLS(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	origin, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && origin.Scheme == "https"
}
