package dashboard

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

// The names of operations, as in addresses.
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

// operation is something that an operator can do with a connection. It has a page
// that says what it does, and is run only when that page is confirmed.
type operation struct {
	Name        string
	Label       string // of the button
	Description string
	Danger      bool // it cannot be undone

	available func(*manage.Operator, credstore.Connection) bool
	// warning returns what makes the operation dangerous or useless for the
	// connection, or "". Nil: there is nothing.
	warning func(credstore.Connection) string
	run     runner
}

// runner runs an operation with the fields of its form.
type runner func(context.Context, *manage.Operator, credstore.Connection, url.Values) (result, error)

// result is the outcome of an operation: a page of its own, or a notice on the page
// of the connection.
type result struct {
	Notice  string
	Removed bool // the connection has no page any more
	Page    string
	Data    any
}

// operations returns all operations, in the order of their buttons.
func operations() []operation {
	return []operation{
		{
			Name: actionLink, Label: "Create connect link",
			Description: "Creates a link that guides the customer through connecting the company in Pleo. It can be used once, until it expires. An existing link is shown again as long as half of its lifetime remains.",
			available:   func(o *manage.Operator, _ credstore.Connection) bool { return o.Links != nil },
			warning:     linkWarning,
			run:         createLink,
		},
		{
			Name: actionKey, Label: "Set API key",
			Description: "Checks the key with Pleo, and stores it only if Pleo accepts it for this company. It is stored encrypted and never shown again.",
			available:   func(_ *manage.Operator, c credstore.Connection) bool { return c.Kind.IsKey() },
			run:         setKey,
		},
		{
			Name: actionCheck, Label: "Check with Pleo",
			Description: "Asks Pleo whether the credential is valid. This changes nothing and does not use the refresh token.",
			available:   func(_ *manage.Operator, c credstore.Connection) bool { return c.Version > 0 },
			run:         check,
		},
		{
			Name: actionRefresh, Label: "Refresh now",
			Description: "Requests a new token pair from Pleo now. The proxy also does this automatically whenever it is necessary.",
			available: func(_ *manage.Operator, c credstore.Connection) bool {
				return c.Kind == credstore.OAuth && (c.Status == credstore.Active || c.Status == credstore.Degraded)
			},
			run: refreshNow,
		},
		{
			Name: actionRetry, Label: "Retry rejected token",
			Description: "Sends the rejected refresh token to Pleo once more, in case Pleo rejected it by mistake. If Pleo rejects it again, nothing is lost.",
			available: func(_ *manage.Operator, c credstore.Connection) bool {
				return c.Kind == credstore.OAuth && c.Status == credstore.ReauthorizationRequired && c.Reason != credstore.ReasonUninstalled
			},
			run: change((*manage.Operator).Retry, "The rejected refresh token is being retried. Reload this page in a few seconds to see the result."),
		},
		{
			Name: actionDisable, Label: "Disable",
			Description: "Stops all requests and refreshes of the connection until it is enabled again. Its credential is kept. A refresh token that is not used for 60 days may expire at Pleo.",
			available:   func(_ *manage.Operator, c credstore.Connection) bool { return c.Status != credstore.Disabled },
			run:         change((*manage.Operator).Disable, "The connection was disabled."),
		},
		{
			Name: actionEnable, Label: "Enable",
			Description: "Allows requests with the connection again, if its credential is still valid.",
			available:   func(_ *manage.Operator, c credstore.Connection) bool { return c.Status == credstore.Disabled },
			warning:     enableWarning,
			run:         change((*manage.Operator).Enable, "The connection was enabled."),
		},
		{
			Name: actionRemove, Label: "Remove", Danger: true,
			Description: "Deletes the connection and its credential here. This cannot be undone: to connect the company again, the customer has to give consent or a key again.",
			available:   func(*manage.Operator, credstore.Connection) bool { return true },
			run:         remove,
		},
	}
}

// findOperation returns the operation with the name, or one without a name.
func findOperation(name string) operation {
	for _, o := range operations() {
		if o.Name == name {
			return o
		}
	}
	return operation{}
}

// availableOperations returns the operations that the connection's state allows.
func availableOperations(operator *manage.Operator, c credstore.Connection) []operation {
	var available []operation
	for _, o := range operations() {
		if o.available(operator, c) {
			available = append(available, o)
		}
	}
	return available
}

func linkWarning(c credstore.Connection) string {
	if c.Status == credstore.Disabled && c.Reason != credstore.ReasonCompanyConflict {
		return "The connection is disabled. The link does not work before you enable it."
	}
	return ""
}

func enableWarning(c credstore.Connection) string {
	switch c.Reason {
	case credstore.ReasonCompanyConflict:
		return "The credential belongs to the wrong company. If you enable the connection, its requests may end up in the books of that company. Instead, create a connect link and have the right company connected, which also enables the connection."
	case credstore.ReasonExported:
		return "The secrets of this connection were exported. If another program uses them, both programs lose access when you enable it. Stop the other program first."
	}
	return ""
}

// confirmPage asks for confirmation of an operation.
type confirmPage struct {
	Connection credstore.Connection
	Operation  operation
	Warning    string
	ReturnURLs []string
	Error      string     // why the operation failed
	Form       url.Values // as filled in before it failed
}

