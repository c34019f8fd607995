package admin

import (
	"net/http"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// checkOrigin rejects requests of web pages of other origins. Reading may take no
// password, so that a page which makes a browser request 127.0.0.1:8485, or which
// points its own name there (DNS rebinding), could otherwise read the list of
// connections. Links to the pages are followed: no GET changes anything, and no
// page can be framed.
func (a *Admin) checkOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.hosts.Allow(r) {
			writeProblem(w, manage.NewProblem(manage.CodeHostNotAllowed, "This host name is not allowed. If it is yours, add it to proxy.allowed_hosts."))
			return
		}
		if !webguard.SameOrigin(r) && !webguard.TopLevelNavigation(r) {
			writeProblem(w, manage.NewProblem(manage.CodeCrossSiteRequest, "Pages of other origins cannot send requests to this address."))
			return
		}
		next.ServeHTTP(w, r)
	})
}
