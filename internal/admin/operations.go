package admin

import (
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// The names of what can be done with a connection, as they stand in addresses.
const (
	actionLink    = "link"
	actionKey     = "key"
	actionCheck   = "check"
	actionRefresh = "refresh"
	actionRetry   = "retry"
	actionDisable = "disable"
	actionEnable  = "enable"
	actionRemove  = "remove"
)

// operation is something that can be done with a connection on a page of its
// own, which says what it does before it is done.
type operation struct {
	Name        string
	Label       string // find the button
	Description string // what it does and what it does not
	Danger      bool   // it cannot be taken back

	available func(*Admin, credstore.Connection) bool
	// warning says what the connection makes dangerous or useless about it; empty:
	// nothing. Nil never warns.
	warning func(credstore.Connection) string
	run     func(*dashboard, *http.Request, credstore.Connection) (result, error)
}

// result is what an operation has to say. Without a page, the connection's own
// is shown, with the notice.
type result struct {
	Notice  notice
	Removed bool // the connection is gone
	Page    string
	Data    any
}

func done(text string) (result, error) { return result{Notice: notice{Text: text}}, nil }

// operations are all, in the order in which they are offered.
func operations() []operation {
	return []operation{
		{
			Name: actionLink, Label: "Make connect link",
			Description: "Makes a link for the customer. Whoever opens it is led through connecting the company in Pleo. It works once, and until it expires; one that was made before is shown again while half of its time is left.",
			available:   func(a *Admin, _ credstore.Connection) bool { return a.links },
			warning:     linkWarning,
			run:         (*dashboard).makeLink,
		},
		{
			Name: actionKey, Label: "Enter API key",
			Description: "Pleo is asked about the key first: it is stored only if Pleo accepts it for this company. It is sealed, and never shown again.",
			available:   func(_ *Admin, c credstore.Connection) bool { return c.Kind.IsKey() },
			run:         (*dashboard).setKey,
		},
		{
			Name: actionCheck, Label: "Check with Pleo",
			Description: "Asks Pleo about everything that the connection has. Nothing is changed or spent.",
			available:   func(_ *Admin, c credstore.Connection) bool { return c.Version > 0 },
			run:         (*dashboard).check,
		},
		{
			Name: actionRefresh, Label: "Refresh now",
			Description: "Gets a new token pair from Pleo now. The proxy does so by itself whenever one is needed.",
			available:   func(_ *Admin, c credstore.Connection) bool { return refreshable(c) },
			run:         (*dashboard).refresh,
		},
		{
			Name: actionRetry, Label: "Try the refused token once more",
			Description: "Has the refused refresh token presented to Pleo again: for when Pleo was wrong. If Pleo refuses it again, nothing is lost.",
			available: func(_ *Admin, c credstore.Connection) bool {
				return c.Kind == credstore.OAuth && c.Status == credstore.ReauthorizationRequired && c.Reason != credstore.ReasonUninstalled
			},
			run: (*dashboard).retry,
		},
		{
			Name: actionDisable, Label: "Disable",
			Description: "Nothing is sent with the connection any more, and it is not refreshed, until it is enabled again. Its credential is kept; a refresh token that is not used for 60 days may end at Pleo.",
			available:   func(_ *Admin, c credstore.Connection) bool { return c.Status != credstore.Disabled },
			run:         (*dashboard).disable,
		},
		{
			Name: actionEnable, Label: "Enable",
			Description: "Requests are sent with the connection again, if its credential is still good.",
			available:   func(_ *Admin, c credstore.Connection) bool { return c.Status == credstore.Disabled },
			warning:     enableWarning,
			run:         (*dashboard).enable,
		},
		{
			Name: actionRemove, Label: "Remove", Danger: true,
			Description: "Forgets the connection and its credential here. This cannot be taken back: to connect the company again, the customer has to give consent or a key again.",
			available:   func(*Admin, credstore.Connection) bool { return true },
			run:         (*dashboard).remove,
		},
	}
}

func refreshable(c credstore.Connection) bool {
	return c.Kind == credstore.OAuth && (c.Status == credstore.Active || c.Status == credstore.Degraded)
}

// findOperation returns the operation with the name; its Name is empty if there
// is none.
func findOperation(name string) operation {
	for _, o := range operations() {
		if o.Name == name {
			return o
		}
	}
	return operation{}
}

// availableOperations returns what can be done with the connection as it is.
func (a *Admin) availableOperations(c credstore.Connection) []operation {
	var offered []operation
	for _, o := range operations() {
		if o.available(a, c) {
			offered = append(offered, o)
		}
	}
	return offered
}

func linkWarning(c credstore.Connection) string {
	if c.Status == credstore.Disabled && c.Reason != credstore.ReasonCompanyConflict {
		return "The connection is disabled, so the link leads nowhere before you enable it."
	}
	return ""
}

func enableWarning(c credstore.Connection) string {
	switch c.Reason {
	case credstore.ReasonCompanyConflict:
		return "Its credential belongs to a company that it should not belong to, and what is sent with it may end up in that company's books. Have the right company connected instead, by a connect link: that enables it by itself."
	case credstore.ReasonExported:
		return "Its secrets were exported. If another program uses them, enabling it here ends the grant for both: stop that program first."
	}
	return ""
}

// confirmPage asks before something is done.
type confirmPage struct {
	Connection credstore.Connection
	Operation  operation
	Warning    string // about this connection
	ReturnURLs []string
	Error      string     // why it was not done
	Form       url.Values // what the form was filled in with then
}

// findOperation returns the connection and the operation that the path names.
func (d *dashboard) findOperation(r *http.Request) (credstore.Connection, operation, error) {
	c, err := d.find(r)
	if err != nil {
		return c, operation{}, err
	}
	o := findOperation(r.PathValue("operation"))
	if o.Name == "" {
		return c, o, manage.NewProblem(manage.CodeNotFound, "There is nothing at this address.")
	}
	if !o.available(d.Admin, c) {
		return c, o, manage.NewProblem(manage.CodeNotPossible, "Connection %q is %s now, so this is not possible: %s.", c.Name, label(c.Status), o.Label)
	}
	return c, o, nil
}

func (d *dashboard) confirmForm(w http.ResponseWriter, r *http.Request) error {
	c, o, err := d.findOperation(r)
	if err != nil {
		return err
	}
	return d.renderConfirm(w, r, http.StatusOK, confirmPage{Connection: c, Operation: o})
}

func (d *dashboard) renderConfirm(w http.ResponseWriter, r *http.Request, status int, p confirmPage) error {
	p.ReturnURLs = d.returnURLs
	if p.Operation.warning != nil {
		p.Warning = p.Operation.warning(p.Connection)
	}
	return d.render(w, r, status, "confirm", view{Title: p.Operation.Label + ": " + p.Connection.Name, Current: "/connections", Page: p})
}

// runOperation does what was confirmed.
func (d *dashboard) runOperation(w http.ResponseWriter, r *http.Request) error {
	c, o, err := d.findOperation(r)
	if err != nil {
		return err
	}
	if id := r.PostForm.Get("connection_id"); id != "" && id != c.ID {
		return manage.NewProblem(manage.CodeNotPossible, "The connection that you were asked about was removed meanwhile, and another connection is called %q now. Nothing was done.", c.Name)
	}
	result, err := o.run(d, r, c)
	if clientGone(r, err) {
		return err
	}
	if err != nil {
		p := d.problemFor(err)
		return d.renderConfirm(w, r, p.Status, confirmPage{Connection: c, Operation: o, Error: p.Detail, Form: r.PostForm})
	}
	if result.Page != "" {
		return d.render(w, r, http.StatusOK, result.Page, view{Title: o.Label + ": " + c.Name, Current: "/connections", Page: result.Data})
	}
	d.sessions.setNotice(d.sessions.find(r), result.Notice)
	to := "/connections/" + c.Name
	if result.Removed {
		to = "/connections"
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}

// linkPage shows a connect link.
type linkPage struct {
	Connection credstore.Connection
	URL        string
	ExpiresAt  time.Time
}

func (d *dashboard) makeLink(r *http.Request, c credstore.Connection) (result, error) {
	form := r.PostForm
	request := credstore.LinkRequest{
		ReturnURL: form.Get("return_url"), ReplaceExisting: form.Has("fresh"),
		AllowOtherCompany: form.Has("allow_other_company"), AllowSharedCompany: form.Has("allow_shared_company"),
	}
	if err := d.checkReturnURL(request.ReturnURL); err != nil {
		return result{}, err
	}
	link, err := d.link(r.Context(), c, request)
	if err != nil {
		return result{}, err
	}
	return result{Page: "link", Data: linkPage{Connection: c, URL: link.URL.Reveal(), ExpiresAt: link.ExpiresAt}}, nil
}

func (d *dashboard) setKey(r *http.Request, c credstore.Connection) (result, error) {
	k := manage.NewKey{Key: credstore.NewSecret(refresh.TrimKey(r.PostForm.Get("api_key"))), Next: r.PostForm.Has("next")}
	if day := r.PostForm.Get("expires_on"); day != "" {
		ends, err := refresh.KeyExpiry(day)
		if err != nil {
			return result{}, manage.NewProblem(manage.CodeBadRequest, "The last day of the key must be a date such as 2030-01-31.")
		}
		if !ends.After(d.now()) {
			return result{}, manage.NewProblem(manage.CodeBadRequest, "The last day of the key is over already.")
		}
		k.ExpiresAt = ends
	}
	if _, err := d.key(r.Context(), c, k); err != nil {
		return result{}, err
	}
	if k.Next {
		return done("The next API key was stored. It takes over once Pleo refuses the present one.")
	}
	return done("The API key was stored. Pleo accepts it.")
}

// checkPage shows what a check has found.
type checkPage struct {
	Connection credstore.Connection
	Checkup    manage.Checkup
}

func (d *dashboard) check(r *http.Request, c credstore.Connection) (result, error) {
	found, err := d.actions.Check(r.Context(), c)
	if err != nil {
		return result{}, err
	}
	return result{Page: "check", Data: checkPage{Connection: found.Connection, Checkup: manage.DescribeCheckup(found)}}, nil
}

func (d *dashboard) refresh(r *http.Request, c credstore.Connection) (result, error) {
	_, err := d.actions.Refresh(r.Context(), c)
	if errors.Is(err, manage.ErrRefreshPending) {
		return done("The refresh is under way and has no outcome yet. Load this page again in a minute.")
	}
	if err != nil {
		return result{}, err
	}
	return done("Pleo has given a new token pair.")
}

func (d *dashboard) retry(r *http.Request, c credstore.Connection) (result, error) {
	if err := d.store.RetryRejected(r.Context(), c.ID, d.now()); err != nil {
		return result{}, err
	}
	return done("The refused refresh token is presented once more. Load this page again in some seconds to see what came of it.")
}

func (d *dashboard) disable(r *http.Request, c credstore.Connection) (result, error) {
	if err := d.store.Disable(r.Context(), c.ID, credstore.ReasonOperator); err != nil {
		return result{}, err
	}
	return done("The connection is disabled.")
}

func (d *dashboard) enable(r *http.Request, c credstore.Connection) (result, error) {
	if err := d.store.Enable(r.Context(), c.ID); err != nil {
		return result{}, err
	}
	return done("The connection is enabled.")
}

func (d *dashboard) remove(r *http.Request, c credstore.Connection) (result, error) {
	gone, err := d.actions.Remove(r.Context(), c, r.PostForm.Has("uninstall"))
	if err != nil {
		return result{}, err
	}
	return result{Removed: true, Notice: notice{Text: "Connection " + c.Name + " was removed. " + gone.Message}}, nil
}
