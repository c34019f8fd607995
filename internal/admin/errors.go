package admin

import (
	"context"
	"errors"
	"net/http"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
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
	var known *webguard.Problem
	if errors.As(err, &known) {
		return known
	}
	for _, translate := range []func(error) *webguard.Problem{conflictProblem, actionProblem} {
		if p := translate(err); p != nil {
			return p
		}
	}
	a.logger.Warn("the store could not do what the admin listener asked for", zap.Error(err))
	return newProblem(codeStoreUnavailable, "The store cannot be used at the moment.")
}

// conflictProblem explains what the store has against a wish.
func conflictProblem(err error) *webguard.Problem {
	var (
		conflict *credstore.ConflictError
		other    *credstore.OtherCompanyError
	)
	switch {
	case errors.Is(err, credstore.ErrNotFound):
		return newProblem(codeConnectionUnknown, "There is no such connection any more.")
	case errors.Is(err, credstore.ErrBadQuery):
		return newProblem(codeBadRequest, "The cursor is not one that this listing gave.")
	case errors.As(err, &conflict) && errors.Is(err, credstore.ErrCompanyBound):
		return newProblem(codeCompanyBound, "The company is connected already, by connection %q; a company has one connection of a kind.", conflict.With)
	case errors.As(err, &conflict) && errors.Is(err, credstore.ErrNameTaken):
		return newProblem(codeConnectionExists, "There is a connection %q already.", conflict.With)
	case errors.As(err, &conflict) && errors.Is(err, credstore.ErrTokenTaken):
		return newProblem(codeTokenTaken, "The refresh token is that of connection %q already; of two owners of one refresh token, one ends it for both.", conflict.With)
	case errors.As(err, &other):
		return newProblem(codeOtherCompany, "The credential is good, but for another company than this connection's, which keeps what it has: %v.", other)
	case errors.Is(err, credstore.ErrNotRejected):
		return newProblem(codeNotPossible, "The connection has no refused refresh token that could be presented again.")
	case errors.Is(err, credstore.ErrBusy):
		return newProblem(codeConnectionBusy, "The connection's credential is being changed at this moment; try again.")
	}
	return nil
}

// actionProblem explains the errors of [Actions].
func actionProblem(err error) *webguard.Problem {
	var (
		impossible *NotPossibleError
		failed     *RefreshError
	)
	switch {
	case errors.As(err, &impossible):
		return newProblem(codeNotPossible, "%s", impossible.Message)
	case errors.As(err, &failed):
		return newProblem(codeRefreshFailed, "The refresh brought no new token: %s.", failed.Message)
	}
	return nil
}

// keyProblem makes what Pleo has against a key a problem, and also that Pleo could
// not be asked: what else [Actions.SetKey] returns are errors of the store.
func keyProblem(err error) error {
	var (
		narrow *refresh.MissingScopesError
		mine   *refresh.Error
	)
	switch {
	case errors.As(err, &mine), errors.Is(err, credstore.ErrUnavailable), errors.Is(err, context.Canceled), conflictProblem(err) != nil, actionProblem(err) != nil:
		return err
	case errors.Is(err, refresh.ErrSameKey):
		return newProblem(codeNotPossible, "The connection has this key already: the next one has to be another.")
	case errors.Is(err, refresh.ErrWrongEnvironment):
		return newProblem(codeKeyRejected, "This key is one of Pleo's other environment, and not of the one that this program talks to. It was not stored.")
	case errors.Is(err, pleo.ErrUnauthorized):
		return newProblem(codeKeyRejected, "Pleo does not know this key, so it was not stored. It may be mistyped, or deleted.")
	case errors.Is(err, refresh.ErrCompanyUnknown):
		return newProblem(codeKeyRejected, "Pleo does not say which company this key belongs to, so it was not stored: the connection has one already.")
	case errors.As(err, &narrow):
		return newProblem(codeKeyRejected, "This key allows too little, so it was not stored: %v.", narrow)
	}
	return newProblem(codeUpstream, "Pleo could not be asked about the key, so it was not stored: %s. Try again later.", capitalize(err))
}
