package proxy

import (
	"net/http"
	"net/textproto"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

// guard rejects requests that are not forwarded for any connection. It returns
// the target of the others.
func (p *Proxy) guard(r *http.Request) (target, error) {
	if r.Method == http.MethodConnect || r.Method == http.MethodTrace {
		return target{}, methodNotSupported(r.Method)
	}
	if !httpguts.ValidHeaderFieldName(r.Method) {
		return target{}, badRequest("the method is not a token")
	}
	if conflictingFraming(r) {
		return target{}, conflictingFramingProblem()
	}
	t, err := parseTarget(r.RequestURI)
	if err != nil {
		return t, err
	}
	if !p.allowedHosts.Allow(r) {
		return t, hostNotAllowed()
	}
	if webguard.FromWebPage(r.Header) { // the proxy serves no pages
		return t, crossSiteRequest()
	}
	if isWebSocketHandshake(r.Header) {
		return t, webSocketNotSupported()
	}
	return t, nil
}

// isWebSocketHandshake reports whether the request is of no use to the client
// without a change to the WebSocket protocol (RFC 6455 section 4.1). Offers of other
// protocols may be ignored (RFC 9110 section 7.8): Upgrade is not forwarded. It
// counts only if Connection lists it.
func isWebSocketHandshake(h http.Header) bool {
	return len(h["Upgrade"]) > 0 &&
		anyMember(h["Connection"], func(name string) bool { return strings.EqualFold(name, "upgrade") }) &&
		anyMember(h["Upgrade"], isWebSocket)
}

// isWebSocket reports whether a protocol is WebSocket, in any version.
func isWebSocket(protocol string) bool {
	name, _, _ := strings.Cut(protocol, "/")
	return strings.EqualFold(textproto.TrimString(name), "websocket")
}

func anyMember(lists []string, f func(member string) bool) bool {
	for member := range listMembers(lists) {
		if f(member) {
			return true
		}
	}
	return false
}
