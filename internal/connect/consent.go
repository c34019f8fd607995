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
		Heading:     n.in("Connect Pleo to {brand}"),
		Lead:        n.in("{brand} asks for access to your company in Pleo."),
		Permissions: permissionsOf(p.Scopes),
		Until:       until(v.link),
	}
	if v.conn().Version > 0 {
		page.Heading, page.Lead = n.in("Connect Pleo to {brand} again"), n.again(v)
	}
	return page
}

// again says why somebody who was connected before is asked again.
func (n names) again(v visit) string {
	text := "You were connected before, and can renew that here. All settings stay as they are."
	switch v.conn().Status {
	case credstore.Active:
		text = "You are connected at the moment, so there is nothing to do unless {brand} has asked you to connect again. All settings stay as they are."
	case credstore.ReauthorizationRequired:
		text = "Pleo no longer accepts the access that was given before, so nothing goes to or comes from Pleo until it is renewed. All settings stay as they are."
	}
	switch {
	case v.shutOut() && v.company() != "":
		return n.in("The company that was chosen last in Pleo is another one than {have}, so nothing goes to or comes from Pleo. Choose {have} this time.")
	case v.shutOut():
		return n.in("The company that was chosen last in Pleo is connected to {brand} already, so nothing goes to or comes from Pleo. Choose the one that belongs to {tenant}.")
	}
	if v.company() != "" && !v.link.AllowOtherCompany {
		text += " Choose the same company in Pleo as before."
	}
	return n.in(text)
}

func until(l credstore.Link) string {
	return "This link can be used once, until " + l.ExpiresAt.UTC().Format("2 January 2006, 15:04") + " UTC."
}

// allowForeignForms lets the form's answer lead to Pleo, and from there to
// wherever its customers sign in: browsers hold the whole way of redirects
// against the policy.
func (p *Pages) allowForeignForms(w http.ResponseWriter) {
	sources := "'self' https:"
	if p.AuthURL.Scheme == "http" { // on this machine
		sources += " http://" + p.AuthURL.Host
	}
	writePolicy(w.Header(), sources)
}

// startConsent sends the browser to Pleo.
func (p *Pages) startConsent(w http.ResponseWriter, r *http.Request, v visit) {
	if p.Server == nil {
		p.show(w, r, p.stoppedAt(v, notSetUp))
		return
	}
	c := credstore.Consent{
		State: newSecret(), Link: v.token, Verifier: newSecret(),
		Browser: p.knowBrowser(w, r), RedirectURI: p.redirectURI(),
	}
	if err := p.Store.BeginConsent(r.Context(), c); err != nil {
		p.complain("beginning a consent", v, err)
		p.show(w, r, p.stoppedAt(v, reasonOf(err)))
		return
	}
	p.forgetOutcome(w, v.token)
	http.Redirect(w, r, p.Server.AuthorizeURL(c.State, c.Verifier, c.RedirectURI, p.Scopes), http.StatusSeeOther)
}

// callback takes what Pleo sent the browser back with, and sends it on to the
// page of its link: the address here holds a code, and is not to stay.
func (p *Pages) callback(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet { // a HEAD would spend what the GET after it needs
		w.Header().Set("Allow", http.MethodGet)
		p.show(w, r, p.problem(nowhere))
		return
	}
	if p.Server == nil {
		p.stop(w, r, notSetUp)
		return
	}
	answer, ok := readAnswer(r.URL.RawQuery)
	if !ok {
		p.stop(w, r, attemptOver)
		return
	}
	browser, ok := p.browserOf(r)
	if !ok {
		p.stop(w, r, otherBrowser)
		return
	}
	c, err := p.Store.TakeConsent(r.Context(), answer.state, browser)
	if err != nil {
		p.stop(w, r, p.whyNotTaken(err))
		return
	}
	v, err := p.find(r.Context(), c.Link.Reveal())
	if err == nil || p.expiredMeanwhile(v, err) {
		p.setOutcome(w, c.Link, p.conclude(r, v, c, answer))
	}
	// A link that cannot be used any more says so itself.
	http.Redirect(w, r, p.linkURL(c.Link), http.StatusSeeOther)
}

// expiredMeanwhile reports whether the link of an attempt has ended by itself
// since the attempt began, and not because another has taken its place: the store
// still takes what the attempt brings, see [credstore.ConsentKept].
func (p *Pages) expiredMeanwhile(v visit, err error) bool {
	return errors.Is(err, credstore.ErrLinkExpired) && !v.link.ExpiresAt.After(p.Now())
}

