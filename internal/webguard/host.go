// Package webguard checks Host and Origin and writes problem documents, for
// every listener.
//
// A browser lets every page send requests to every address that the browser can
// reach, 127.0.0.1 included. Two checks stop such requests. [Hosts] stops DNS
// rebinding, in which a page points its own name at the listener and is then of
// the same origin as the listener. [FromWebPage] and [SameOrigin] stop pages
// that use the listener's address or name.
package webguard

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Hosts is a set of names that a request may have in its Host field. The zero
// value allows localhost and loopback addresses. Hosts may be used by several
// goroutines at once.
type Hosts struct {
	names   map[string]bool // lower case, without a trailing dot
	private bool
}

// PrivateHosts returns the Hosts of a listener that is not public: every name that
// no public web page can have, and names. A page can point its own name at the
// listener, but it cannot have another one. Allowed are IP addresses, names of a
// single label, localhost, and names below localhost, internal, svc and
// cluster.local. Requests over unix sockets, which no page can reach, may have
// any Host.
func PrivateHosts(names ...string) Hosts {
	h := PublicHosts(names...)
	h.private = true
	return h
}

// PublicHosts returns the Hosts of a listener that pages of any site may link to:
// names, localhost and loopback addresses.
func PublicHosts(names ...string) Hosts {
	h := Hosts{names: make(map[string]bool, len(names))}
	for _, name := range names {
		h.names[canonical(name)] = true
	}
	return h
}

// Allow reports whether the Host of the request is in the set. It does not
// allocate unless the Host has capital letters.
func (h Hosts) Allow(r *http.Request) bool {
	return h.private && OnUnixSocket(r) || h.contains(r.Host)
}

// contains reports whether host, with or without a port, is in the set.
func (h Hosts) contains(host string) bool {
	host = withoutPort(host)
	if addr, ok := parseAddr(host); ok {
		return h.private || addr.IsLoopback() || h.names[canonical(strings.Trim(host, "[]"))]
	}
	if !ValidHostName(host) {
		return false
	}
	// A trailing dot makes a single label a top-level domain, some of which have
	// pages.
	if h.private && !strings.Contains(host, ".") {
		return true
	}
	name := canonical(host)
	return name == "localhost" || h.names[name] || h.private && hasPrivateSuffix(name)
}

func hasPrivateSuffix(name string) bool {
	for _, suffix := range [...]string{".localhost", ".internal", ".svc", ".cluster.local"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// withoutPort returns a Host field without its port. It returns malformed fields
// unchanged.
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

// parseAddr parses an IP address, with or without brackets.
func parseAddr(host string) (netip.Addr, bool) {
	// netip allocates its errors, and most names are recognizable without it.
	if !strings.Contains(host, ":") && strings.Trim(host, "0123456789.") != "" {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return addr, err == nil
}

// ValidHostName reports whether name consists of labels of letters, digits, - and
// _ (which Docker Compose allows in service names), with at most one trailing dot.
func ValidHostName(name string) bool {
	previous := byte('.')
	for i := range len(name) {
		c := name[i]
		if c == '.' && previous == '.' || c != '.' && !isLabelByte(c) {
			return false
		}
		previous = c
	}
	return name != "" && name != "."
}

func isLabelByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// CheckHost returns an error unless name can be in a set of [Hosts]: it must be a
// host name or an IP address, without scheme and port.
func CheckHost(name string) error {
	if _, err := netip.ParseAddr(name); err != nil && !ValidHostName(name) {
		return errors.New("must be a host name without scheme and port, such as proxy.example.com")
	}
	return nil
}

// OnUnixSocket reports whether the request arrived over a unix socket.
func OnUnixSocket(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && addr.Network() == "unix"
}
