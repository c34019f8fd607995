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

// consentForm is the page that asks for the click with which consent begins.
func (p *Pages) consentForm(v visit) view {
	n := p.names(v)
	page := view{
		Body: consentBody, Status: http.StatusOK,
		Tenant: v.tenant(), Company: v.company(),
		Heading:     n.expand("Connect Pleo to {brand}"),
		Lead:        n.expand("{brand} asks for access to your company in Pleo."),
		Permissions: permissionsFor(p.Scopes),
		Validity:    linkValidity(v.link),
	}
	if v.conn().Version > 0 {
		page.Heading, page.Lead = n.expand("Connect Pleo to {brand} again"), n.renewalText(v)
	}
	return page
}

// renewalText says why somebody who was connected before is asked again.
func (n names) renewalText(v visit) string {
	text := "You were connected before, and can renew that here. All settings stay as they are."
	switch v.conn().Status {
	case credstore.Active:
		text = "You are connected at the moment, so there is nothing to do unless {brand} has asked you to connect again. All settings stay as they are."
	case credstore.ReauthorizationRequired:
		text = "Pleo no longer accepts the access that was given before, so nothing goes to or comes from Pleo until it is renewed. All settings stay as they are."
	}
	switch {
	case v.disabledForCompany() && v.company() != "":
		return n.expand("The company that was chosen last in Pleo is another one than {have}, so nothing goes to or comes from Pleo. Choose {have} this time.")
	case v.disabledForCompany():
		return n.expand("The company that was chosen last in Pleo is connected to {brand} already, so nothing goes to or comes from Pleo. Choose the one that belongs to {tenant}.")
	}
	if v.company() != "" && !v.link.AllowOtherCompany {
		text += " Choose the same company in Pleo as before."
	}
	return n.expand(text)
}

func linkValidity(l credstore.Link) string {
	return "This link can be used once, until " + l.ExpiresAt.UTC().Format("2 January 2006, 15:04") + " UTC."
}

// allowFormRedirect lets the form's answer lead to Pleo, and from there to
// wherever its customers sign in: browsers hold the whole way of redirects
// against the policy.
func (p *Pages) allowFormRedirect(w http.ResponseWriter) {
	sources := "'self' https:"
	if p.AuthURL.Scheme == "http" { // on this machine
		sources += " http://" + p.AuthURL.Host
	}
	writePolicy(w.Header(), sources)
}

// startConsent sends the browser to Pleo.
func (p *Pages) startConsent(w http.ResponseWriter, r *http.Request, v visit) {
	if p.Server == nil {
		p.show(w, r, p.stoppedForLink(v, oauthNotConfigured))
		return
	}
	c := credstore.Consent{
		State: newToken(), Link: v.token, Verifier: newToken(),
		Browser: p.ensureBrowser(w, r), RedirectURI: p.redirectURI(),
	}
	if err := p.Store.BeginConsent(r.Context(), c); err != nil {
		p.logError("beginning a consent", v, err)
		p.show(w, r, p.stoppedForLink(v, reasonForLinkError(err)))
		return
	}
	p.clearOutcome(w, v.token)
	http.Redirect(w, r, p.Server.AuthorizeURL(c.State, c.Verifier, c.RedirectURI, p.Scopes), http.StatusSeeOther)
}

// callback takes what Pleo sent the browser back with, and sends it on to the
// page of its link: the address here holds a code, and is not to stay.
func (p *Pages) callback(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet { // a HEAD would spend what the GET after it needs
		w.Header().Set("Allow", http.MethodGet)
		p.show(w, r, p.stoppedWithoutLink(notFound))
		return
	}
	if p.Server == nil {
		p.redirectToStopped(w, r, oauthNotConfigured)
		return
	}
	answer, ok := parseCallback(r.URL.RawQuery)
	if !ok {
		p.redirectToStopped(w, r, attemptExpired)
		return
	}
	browser, ok := p.browserHash(r)
	if !ok {
		p.redirectToStopped(w, r, otherBrowser)
		return
	}
	c, err := p.Store.TakeConsent(r.Context(), answer.state, browser)
	if err != nil {
		p.redirectToStopped(w, r, p.reasonForConsentError(err))
		return
	}
	v, err := p.find(r.Context(), c.Link.Reveal())
	if err == nil || p.expiredMeanwhile(v, err) {
		p.setOutcome(w, c.Link, p.finishConsent(r, v, c, answer))
	}
	// A link that cannot be used any more says so itself.
	http.Redirect(w, r, p.linkURL(c.Link), http.StatusSeeOther)
}

// expiredMeanwhile reports whether the link of an attempt has ended by itself
// since the attempt began, and not because another has taken its place: the store
// still takes what the attempt brings, see [credstore.ConsentTimeout].
func (p *Pages) expiredMeanwhile(v visit, err error) bool {
	return errors.Is(err, credstore.ErrLinkExpired) && !v.link.ExpiresAt.After(p.Now())
}

