package proxy

import (
	"net/http"
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
	if wantsUpgrade(r.Header) {
		return t, upgradeNotSupported()
	}
	return t, nil
}

// wantsUpgrade reports whether the client offers to change protocols (RFC 9110
// section 7.8). Upgrade counts only if Connection lists it.
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
