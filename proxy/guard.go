package proxy

import (
	"net/http"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
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
	if !p.allowedHosts.Allow(r) {
		return t, hostNotAllowed()
	}
	if webguard.FromWebPage(r.Header) { // the proxy serves no pages
		return t, crossSiteRequest()
	}
	if wantsUpgrade(r.Header) {
		return t, upgradeRefused()
	}
	return t, nil
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
