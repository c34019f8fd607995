package dashboard

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	sessionIdleTimeout = 30 * time.Minute // after the last request
	maxSessionAge      = 12 * time.Hour   // after signing in
	maxSessions        = 256
)

// session is a browser that is signed in. The mutex of sessions guards lastUsedAt
// and notice; the other fields never change.
type session struct {
	csrfToken      string         // sent back by the forms of the session's pages
	adminTokenHash credstore.Hash // of the admin token that the browser signed in with
	createdAt      time.Time
	lastUsedAt     time.Time
	notice         notice
}

// notice is a message at the top of the next page of a session.
type notice struct {
	Text  string
	Error bool
}

// sessions are the sessions of this process. They are in memory only, and end with
// the process. Cookies are stored as hashes, so that a memory dump contains no
// cookie that could be used.
type sessions struct {
	token func() credstore.Secret
	now   func() time.Time

	mu   sync.Mutex                  // guards byID and the sessions in it
	byID map[credstore.Hash]*session // hash of the cookie → session
}

func newSessions(token func() credstore.Secret, now func() time.Time) *sessions {
	return &sessions{token: token, now: now, byID: map[credstore.Hash]*session{}}
}

// create starts a session and returns the value of its cookie. The session id is
// always new: an attacker could know one that the browser brings along.
func (s *sessions) create() credstore.Secret {
	// Two texts of 26 characters have 260 bits of randomness.
	cookie, token := credstore.NewSecret(rand.Text()+rand.Text()), s.token().Hash()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prune(token)
	now := s.now()
	s.byID[cookie.Hash()] = &session{csrfToken: rand.Text(), adminTokenHash: token, createdAt: now, lastUsedAt: now}
	return cookie
}

// prune deletes expired sessions, and the least recently used one if there is no
// room for another. The caller holds s.mu.
func (s *sessions) prune(token credstore.Hash) {
	var oldest credstore.Hash
	for id, candidate := range s.byID {
		if s.expired(candidate, token) {
			delete(s.byID, id)
		} else if first, ok := s.byID[oldest]; !ok || candidate.lastUsedAt.Before(first.lastUsedAt) {
			oldest = id
		}
	}
	if len(s.byID) >= maxSessions {
		delete(s.byID, oldest)
	}
}

// expired reports whether a session has expired, or the admin token has changed
// since it began: replacing the token ends all sessions. The caller holds s.mu.
func (s *sessions) expired(candidate *session, token credstore.Hash) bool {
	now := s.now()
	return now.Sub(candidate.lastUsedAt) >= sessionIdleTimeout || now.Sub(candidate.createdAt) >= maxSessionAge || candidate.adminTokenHash != token
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
	found, ok := s.byID[cookie.Hash()]
	if !ok || s.expired(found, token) {
		return nil
	}
	found.lastUsedAt = s.now() // every page counts as use, also one that fails
	return found
}

// remove ends the session of the request.
func (s *sessions) remove(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, sessionCookie(r).Hash())
}

// setNotice sets the notice of the session's next page. The session may be nil.
func (s *sessions) setNotice(to *session, n notice) {
	if to == nil { // it has expired during the request
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	to.notice = n
}

// takeNotice returns the notice of a page, and clears it.
func (s *sessions) takeNotice(from *session) notice {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := from.notice
	from.notice = notice{}
	return n
}

// validCSRF reports whether the form is from a page of the session.
func (s *session) validCSRF(form url.Values) bool {
	return subtle.ConstantTimeCompare([]byte(form.Get("csrf_token")), []byte(s.csrfToken)) == 1
}

// The names of the session cookie, without the port. Browsers accept a cookie with
// the __Host- prefix only over TLS and only from this very host (RFC 6265bis section
// 4.1.3.2), so that no subdomain can plant one.
const (
	plainCookie  = "pleo_admin"
	secureCookie = "__Host-pleo_admin"
)

// cookieName returns the name of the cookie for the port of the request. Browsers
// send cookies to all ports of a host, and the dashboards of two environments may
// be forwarded to two ports of one.
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

// setSessionCookie sets the cookie of the session, or deletes it if the value is
// empty.
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

// usesTLS reports whether the browser uses TLS, to this listener or to a proxy in
// front of it, which shows in the Origin of a form.
func usesTLS(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	origin, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && origin.Scheme == "https"
}