// findOperation returns the connection and the operation that the path names.
func (d *Dashboard) findOperation(r *http.Request) (credstore.Connection, operation, error) {
	c, err := d.Operator.Find(r.Context(), r.PathValue("name"))
	if err != nil {
		return c, operation{}, err
	}
	o := findOperation(r.PathValue("operation"))
	if o.Name == "" {
		return c, o, manage.NewProblem(manage.CodeNotFound, "There is nothing at this address.")
	}
	if !o.available(d.Operator, c) {
		return c, o, manage.NewProblem(manage.CodeNotPossible, "“%s” is not possible for connection %s in its present state (%s).", o.Label, c.Name, label(string(c.Status)))
	}
	return c, o, nil
}

func (d *Dashboard) confirmForm(w http.ResponseWriter, r *http.Request) error {
	c, o, err := d.findOperation(r)
	if err != nil {
		return err
	}
	return d.renderConfirm(w, r, http.StatusOK, confirmPage{Connection: c, Operation: o})
}

func (d *Dashboard) renderConfirm(w http.ResponseWriter, r *http.Request, status int, p confirmPage) error {
	p.ReturnURLs = d.Operator.ReturnURLs
	if p.Operation.warning != nil {
		p.Warning = p.Operation.warning(p.Connection)
	}
	return d.pages.render(w, r, status, "confirm", view{Title: p.Operation.Label + ": " + p.Connection.Name, Current: "/connections", Page: p})
}

// runOperation runs a confirmed operation. The form has the id of the connection that
// it was confirmed for: another one may have its name by now.
func (d *Dashboard) runOperation(w http.ResponseWriter, r *http.Request) error {
	c, o, err := d.findOperation(r)
	if err != nil {
		return err
	}
	if id := r.PostForm.Get("connection_id"); id != "" && id != c.ID {
		return manage.NewProblem(manage.CodeNotPossible, "The connection that you confirmed this for was removed in the meantime, and another connection is named %s now. Nothing was changed.", c.Name)
	}
	result, err := o.run(r.Context(), d.Operator, c, r.PostForm)
	if webguard.ClientGone(r, err) {
		return err
	}
	if err != nil {
		problem := d.Operator.Problem(err)
		return d.renderConfirm(w, r, problem.Status, confirmPage{Connection: c, Operation: o, Error: problem.Message, Form: r.PostForm})
	}
	if result.Page != "" {
		return d.pages.render(w, r, http.StatusOK, result.Page, view{Title: o.Label + ": " + c.Name, Current: "/connections", Page: result.Data})
	}
	to := "/connections/" + c.Name
	if result.Removed {
		to = "/connections"
	}
	return d.pages.redirect(w, r, to, notice{Text: result.Notice})
}

// linkPage shows a connect link.
type linkPage struct {
	Connection credstore.Connection
	URL        string
	ExpiresAt  time.Time
}

func createLink(ctx context.Context, o *manage.Operator, c credstore.Connection, form url.Values) (result, error) {
	link, err := o.Link(ctx, c, credstore.LinkRequest{
		ReturnURL: form.Get("return_url"), ReplaceExisting: form.Has("fresh"),
		AllowOtherCompany: form.Has("allow_other_company"), AllowSharedCompany: form.Has("allow_shared_company"),
	})
	return result{Page: "link", Data: linkPage{Connection: c, URL: link.URL.Reveal(), ExpiresAt: link.ExpiresAt}}, err
}

func setKey(ctx context.Context, o *manage.Operator, c credstore.Connection, form url.Values) (result, error) {
	k := manage.NewKey{Key: credstore.NewSecret(apikey.Trim(form.Get("api_key"))), Next: form.Has("next")}
	if day := form.Get("expires_on"); day != "" {
		end, err := apikey.Expiry(day)
		if err != nil {
			return result{}, manage.NewProblem(manage.CodeBadRequest, "The expiry date must be a date such as 2030-01-31.")
		}
		k.ExpiresAt = end
	}
	if _, err := o.SetKey(ctx, c, k); err != nil {
		return result{}, err
	}
	if k.Next {
		return result{Notice: "The next API key was stored. It replaces the current one as soon as Pleo rejects it."}, nil
	}
	return result{Notice: "The API key was stored. Pleo accepts it."}, nil
}

// checkPage shows the result of a check.
type checkPage struct {
	Connection credstore.Connection
	Check      refresh.CredentialCheck
}

func check(ctx context.Context, o *manage.Operator, c credstore.Connection, _ url.Values) (result, error) {
	found, err := o.Check(ctx, c)
	return result{Page: "check", Data: checkPage{found.Connection, found}}, err
}

func refreshNow(ctx context.Context, o *manage.Operator, c credstore.Connection, _ url.Values) (result, error) {
	_, err := o.Refresh(ctx, c, manage.ShortRefreshWait())
	if errors.Is(err, manage.ErrRefreshPending) {
		return result{Notice: "The refresh is still in progress. Reload this page in a minute."}, nil
	}
	return result{Notice: "Pleo returned a new token pair."}, err
}

// change returns the function that runs a change of the connection's state.
func change(do func(*manage.Operator, context.Context, credstore.Connection) (credstore.Connection, error), notice string) runner {
	return func(ctx context.Context, o *manage.Operator, c credstore.Connection, _ url.Values) (result, error) {
		_, err := do(o, ctx, c)
		return result{Notice: notice}, err
	}
}

func remove(ctx context.Context, o *manage.Operator, c credstore.Connection, form url.Values) (result, error) {
	removal, err := o.Remove(ctx, c, form.Has("uninstall"))
	return result{Removed: true, Notice: "Connection " + c.Name + " was removed. " + removal.Message}, err
}
