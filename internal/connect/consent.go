package connect

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// startConsent redirects the browser to Pleo.
func (p *Pages) startConsent(w http.ResponseWriter, r *http.Request, v visit) {
	if p.Server == nil {
		p.show(w, r, p.views.stoppedForLink(v, oauthNotConfigured))
		return
	}
	c := credstore.Consent{
		State: newToken(), Link: v.token, Verifier: newToken(),
		Browser: p.cookies.ensureBrowser(w, r), RedirectURI: p.redirectURI(),
	}
	if err := p.Store.BeginConsent(r.Context(), c); err != nil {
		p.logError("starting a consent", v, err)
		p.show(w, r, p.views.stoppedForLink(v, reasonForLinkError(err)))
		return
	}
	p.cookies.clearOutcome(w, v.token)
	http.Redirect(w, r, p.Server.AuthorizeURL(c.State, c.Verifier, c.RedirectURI, p.Scopes), http.StatusSeeOther)
}

// callback handles Pleo's redirect and redirects the browser to the page of the
// link: the code must not stay in the address bar.
func (p *Pages) callback(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet { // a HEAD must not use up the state
		w.Header().Set("Allow", http.MethodGet)
		p.showReason(w, r, notFound)
		return
	}
	params, ok := parseCallback(r.URL.RawQuery)
	browser, sameBrowser := p.cookies.browser(r)
	switch {
	case p.Server == nil:
		p.redirectToStopped(w, r, oauthNotConfigured)
		return
	case !ok:
		p.redirectToStopped(w, r, attemptExpired)
		return
	case !sameBrowser:
		p.redirectToStopped(w, r, otherBrowser)
		return
	}
	c, err := p.Store.TakeConsent(r.Context(), params.state, browser)
	if err != nil {
		p.redirectToStopped(w, r, p.reasonForConsentError(err))
		return
	}
	v, err := p.find(r.Context(), c.Link.Reveal())
	if err == nil || p.expiredDuringConsent(v, err) {
		p.cookies.setOutcome(w, c.Link, p.finishConsent(r, v, c, params))
	}
	// A link that cannot be used any more has a page that says so.
	http.Redirect(w, r, p.linkURL(c.Link), http.StatusSeeOther)
}

// expiredDuringConsent reports whether the link reached its expiry after the
// consent began. The store still accepts such a consent (see
// [credstore.ConsentTimeout]), unlike one by a link that was replaced.
func (p *Pages) expiredDuringConsent(v visit, err error) bool {
	return errors.Is(err, credstore.ErrLinkExpired) && !v.link.ExpiresAt.After(p.Now())
}

// redirectToStopped shows the reason at a URL without code and state.
func (p *Pages) redirectToStopped(w http.ResponseWriter, r *http.Request, why reason) {
	http.Redirect(w, r, p.base+stoppedPath+string(why), http.StatusSeeOther)
}

func (p *Pages) reasonForConsentError(err error) reason {
	switch {
	case errors.Is(err, credstore.ErrOtherBrowser):
		p.Logger.Warn("consent rejected: it was started in another browser")
		return otherBrowser
	case errors.Is(err, credstore.ErrNotFound):
		return attemptExpired
	}
	p.Logger.Error("reading a consent", zap.Error(err))
	return storeUnavailable
}

// callbackParams are the parameters of an authorization response (RFC 6749 section
// 4.1.2).
type callbackParams struct {
	state, code credstore.Secret
	issuer      string // empty if absent (RFC 9207)
	errorCode   string // empty if absent
}

// parseCallback parses the query of a callback. It returns false for one that no
// authorization server sends: with a repeated parameter (RFC 6749 section 3.1),
// without a state, or with neither a code nor an error.
func parseCallback(query string) (callbackParams, bool) {
	q, err := url.ParseQuery(query)
	if err != nil {
		return callbackParams{}, false
	}
	for _, name := range []string{"state", "code", "iss", "error"} {
		if len(q[name]) > 1 {
			return callbackParams{}, false
		}
	}
	params := callbackParams{
		state: credstore.NewSecret(q.Get("state")), code: credstore.NewSecret(q.Get("code")),
		issuer: q.Get("iss"), errorCode: q.Get("error"),
	}
	return params, isToken(q.Get("state")) && (params.errorCode != "" || !params.code.IsZero())
}

// reasonForErrorCode returns the reason for an error in a callback (RFC 6749
// section 4.1.2.1).
func reasonForErrorCode(code string) reason {
	switch code {
	case "access_denied":
		return consentDenied
	case "server_error", "temporarily_unavailable":
		return pleoUnavailable
	case "invalid_request", "invalid_scope", "unauthorized_client", "unsupported_response_type":
		return clientRejected
	}
	return consentFailed
}

const maxCodeLength = 64

// safeCode returns the code if it is short and has only the characters of RFC 6749
// section 4.1.2.1: anyone can make a URL with an error in it.
func safeCode(code string) string {
	unexpected := func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }
	if len(code) > maxCodeLength || strings.ContainsFunc(code, unexpected) {
		return "error"
	}
	return code
}

// finishConsent exchanges the code of a consent and stores the tokens.
func (p *Pages) finishConsent(r *http.Request, v visit, c credstore.Consent, params callbackParams) outcome {
	ctx := credstore.WithActor(r.Context(), credstore.ActorCustomer)
	switch {
	case params.issuer != "" && strings.TrimSuffix(params.issuer, "/") != strings.TrimSuffix(p.Issuer, "/"):
		return p.recordFailure(ctx, v, outcome{Reason: wrongIssuer}, "the callback names another issuer")
	case params.errorCode == "access_denied":
		return p.recordFailure(ctx, v, outcome{Reason: consentDenied}, "consent was denied in Pleo")
	case params.errorCode != "":
		o := outcome{Reason: reasonForErrorCode(params.errorCode), SupportCode: safeCode(params.errorCode)}
		return p.recordFailure(ctx, v, o, "Pleo returned the error "+o.SupportCode)
	}
	conn, err := p.Grants.Consent(ctx, refresh.ConsentGrant{
		ConnectionID: v.conn().ID,
		Exchange: func(ctx context.Context) (pleo.Tokens, error) {
			return p.Server.Exchange(ctx, params.code, c.Verifier, c.RedirectURI)
		},
		LinkToken:          v.token,
		AllowOtherCompany:  v.link.AllowOtherCompany,
		AllowSharedCompany: v.link.AllowSharedCompany,
	})
	if r.Context().Err() != nil {
		return outcome{} // the browser has left; the history has the outcome
	}
	if err != nil {
		return p.recordFailure(ctx, v, outcomeFor(err), err.Error())
	}
	p.Logger.Info("consent completed", zap.String("connection", conn.Name), zap.Int64("version", conn.Version))
	return outcome{Connected: true}
}

// recordFailure records in the history why nothing was connected, and returns o. An
// outcome without a reason is that of a link which cannot be used any more.
func (p *Pages) recordFailure(ctx context.Context, v visit, o outcome, message string) outcome {
	code := o.Reason
	if code == "" {
		code = o.linkReason
	}
	p.Logger.Warn("connecting failed", zap.String("connection", v.conn().Name),
		zap.String("code", string(code)), zap.String("message", message))
	// Also if the browser has left.
	err := p.Store.RecordEvent(context.WithoutCancel(ctx), v.conn().ID, credstore.Event{
		Type: credstore.EventConsentFailed, Code: string(code), Message: message,
	})
	if err != nil {
		p.logError("recording a failed consent", v, err)
	}
	return o
}
