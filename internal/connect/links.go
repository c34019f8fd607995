package connect

import (
	"cmp"
	"context"
	"errors"
	"net/http"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// visit is a request with a link, and the connection of the link.
type visit struct {
	token credstore.Secret
	link  credstore.Link
	state credstore.State
}

func (v visit) conn() credstore.Connection { return v.state.Connection }

// tenant is the name of the customer's account in the external system.
func (v visit) tenant() string { return cmp.Or(v.conn().ExternalTenant, v.conn().Name) }

// company is the label of the company that the connection belongs to, or "".
func (v visit) company() string { return companyLabel(v.conn().Company()) }

// disabled reports whether nothing can be connected. A connection that was disabled
// for the company of its credential can be given another credential.
func (v visit) disabled() bool {
	return v.conn().Status == credstore.Disabled && !v.disabledForCompany()
}

// disabledForCompany reports whether the connection was disabled because the
// company of its credential is not allowed.
func (v visit) disabledForCompany() bool {
	return v.conn().Status == credstore.Disabled && v.conn().Reason == credstore.ReasonCompanyConflict
}

// find finds the link with the token. It returns a used or expired link together
// with the error.
func (p *Pages) find(ctx context.Context, token string) (visit, error) {
	if !isToken(token) {
		return visit{}, credstore.ErrNotFound
	}
	v := visit{token: credstore.NewSecret(token)}
	link, err := p.Store.FindLink(ctx, v.token)
	if err != nil && !errors.Is(err, credstore.ErrLinkUsed) && !errors.Is(err, credstore.ErrLinkExpired) {
		return visit{}, err
	}
	v.link = link
	state, missing := p.Store.Read(ctx, link.ConnectionID)
	if missing != nil {
		return visit{}, missing
	}
	v.state = state
	return v, err
}

// reasonForLinkError returns why a link cannot be used.
func reasonForLinkError(err error) reason {
	switch {
	case errors.Is(err, credstore.ErrNotFound):
		return linkInvalid
	case errors.Is(err, credstore.ErrLinkUsed):
		return linkUsed
	case errors.Is(err, credstore.ErrLinkExpired):
		return linkExpired
	}
	return storeUnavailable
}

// showLink shows the form of a link, or the outcome of the latest attempt. It
// changes nothing, because mail scanners and previews load links before people do.
func (p *Pages) showLink(w http.ResponseWriter, r *http.Request) {
	v, err := p.find(r.Context(), r.PathValue("token"))
	o := p.cookies.outcome(r, v.token)
	switch {
	case v.disabled():
		p.show(w, r, p.views.stoppedForLink(v, connectionDisabled))
	case err == nil:
		p.cookies.ensureBrowser(w, r)
		p.showForm(w, r, v, o)
	case errors.Is(err, credstore.ErrLinkUsed) && o.Connected:
		p.show(w, r, p.views.done(v))
	default:
		p.show(w, r, p.views.stoppedForLink(v, reasonForLinkError(err)))
	}
}

// showForm shows the form of a link, after a failed attempt together with its
// outcome.
func (p *Pages) showForm(w http.ResponseWriter, r *http.Request, v visit, o outcome) {
	switch {
	case v.conn().Kind.IsKey():
		p.show(w, r, p.views.key(v))
	case p.Server == nil:
		p.show(w, r, p.views.stoppedForLink(v, oauthNotConfigured))
	case p.views.known(o.Reason):
		allowFormRedirect(w.Header(), p.AuthURL)
		p.show(w, r, p.views.failed(v, o))
	default:
		allowFormRedirect(w.Header(), p.AuthURL)
		p.show(w, r, p.views.consent(v))
	}
}

// useLink handles the button of a link.
func (p *Pages) useLink(w http.ResponseWriter, r *http.Request) {
	if !p.isSameOrigin(r) {
		p.showReason(w, r, crossSiteRequest)
		return
	}
	v, err := p.find(r.Context(), r.PathValue("token"))
	switch {
	case err != nil:
		p.show(w, r, p.views.stoppedForLink(v, reasonForLinkError(err)))
	case v.disabled():
		p.show(w, r, p.views.stoppedForLink(v, connectionDisabled))
	case !p.attempts.allow(v.token):
		p.show(w, r, p.views.stoppedForLink(v, tooManyAttempts))
	case v.conn().Kind.IsKey():
		p.takeKey(w, r, v)
	default:
		p.startConsent(w, r, v)
	}
}

// showStopped shows why a callback was stopped that has no link to return to.
func (p *Pages) showStopped(w http.ResponseWriter, r *http.Request) {
	switch why := reason(r.PathValue("reason")); why {
	case otherBrowser, attemptExpired, storeUnavailable, oauthNotConfigured:
		p.showReason(w, r, why)
	default:
		p.showReason(w, r, notFound)
	}
}
