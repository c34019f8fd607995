package connect

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// visit is a link that somebody has come with, and what it leads to.
type visit struct {
	token credstore.Secret
	link  credstore.Link
	state credstore.State
}

func (v visit) conn() credstore.Connection { return v.state.Connection }

// tenant is what the customer calls the account that is connected.
func (v visit) tenant() string { return cmp.Or(v.conn().ExternalTenant, v.conn().Name) }

// disabled reports whether nothing is to be connected. One that was disabled for
// the company of its credential can be given another.
func (v visit) disabled() bool {
	return v.conn().Status == credstore.Disabled && !v.disabledForCompany()
}

// disabledForCompany reports whether the company that was connected last is not to be.
func (v visit) disabledForCompany() bool {
	return v.conn().Status == credstore.Disabled && v.conn().Reason == credstore.ReasonCompanyConflict
}

// company is the one in Pleo that the connection belongs to, if any.
func (v visit) company() string {
	return companyLabel(v.conn().Company())
}

// find looks the request's link up. A link that was used or has expired is
// returned with the error that says so.
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

// reasonForLinkError says what keeps a link from being used.
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

// showLink shows what there is to do with a link, or what has come of it. It
// changes nothing, whoever asks: programs that look at links before people do
// come here too.
func (p *Pages) showLink(w http.ResponseWriter, r *http.Request) {
	v, err := p.find(r.Context(), r.PathValue("token"))
	o := p.outcomeFromCookie(r, v)
	switch {
	case v.disabled():
		p.show(w, r, p.stoppedForLink(v, connectionDisabled))
	case err == nil:
		p.ensureBrowser(w, r)
		p.showForm(w, r, v, o)
	case errors.Is(err, credstore.ErrLinkUsed) && o.Connected:
		p.show(w, r, p.done(v))
	default:
		p.show(w, r, p.stoppedForLink(v, reasonForLinkError(err)))
	}
}

// showForm shows the page with the button: the first one, or the one after an
// attempt that has failed.
func (p *Pages) showForm(w http.ResponseWriter, r *http.Request, v visit, o outcome) {
	if v.conn().Kind.IsKey() {
		p.show(w, r, p.keyForm(v))
		return
	}
	if p.Server == nil {
		p.show(w, r, p.stoppedForLink(v, oauthNotConfigured))
		return
	}
	p.allowFormRedirect(w)
	if o.Reason != "" {
		p.show(w, r, p.failed(v, o))
		return
	}
	p.show(w, r, p.consentForm(v))
}

// useLink does what the button says.
func (p *Pages) useLink(w http.ResponseWriter, r *http.Request) {
	if !p.isSameOrigin(r) {
		p.show(w, r, p.stoppedWithoutLink(crossSiteRequest))
		return
	}
	v, err := p.find(r.Context(), r.PathValue("token"))
	switch {
	case err != nil:
		p.show(w, r, p.stoppedForLink(v, reasonForLinkError(err)))
	case v.disabled():
		p.show(w, r, p.stoppedForLink(v, connectionDisabled))
	case !p.attempts.allow(v.token):
		p.show(w, r, p.stoppedForLink(v, tooManyAttempts))
	case v.conn().Kind.IsKey():
		p.takeKey(w, r, v)
	default:
		p.startConsent(w, r, v)
	}
}

// companies are those that texts about the link use.
func (p *Pages) names(v visit) names {
	n := names{brand: p.Branding.Name}
	if v.conn().ID != "" {
		n.tenant, n.company = v.tenant(), v.company()
	}
	return n
}

// stoppedForLink is the page for a link that leads no further.
func (p *Pages) stoppedForLink(v visit, reason reason) view {
	page := p.stopped(reason, p.names(v))
	if reason != linkInvalid && reason != storeUnavailable {
		page.ReturnURL = p.returnURL(v, reason)
	}
	return page
}

// done is the page after a success.
func (p *Pages) done(v visit) view {
	c := v.conn()
	page := view{
		Body: doneBody, Status: http.StatusOK, Done: true,
		Heading: "Connected",
		Tenant:  v.tenant(), Company: v.company(),
		Permissions: permissionsFor(strings.Fields(c.Scope)),
		Missing:     permissionsFor(pleo.MissingScopes(p.Scopes, c.Scope)),
		ReturnURL:   p.returnURL(v, ""),
	}
	page.Lead = p.names(v).expand("{have} in Pleo is now connected to {tenant} in {brand}.")
	if page.Company == "" {
		page.Lead = p.names(v).expand("Pleo is now connected to {tenant} in {brand}.")
	}
	if c.CompanyUnverified {
		page.Heading = "Access was given"
		page.Lead = p.names(v).expand("Pleo does not say at the moment which company it is for, so {brand} waits until it does. You need not do anything.")
	}
	return page
}

// returnURL is where the customer goes on to, with the connection, its status
// and, where nothing was connected, why. It is empty where the link leads nowhere,
// or where the configuration no longer allows to go there.
func (p *Pages) returnURL(v visit, reason reason) string {
	if v.link.ReturnURL == "" || !slices.Contains(p.ReturnURLs, v.link.ReturnURL) {
		return ""
	}
	u, err := url.Parse(v.link.ReturnURL)
	if err != nil {
		return ""
	}
	q := u.Query()
	q.Set("connection", v.conn().Name)
	q.Set("status", string(v.conn().Status))
	if reason != "" {
		q.Set("error", string(reason))
	}
	u.RawQuery = q.Encode()
	return u.String()
}