// redirectToStopped shows why, at an address that can stay.
func (p *Pages) redirectToStopped(w http.ResponseWriter, r *http.Request, reason reason) {
	http.Redirect(w, r, p.base+stoppedPath+string(reason), http.StatusSeeOther)
}

func (p *Pages) reasonForConsentError(err error) reason {
	switch {
	case errors.Is(err, credstore.ErrOtherBrowser):
		p.Logger.Warn("a consent was brought back by another browser than the one that began it; nothing was done with it")
		return otherBrowser
	case errors.Is(err, credstore.ErrNotFound):
		return attemptExpired
	}
	p.Logger.Error("reading an attempt to get consent", zap.Error(err))
	return storeUnavailable
}

// callbackParams is what Pleo sends the browser back with.
type callbackParams struct {
	state, code credstore.Secret
	issuer      string // empty: not said (RFC 9207)
	errorCode   string // an error code; empty: none
}

// parseCallback takes the query apart. It reports false for one that no server
// sends: with a parameter twice (RFC 6749 section 3.1), without a state, or with
// neither a code nor an error.
func parseCallback(raw string) (callbackParams, bool) {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return callbackParams{}, false
	}
	for _, name := range []string{"state", "code", "iss", "error"} {
		if len(q[name]) > 1 {
			return callbackParams{}, false
		}
	}
	a := callbackParams{
		state: credstore.NewSecret(q.Get("state")), code: credstore.NewSecret(q.Get("code")),
		issuer: q.Get("iss"), errorCode: q.Get("error"),
	}
	return a, isToken(q.Get("state")) && (a.errorCode != "" || !a.code.IsZero())
}

// reasonForErrorCode says what an error code means that came in the place of a code (RFC
// 6749 section 4.1.2.1).
func reasonForErrorCode(code string) reason {
	switch code {
	case "server_error", "temporarily_unavailable":
		return pleoUnavailable
	case "invalid_request", "invalid_scope", "unauthorized_client", "unsupported_response_type":
		return clientRejected
	}
	return consentFailed
}

// maxCodeLength is how long an error code that Pleo sends may be, in bytes.
const maxCodeLength = 64

// safeCode returns the code if it is made of the characters of RFC 6749 section
// 4.1.2.1 and not long: what is in an address can be anybody's.
func safeCode(code string) string {
	odd := func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }
	if len(code) > maxCodeLength || strings.ContainsFunc(code, odd) {
		return "error"
	}
	return code
}

// finishConsent does what the answer asks for.
func (p *Pages) finishConsent(r *http.Request, v visit, c credstore.Consent, a callbackParams) outcome {
	ctx := credstore.WithActor(r.Context(), credstore.ActorCustomer)
	switch {
	case a.issuer != "" && strings.TrimSuffix(a.issuer, "/") != strings.TrimSuffix(p.Issuer, "/"):
		return p.recordFailure(ctx, v, outcome{Reason: wrongIssuer}, wrongIssuer, "the callback names another authorization server as its issuer")
	case a.errorCode == "access_denied":
		return p.recordFailure(ctx, v, outcome{Reason: consentDenied}, consentDenied, "consent was denied in Pleo")
	case a.errorCode != "":
		code := reasonForErrorCode(a.errorCode)
		return p.recordFailure(ctx, v, outcome{Reason: code, Detail: safeCode(a.errorCode)}, code, "Pleo answered with an error: "+safeCode(a.errorCode))
	}
	conn, err := p.Grants.Consent(ctx, refresh.ConsentGrant{
		ConnectionID: v.conn().ID,
		Exchange: func(ctx context.Context) (pleo.Tokens, error) {
			return p.Server.Exchange(ctx, a.code, c.Verifier, c.RedirectURI)
		},
		LinkToken:          v.token,
		AllowOtherCompany:  v.link.AllowOtherCompany,
		AllowSharedCompany: v.link.AllowSharedCompany,
	})
	if r.Context().Err() != nil {
		return outcome{} // nobody waits; what comes of it is in the history
	}
	o := outcomeFor(err)
	if err != nil {
		code := o.Reason
		if code == "" {
			code = reasonForLinkError(err) // which the link itself says
		}
		return p.recordFailure(ctx, v, o, code, err.Error())
	}
	p.Logger.Info("a customer has given consent", zap.String("connection", conn.Name), zap.Int64("version", conn.Version))
	return o
}

// recordFailure records why nothing was connected.
func (p *Pages) recordFailure(ctx context.Context, v visit, o outcome, code reason, message string) outcome {
	p.Logger.Warn("a customer could not be connected", zap.String("connection", v.conn().Name),
		zap.String("code", string(code)), zap.String("message", message))
	// Also for a browser that has left meanwhile.
	err := p.Store.RecordEvent(context.WithoutCancel(ctx), v.conn().ID, credstore.Event{
		Type: credstore.EventConsentFailed, Code: string(code), Message: message,
	})
	if err != nil {
		p.logError("noting a failed consent", v, err)
	}
	return o
}

func (p *Pages) logError(doing string, v visit, err error) {
	p.Logger.Error(doing, zap.String("connection", v.conn().Name), zap.Error(err))
}
