package connect

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

const (
	// maxFormBytes is how much of a request's body is read, in bytes: keys have at
	// most some hundred characters.
	maxFormBytes = 8 << 10
	// maxConcurrentLookups is how many pages are looked up at a time; more wait. It bounds
	// what bad clients can make the store do.
	maxConcurrentLookups = 32
	// maxConcurrentExchanges is how many consents and keys are worked on at a time, each of
	// which waits for Pleo; more are turned away.
	maxConcurrentExchanges = 256
)

// guard puts in front of every page what all of them need.
func (p *Pages) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writePolicy(w.Header(), "'self'")
		if !p.hosts.Allow(r) {
			p.show(w, r, p.stoppedWithoutLink(hostNotAllowed))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
		next.ServeHTTP(w, r)
	})
}

// writePolicy sets what browsers may do with a page: show it, with our style and
// logo, and send its form. No page of ours needs a script.
func writePolicy(h http.Header, formAction string) {
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action "+formAction+
		"; frame-ancestors 'none'; base-uri 'none'")
	h.Set("Referrer-Policy", "no-referrer") // the address of a page is a secret
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Robots-Tag", "noindex, nofollow")
	h.Set("Cache-Control", "no-store")
}

// waitForSlot lets at most n requests at a time through to h; the others wait.
func waitForSlot(n int, h http.HandlerFunc) http.HandlerFunc {
	room := make(chan struct{}, n)
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case room <- struct{}{}:
			defer func() { <-room }()
			h(w, r)
		case <-r.Context().Done():
		}
	}
}

// limitConcurrent lets at most n requests at a time through to h, each of which may have
// to wait for Pleo, and turns the others away.
func (p *Pages) limitConcurrent(n int, h http.HandlerFunc) http.HandlerFunc {
	room := make(chan struct{}, n)
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			r.URL.RawQuery = "" // it is no part of the form, whatever somebody has added to the link
		}
		// First what a slow client can make last.
		if r.Method == http.MethodPost && r.ParseForm() != nil {
			p.show(w, r, p.stoppedWithoutLink(badRequest))
			return
		}
		select {
		case room <- struct{}{}:
			defer func() { <-room }()
			extendDeadlines(w)
			h(w, r)
		default:
			p.show(w, r, p.stoppedWithoutLink(serverBusy))
		}
	}
}

// extendDeadlines lets the answer take as long as Pleo may. Tests in memory have nothing
// that a deadline could be set on.
func extendDeadlines(w http.ResponseWriter) {
	c, until := http.NewResponseController(w), time.Now().Add(maxPageDuration)
	_ = c.SetReadDeadline(until) // else the context ends as if the browser had left
	_ = c.SetWriteDeadline(until)
}

// hasOwnScheme reports whether pages of ours have the origin's scheme: that of the
// public URL, or any under a name for this machine.
func (p *Pages) hasOwnScheme(origin *url.URL) bool {
	return origin.Scheme == p.PublicURL.Scheme || !strings.EqualFold(origin.Hostname(), p.PublicURL.Hostname())
}

// isSameOrigin reports whether a POST comes from a page of ours: consent begins
// with a click there, and not with somebody else's form that sends a customer to
// approve somebody else's connection.
func (p *Pages) isSameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin" || site == "none"
	}
	switch origin := r.Header.Get("Origin"); origin {
	case "":
		return true // not a browser's
	case "null":
		// What a browser without Sec-Fetch-Site says where it is told to send no
		// referrer. The cookie is SameSite=Lax: other sites' forms come without it.
		_, ours := p.browserHash(r)
		return ours
	default:
		u, ok := webguard.ParseOrigin(origin, r.Host)
		return ok && p.hasOwnScheme(u)
	}
}
