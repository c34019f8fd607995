package connect

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

const (
	// maxFormBytes bounds a request body. Keys have at most some hundred
	// characters.
	maxFormBytes = 8 << 10
	// maxConcurrentLookups bounds the load of link pages on the store. Further
	// requests wait.
	maxConcurrentLookups = 32
	// maxConcurrentExchanges bounds the consents and keys that wait for Pleo.
	// Further requests are rejected.
	maxConcurrentExchanges = 256
)

// guard checks the Host field, sets the security headers and limits the body.
func (p *Pages) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setPolicy(w.Header(), "'self'")
		if !p.hosts.Allow(r) {
			p.showReason(w, r, hostNotAllowed)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
		next.ServeHTTP(w, r)
	})
}

// setPolicy lets browsers show a page with our style and logo and submit its form,
// and nothing else. The pages have no scripts.
func setPolicy(h http.Header, formAction string) {
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action "+formAction+
		"; frame-ancestors 'none'; base-uri 'none'")
	h.Set("Referrer-Policy", "no-referrer") // the URL of a page is a secret
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Robots-Tag", "noindex, nofollow")
	h.Set("Cache-Control", "no-store")
}

// allowFormRedirect allows the form to lead to Pleo, and from there to any sign-in
// page: browsers apply the policy to each redirect.
func allowFormRedirect(h http.Header, auth *url.URL) {
	sources := "'self' https:"
	if auth.Scheme == "http" { // on this machine
		sources += " http://" + auth.Host
	}
	setPolicy(h, sources)
}

// waitForSlot lets at most n requests at a time use h. The others wait.
func waitForSlot(n int64, h http.HandlerFunc) http.HandlerFunc {
	slots := semaphore.NewWeighted(n)
	return func(w http.ResponseWriter, r *http.Request) {
		if slots.Acquire(r.Context(), 1) != nil {
			return // the browser has left
		}
		defer slots.Release(1)
		h(w, r)
	}
}

// limitConcurrent lets at most n requests at a time use h, which may wait for Pleo.
// The others are rejected.
func (p *Pages) limitConcurrent(n int64, h http.HandlerFunc) http.HandlerFunc {
	slots := semaphore.NewWeighted(n)
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			r.URL.RawQuery = "" // mail programs and trackers add to links, and ParseForm must not fail for it
			// Before a slot is taken, because a slow client can make it last.
			if r.ParseForm() != nil {
				p.showReason(w, r, badRequest)
				return
			}
		}
		if !slots.TryAcquire(1) {
			p.showReason(w, r, serverBusy)
			return
		}
		defer slots.Release(1)
		extendDeadlines(w)
		h(w, r)
	}
}

// extendDeadlines gives the response the time that Pleo may take. It has no effect
// on the response writers of tests.
func extendDeadlines(w http.ResponseWriter) {
	c, until := http.NewResponseController(w), time.Now().Add(maxPageDuration)
	_ = c.SetReadDeadline(until) // otherwise the context ends as if the browser had left
	_ = c.SetWriteDeadline(until)
}

// isSameOrigin reports whether a POST was sent by one of our pages. Otherwise a form
// on another site could send customers to approve someone else's connection.
func (p *Pages) isSameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin" || site == "none"
	}
	switch origin := r.Header.Get("Origin"); origin {
	case "":
		return true // not a browser
	case "null":
		// Browsers without Sec-Fetch-Site send this from pages with no-referrer. The
		// cookie is SameSite=Lax, so forms of other sites are sent without it.
		_, ok := p.cookies.browser(r)
		return ok
	default:
		// Our pages have the scheme of the public URL, or any scheme under a name of
		// this machine.
		u, ok := webguard.ParseOrigin(origin, r.Host)
		return ok && (u.Scheme == p.PublicURL.Scheme || !strings.EqualFold(u.Hostname(), p.PublicURL.Hostname()))
	}
}
