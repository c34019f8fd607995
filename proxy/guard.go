package proxy

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// guard refuses requests that must not be forwarded whatever connection they
// mean. It returns the target of the others.
func (p *Proxy) guard(r *http.Request) (target, error) {
	if r.Method == http.MethodConnect || r.Method == http.MethodTrace {
		return target{}, methodNotSupported(r.Method)
	}
	if !isToken(r.Method) {
		return target{}, badRequest("its method is not one")
	}
	if conflictingFraming(r) {
		return target{}, conflictingFramingProblem()
	}
	t, err := parseTarget(r.RequestURI)
	if err != nil {
		return t, err
	}
	if !onUnixSocket(r) && !p.hostAllowed(r.Host) {
		return t, hostNotAllowed()
	}
	if crossSite(r.Header) {
		return t, crossSiteRequest()
	}
	if wantsUpgrade(r.Header) {
		return t, upgradeRefused()
	}
	return t, nil
}

// crossSite reports whether a browser sent the request on behalf of a page. The
// proxy serves no pages, so there is no page whose requests it wants.
func crossSite(h http.Header) bool {
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

// wantsUpgrade reports whether the client asks for another protocol on this
// connection (RFC 9110 section 7.8): Upgrade alone, without Connection naming
// it, does not.
func wantsUpgrade(h http.Header) bool {
	if len(h["Upgrade"]) == 0 {
		return false
	}
	for name := range listMembers(h["Connection"]) {
		if strings.EqualFold(name, "upgrade") {
			return true
		}
	}
	return false
}

// onUnixSocket reports whether the request came by a unix socket, which no web
// page can reach.
func onUnixSocket(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && addr.Network() == "unix"
}

// hostAllowed reports whether host, with or without a port, is a name that no
// public web page can be served from, or one of those configured. It stops DNS
// rebinding: a page can point its own name at this listener, but not take
// another name.
func (p *Proxy) hostAllowed(host string) bool {
	name := withoutPort(host)
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return true
	}
	if !isHostName(name) {
		return false
	}
	name = strings.ToLower(name)
	if p.allowedHosts[name] || !strings.Contains(name, ".") {
		return true
	}
	name = strings.TrimSuffix(name, ".")
	if name == "localhost" || p.allowedHosts[name] {
		return true
	}
	for _, private := range [...]string{".localhost", ".internal", ".svc", ".cluster.local"} {
		if strings.HasSuffix(name, private) {
			return true
		}
	}
	return false
}

// withoutPort cuts the port from a Host field, and leaves what is malformed.
func withoutPort(host string) string {
	i := strings.LastIndexByte(host, ':')
	if i < 0 || strings.HasSuffix(host, "]") || strings.Count(host, ":") > 1 && host[0] != '[' {
		return host
	}
	if strings.Trim(host[i+1:], "0123456789") != "" {
		return host
	}
	return host[:i]
}

// isHostName reports whether name consists of labels of letters, digits, - and
// _ (which service names in docker-compose have), with at most one dot at its
// end.
func isHostName(name string) bool {
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || strings.IndexFunc(label, notInLabel) >= 0 {
			return false
		}
	}
	return true
}

func notInLabel(r rune) bool {
	return !isAlphanumeric(r) && r != '-' && r != '_'
}

func isAlphanumeric(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}