// stop shows why, at an address that can stay.
func (p *Pages) stop(w http.ResponseWriter, r *http.Request, reason why) {
	http.Redirect(w, r, p.base+stoppedPath+string(reason), http.StatusSeeOther)
}

func (p *Pages) whyNotTaken(err error) why {
	switch {
	case errors.Is(err, credstore.ErrOtherBrowser):
		p.Logger.Warn("a consent was brought back by another browser than the one that began it; nothing was done with it")
		return otherBrowser
	case errors.Is(err, credstore.ErrNotFound):
		return attemptOver
	}
	p.Logger.Error("reading an attempt to get consent", zap.Error(err))
	return storeAway
}

// answer is what Pleo sends the browser back with.
type answer struct {
	state, code credstore.Secret
	issuer      string // empty: not said (RFC 9207)
	problem     string // an error code; empty: none
}

// readAnswer takes the query apart. It reports false for one that no server
// sends: with a parameter twice (RFC 6749 section 3.1), without a state, or with
// neither a code nor an error.
func readAnswer(raw string) (answer, bool) {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return answer{}, false
	}
	for _, name := range []string{"state", "code", "iss", "error"} {
		if len(q[name]) > 1 {
			return answer{}, false
		}
	}
	a := answer{
		state: credstore.NewSecret(q.Get("state")), code: credstore.NewSecret(q.Get("code")),
		issuer: q.Get("iss"), problem: q.Get("error"),
	}
	return a, wellFormed(q.Get("state")) && (a.problem != "" || !a.code.IsZero())
}

// whyInstead says what an error code means that came in the place of a code (RFC
// 6749 section 4.1.2.1).
func whyInstead(code string) why {
	switch code {
	case "server_error", "temporarily_unavailable":
		return unreachable
	case "invalid_request", "invalid_scope", "unauthorized_client", "unsupported_response_type":
		return clientRefused
	}
	return pleoRefused
}

// maxCode is how long an error code that Pleo sends may be, in bytes.
const maxCode = 64

// shortCode returns the code if it is made of the characters of RFC 6749 section
// 4.1.2.1 and not long: what is in an address can be anybody's.
func shortCode(code string) string {
	odd := func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }
	if len(code) > maxCode || strings.ContainsFunc(code, odd) {
		return "error"
	}
	return code
}

// conclude does what the answer asks for.
func (p *Pages) conclude(r *http.Request, v visit, c credstore.Consent, a answer) outcome {
	ctx := credstore.WithActor(r.Context(), credstore.ActorCustomer)
	switch {
	case a.issuer != "" && strings.TrimSuffix(a.issuer, "/") != strings.TrimSuffix(p.Issuer, "/"):
		return p.giveUp(ctx, v, outcome{Why: otherIssuer}, otherIssuer, "the callback names another authorization server as its issuer")
	case a.problem == "access_denied":
		return p.giveUp(ctx, v, outcome{Why: denied}, denied, "consent was denied in Pleo")
	case a.problem != "":
		code := whyInstead(a.problem)
		return p.giveUp(ctx, v, outcome{Why: code, Detail: shortCode(a.problem)}, code, "Pleo answered with an error: "+shortCode(a.problem))
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
		code := o.Why
		if code == "" {
			code = reasonOf(err) // which the link itself says
		}
		return p.giveUp(ctx, v, o, code, err.Error())
	}
	p.Logger.Info("a customer has given consent", zap.String("connection", conn.Name), zap.Int64("version", conn.Version))
	return o
}

// giveUp records why nothing was connected.
func (p *Pages) giveUp(ctx context.Context, v visit, o outcome, code why, message string) outcome {
	p.Logger.Warn("a customer could not be connected", zap.String("connection", v.conn().Name),
		zap.String("code", string(code)), zap.String("message", message))
	// Also for a browser that has left meanwhile.
	err := p.Store.Note(context.WithoutCancel(ctx), v.conn().ID, credstore.Event{
		Type: credstore.EventConsentFailed, Code: string(code), Message: message,
	})
	if err != nil {
		p.complain("noting a failed consent", v, err)
	}
	return o
}

func (p *Pages) complain(doing string, v visit, err error) {
	p.Logger.Error(doing, zap.String("connection", v.conn().Name), zap.Error(err))
}
