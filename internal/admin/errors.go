package admin

import (
	"context"
	"errors"
	"net/http"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

// handler is an http.HandlerFunc that returns what went wrong, if it has written
// nothing yet.
type handler func(http.ResponseWriter, *http.Request) error

// handleErrors answers errors of h with a problem document.
func (a *Admin) handleErrors(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r = r.WithContext(credstore.WithActor(r.Context(), credstore.ActorBackOffice))
		err := h(w, r)
		if err == nil || clientGone(r, err) {
			return
		}
		p := a.problemFor(err)
		if name := r.PathValue("name"); credstore.ValidName(name) {
			p.Connection = name
		}
		writeProblem(w, p)
	}
}

// clientGone reports whether err is only that the client has left, which says nothing
// about anything else.
func clientGone(r *http.Request, err error) bool {
	return r.Context().Err() != nil && errors.Is(err, context.Canceled)
}

// problemFor returns what users are told about err: a problem as it is, what store
// and Pleo have against a wish, and for all else that the store is ill, which
// is logged.
func (a *Admin) problemFor(err error) *webguard.Problem {
	if p := manage.Explain(err); p != nil {
		return p
	}
	a.logger.Warn("the store could not do what the admin listener asked for", zap.Error(err))
	return manage.NewProblem(manage.CodeStoreUnavailable, "The store cannot be used at the moment.")
}
