package webguard

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// FromWebPage reports whether a browser sent the request on behalf of a page, of
// whatever origin: it has an Origin field, or Sec-Fetch-Site other than none.
// Listeners without pages reject such requests.
func FromWebPage(h http.Header) bool {
	if _, ok := h["Origin"]; ok {
		return true
	}
	for _, site := range h["Sec-Fetch-Site"] {
		if site != "none" {
			return true
		}
	}
	return false
}

// SameOrigin reports whether the request comes from no page at all or from a page
// of the listener that received it. Sec-Fetch-Site covers requests that browsers
// send without Origin, such as those for links and images.
//
// An https origin is also accepted on a listener without TLS, which may be behind
// a proxy that terminates it.
func SameOrigin(r *http.Request) bool {
	for _, site := range r.Header["Sec-Fetch-Site"] {
		if site != "none" && site != "same-origin" {
			return false
		}
	}
	for _, origin := range r.Header["Origin"] {
		u, ok := ParseOrigin(origin, r.Host)
		if !ok || u.Scheme != "https" && (u.Scheme != "http" || r.TLS != nil) {
			return false
		}
	}
	return true
}

// ParseOrigin parses an Origin field, and reports whether it is of the host, which
// has a port unless it is the default one. The caller decides which schemes it
// accepts.
func ParseOrigin(origin, host string) (*url.URL, bool) {
	u, err := url.Parse(origin)
	return u, err == nil && strings.EqualFold(u.Host, host)
}

// TopLevelNavigation reports whether the request opens a page in a tab of its own,
// as following a link in a mail or on another site does. The page that has the
// link cannot read the response. Accept such a request only where GET changes
// nothing and pages cannot be framed.
func TopLevelNavigation(r *http.Request) bool {
	return r.Method == http.MethodGet && r.Header.Get("Origin") == "" &&
		r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
}

// ClientGone reports whether a handler failed only because the client closed the
// connection. It needs no response, and no log entry.
func ClientGone(r *http.Request, err error) bool {
	return r.Context().Err() != nil && errors.Is(err, context.Canceled)
}
