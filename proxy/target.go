package proxy

import (
	"net"
	"net/http"
	"net/url"
	"strings"
)

// target is a request target (RFC 9112 section 3.2). Its parts are as they were
// received.
type target struct {
	prefix string // "/@NAME"; empty if there is none
	name   string // the NAME in prefix, decoded and not validated
	path   string // begins with exactly one slash
	query  string // after the question mark
	hasQ   bool   // there was a question mark
}

// parseTarget parses a target in origin form. It rejects other forms; a path that
// begins with two slashes, because a server might take what follows for a host;
// and characters that end the target for some servers: a number sign, which no
// target contains, since the fragment stays with the client; and those that end a
// request line, which HTTP/2 allows.
func parseTarget(uri string) (target, error) {
	if !strings.HasPrefix(uri, "/") || strings.ContainsFunc(uri, endsTarget) {
		return target{}, badRequestTarget()
	}
	var t target
	t.path, t.query, t.hasQ = strings.Cut(uri, "?")
	t.cutPrefix()
	if strings.HasPrefix(t.path, "//") {
		return target{}, badRequestTarget()
	}
	return t, nil
}

// endsTarget reports whether a character may end the target for a server.
func endsTarget(r rune) bool { return r <= ' ' || r == '#' || r == 0x7f }

// cutPrefix moves a leading /@NAME or /%40NAME from path to prefix.
func (t *target) cutPrefix() {
	rest, ok := strings.CutPrefix(t.path, "/@")
	if !ok {
		rest, ok = strings.CutPrefix(t.path, "/%40")
	}
	if !ok {
		return
	}
	name, _, _ := strings.Cut(rest, "/")
	t.prefix = t.path[:len(t.path)-len(rest)+len(name)]
	t.path = t.path[len(t.prefix):]
	if t.path == "" {
		t.path = "/"
	}
	t.name = name
	if decoded, err := url.PathUnescape(name); err == nil {
		t.name = decoded
	}
}

// apiURL is the base URL of the API.
type apiURL struct {
	scheme string
	origin string // scheme and host in one form, default port included
	base   string // the beginning of all paths; without a slash at the end
}

func newAPIURL(u *url.URL) apiURL {
	return apiURL{scheme: u.Scheme, origin: origin(u), base: strings.TrimSuffix(u.EscapedPath(), "/")}
}

// locate returns the request target that t has at the API.
func (u apiURL) locate(t target) string {
	if t.hasQ {
		return u.base + t.path + "?" + t.query
	}
	return u.base + t.path
}

// localize rewrites a Location at the API to one at the proxy: the same path,
// after the prefix that named the connection. Other locations are left unchanged.
func (u apiURL) localize(location, prefix string) string {
	path, ok := u.pathOf(location)
	if !ok {
		return location
	}
	path, ok = strings.CutPrefix(path, u.base)
	if !ok {
		return location
	}
	if path == "" || path[0] == '?' || path[0] == '#' {
		path = "/" + path
	}
	// Browsers take //x and /\x for a URL of another host.
	if path[0] != '/' || len(path) > 1 && (path[1] == '/' || path[1] == '\\') {
		return location
	}
	return prefix + path
}

// pathOf returns path, query and fragment of a location at the API's origin,
// byte for byte.
func (u apiURL) pathOf(location string) (string, bool) {
	if strings.HasPrefix(location, "/") && !strings.HasPrefix(location, "//") {
		return location, true
	}
	parsed, err := url.Parse(location)
	if err != nil || parsed.Host == "" || parsed.User != nil {
		return "", false
	}
	if parsed.Scheme == "" {
		parsed.Scheme = u.scheme
	}
	if origin(parsed) != u.origin {
		return "", false
	}
	_, rest, _ := strings.Cut(location, "//")
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		return rest[i:], true
	}
	return "", true
}

// origin returns scheme, host and port of u (RFC 6454 section 4), so that equal
// origins are equal strings.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// localizeAll localizes the Location fields of a response.
func (u apiURL) localizeAll(h http.Header, prefix string) {
	for i, location := range h["Location"] {
		h["Location"][i] = u.localize(location, prefix)
	}
}
