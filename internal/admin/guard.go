package admin

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// checkOrigin refuses what web pages of other origins send. The listener has no
// password for reading, so that a page which makes a browser ask
// 127.0.0.1:8485, or which points its own name there (DNS rebinding), would
// read the list of connections.
func (a *Admin) checkOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !onUnixSocket(r) && !a.hostAllowed(r.Host) {
			newProblem(codeHostNotAllowed, "This host name is not among those allowed; add it to proxy.allowed_hosts if it is yours.").write(w)
			return
		}
		if !sameOrigin(r) && !topLevelNavigation(r) {
			newProblem(codeCrossSiteRequest, "Pages of other origins may not read this.").write(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// onUnixSocket reports whether the request came by a unix socket, which no web
// page can reach.
func onUnixSocket(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && addr.Network() == "unix"
}

// hostAllowed reports whether host, with or without a port, is an address, a
// name that no public web page can be served from, or one that is configured.
func (a *Admin) hostAllowed(host string) bool {
	name := (&url.URL{Host: host}).Hostname()
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "" || strings.ContainsAny(name, "/@\\ ") {
		return false
	}
	if a.hosts[name] || !strings.Contains(name, ".") {
		return true
	}
	for _, private := range []string{".localhost", ".internal", ".svc", ".cluster.local"} {
		if strings.HasSuffix(name, private) {
			return true
		}
	}
	return false
}

// topLevelNavigation reports whether somebody follows another page's link to a page of
// ours, such as from a mail. The other page sees nothing of it, our pages are
// never framed, and no GET changes anything.
func topLevelNavigation(r *http.Request) bool {
	return r.Method == http.MethodGet && r.Header.Get("Origin") == "" &&
		r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
}

// sameOrigin reports whether the request comes from no web page at all or from
// one of this listener's own. Sec-Fetch-Site covers what browsers send without
// Origin, such as a GET that another page's link or image caused. The origin is
// https also where something in front of a plain listener does the TLS.
func sameOrigin(r *http.Request) bool {
	for _, site := range r.Header.Values("Sec-Fetch-Site") {
		if site != "none" && site != "same-origin" {
			return false
		}
	}
	for _, origin := range r.Header.Values("Origin") {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "https" && (u.Scheme != "http" || r.TLS != nil) || !strings.EqualFold(u.Host, r.Host) {
			return false
		}
	}
	return true
}
