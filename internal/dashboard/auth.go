package dashboard

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

const (
	// maxFormSize is the size of a form in bytes, far more than any form needs.
	maxFormSize = 64 << 10

	failedSignInWindow = 5 * time.Minute
	maxFailedSignIns   = 10   // of one network within failedSignInWindow
	maxTrackedNetworks = 4096 // whose failed sign-ins are counted
)

// auth signs operators in and out, and decides which requests may read and change.
//
// A browser may change something if its request has both the cookie of a session and
// the CSRF token that only pages of that session contain. The cookie is SameSite and
// HttpOnly, so neither pages of other sites nor scripts can use it. Pages of the same
// site can, such as another service on another port of this host, and the token is
// for them. The JSON API accepts no session, and these pages no bearer token.
type auth struct {
	Config
	pages    *renderer
	failures *failureLimiter
}

// requireReader serves h to browsers that may read: to all on a listener that only
// this machine can reach, and otherwise to those that are signed in.
func (a *auth) requireReader(h handler) handler {
	if !a.Exposed {
		return h
	}
	return a.requireSession(h)
}

// requireSession serves h to browsers that are signed in, and redirects others to
// the sign-in page.
func (a *auth) requireSession(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if a.pages.sessions.find(r) != nil {
			return h(w, r)
		}
		to := url.URL{Path: "/sign-in", RawQuery: url.Values{"next": {r.URL.RequestURI()}}.Encode()}
		http.Redirect(w, r, to.String(), http.StatusSeeOther)
		return nil
	}
}

// requireForm serves h to forms on pages of the browser's own session. The cookie
// alone does not show that: browsers also send it with forms of other pages of the
// same site.
func (a *auth) requireForm(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := parseForm(w, r); err != nil {
			return err
		}
		s := a.pages.sessions.find(r)
		if s == nil { // the form is lost, so the page that had it comes next
			return a.renderSignIn(w, r, http.StatusForbidden, signInPage{Next: r.Header.Get("Referer"), Error: "Your session has expired, and nothing was changed. Sign in and try again."})
		}
		// PostForm and not Form: a token in the query would be in logs and in Referer.
		if !s.validCSRF(r.PostForm) {
			return manage.NewProblem(manage.CodeCrossSiteRequest, "This form does not belong to your session. Go back, reload the page and try again.")
		}
		return h(w, r)
	}
}

func parseForm(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxFormSize)
	err := r.ParseForm()
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return manage.NewProblem(manage.CodeBodyTooLarge, "The form must not have more than %d bytes.", maxFormSize)
	}
	if err != nil {
		return manage.NewProblem(manage.CodeBadRequest, "The form is malformed.")
	}
	return nil
}

// signInPage is the sign-in page.
type signInPage struct {
	Next      string // path of the page to show after signing in
	Error     string
	TokenFile string // empty: there is no token
}

func (a *auth) signInForm(w http.ResponseWriter, r *http.Request) error {
	return a.renderSignIn(w, r, http.StatusOK, signInPage{Next: r.URL.Query().Get("next")})
}

func (a *auth) renderSignIn(w http.ResponseWriter, r *http.Request, status int, p signInPage) error {
	p.Next, p.TokenFile = localPath(p.Next), a.TokenFile
	return a.pages.render(w, r, status, "sign-in", view{Title: "Sign in", Page: p})
}

// signIn starts a session for a browser that sends the admin token. While a network
// is blocked, not even the right token is accepted: otherwise guessing could go on.
func (a *auth) signIn(w http.ResponseWriter, r *http.Request) error {
	if err := parseForm(w, r); err != nil {
		return err
	}
	next := r.PostForm.Get("next")
	if a.failures.blocked(r) {
		w.Header().Set("Retry-After", fmt.Sprint(int(failedSignInWindow.Seconds())))
		return a.renderSignIn(w, r, http.StatusTooManyRequests, signInPage{Next: next, Error: "Too many failed attempts from your address. Try again in 5 minutes."})
	}
	given, want := credstore.NewSecret(strings.TrimSpace(r.PostForm.Get("token"))), a.Token()
	if want.IsZero() || !want.Equal(given) {
		a.failures.record(r)
		a.Logger.Warn("dashboard sign-in failed", zap.String("address", r.RemoteAddr))
		return a.renderSignIn(w, r, http.StatusUnauthorized, signInPage{Next: next, Error: "The admin token is not correct."})
	}
	a.pages.sessions.remove(r) // the browser is about to forget its cookie
	setSessionCookie(w, r, a.pages.sessions.create())
	a.Logger.Info("dashboard sign-in", zap.String("address", r.RemoteAddr))
	http.Redirect(w, r, localPath(next), http.StatusSeeOther) //nolint:gosec // localPath returns a path on this listener
	return nil
}

func (a *auth) signOut(w http.ResponseWriter, r *http.Request) error {
	a.pages.sessions.remove(r)
	setSessionCookie(w, r, credstore.Secret{})
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}

// localPath returns the path and query of a URL, so that signing in never leads to
// another site.
func localPath(given string) string {
	u, err := url.Parse(given)
	if err != nil || !strings.HasPrefix(u.Path, "/") || u.Path == "/sign-in" {
		return "/"
	}
	clean := url.URL{Path: path.Clean(u.Path), RawQuery: u.RawQuery}
	return clean.RequestURI()
}

// failureLimiter counts failed sign-ins by network.
type failureLimiter struct {
	now func() time.Time

	mu        sync.Mutex // guards byNetwork
	byNetwork map[string]failures
}

// failures are the failed sign-ins of a network.
type failures struct {
	count   int
	firstAt time.Time
}

// blocked reports whether the network of the request has had too many failed
// sign-ins. Networks that cannot be counted any more are blocked too.
func (l *failureLimiter) blocked(r *http.Request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.byNetwork, func(_ string, f failures) bool { return l.now().Sub(f.firstAt) >= failedSignInWindow })
	f, known := l.byNetwork[clientNetwork(r)]
	return f.count >= maxFailedSignIns || !known && len(l.byNetwork) >= maxTrackedNetworks
}

// record counts a failed sign-in.
func (l *failureLimiter) record(r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	network := clientNetwork(r)
	f, known := l.byNetwork[network]
	if !known {
		f.firstAt = l.now()
	}
	f.count++
	l.byNetwork[network] = f
}

// clientNetwork returns what failed sign-ins are counted by: the IPv4 address, the
// /64 that providers assign to one customer in IPv6, or "" for all of a unix socket.
func clientNetwork(r *http.Request) string {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	ip := addr.Addr().Unmap().WithZone("")
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
