package admin

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// createRequest is the body of POST /api/v1/connections.
type createRequest struct {
	name, kind, externalTenant, returnURL string
	ttl                                   linkTTL // find the link
	allowSharedCompany                    bool
}

func (c *createRequest) fields() fields {
	return fields{
		"name": &c.name, "kind": &c.kind, "external_tenant": &c.externalTenant,
		"return_url": &c.returnURL, "ttl": &c.ttl, "allow_shared_company": &c.allowSharedCompany,
	}
}

// connection returns what is to be created.
func (c *createRequest) connection() (credstore.NewConnection, error) {
	n := credstore.NewConnection{
		Name: c.name, Kind: credstore.Kind(c.kind), ExternalTenant: c.externalTenant, SharedCompany: c.allowSharedCompany,
	}
	for _, err := range []error{n.Validate(), credstore.ValidateTenant(n.ExternalTenant)} {
		if err != nil {
			return n, manage.NewProblem(manage.CodeBadRequest, "%s.", capitalize(err))
		}
	}
	return n, nil
}

// CreateResponse is a connection with the link by which its customer connects.
type CreateResponse struct {
	Connection          manage.Connection `json:"connection"`
	ConnectURL          *string           `json:"connect_url"` // null where connect.public_url is not set
	ConnectURLExpiresAt *time.Time        `json:"connect_url_expires_at"`
}

// createConnection answers POST /api/v1/connections.
func (a *Admin) createConnection(w http.ResponseWriter, r *http.Request) error {
	var body createRequest
	if err := readBody(w, r, body.fields()); err != nil {
		return err
	}
	c, made, err := a.create(r.Context(), body)
	if err != nil {
		return err
	}
	created := CreateResponse{Connection: manage.Describe(c)}
	if a.links {
		link, err := a.actions.Link(r.Context(), c, credstore.LinkRequest{ReturnURL: body.returnURL, TTL: time.Duration(body.ttl)})
		if errors.Is(err, credstore.ErrNotFound) {
			return concurrentlyRemoved()
		}
		if err != nil {
			return err
		}
		created.ConnectURL, created.ConnectURLExpiresAt = reveal(link)
	}
	status := http.StatusOK
	if made {
		status = http.StatusCreated
	}
	return writeJSON(w, status, created)
}

// create makes the connection. Asked again for the same, as after an answer that
// was lost, it returns what is there.
func (a *Admin) create(ctx context.Context, body createRequest) (c credstore.Connection, made bool, err error) {
	n, err := body.connection()
	if err != nil {
		return c, false, err
	}
	// Before anything is made.
	if err := a.checkReturnURL(body.returnURL); err != nil {
		return c, false, err
	}
	c, err = a.store.Create(ctx, n)
	if !errors.Is(err, credstore.ErrNameTaken) {
		return c, err == nil, err
	}
	there, findErr := a.store.Find(ctx, n.Name)
	if errors.Is(findErr, credstore.ErrNotFound) {
		return c, false, nameTaken(n.Name, err)
	}
	if findErr != nil {
		return c, false, findErr
	}
	if there.Kind != n.Kind || there.ExternalTenant != n.ExternalTenant {
		return c, false, manage.NewProblem(manage.CodeConnectionExists,
			"There is a connection %q already, and its kind or external tenant is another one.", n.Name)
	}
	if n.SharedCompany && !there.SharedCompany {
		return c, false, manage.NewProblem(manage.CodeConnectionExists,
			"There is a connection %q already, and it was made without allow_shared_company: allow that with the link or the key that connects it.", n.Name)
	}
	return there, false, nil
}

// nameTaken explains why a name is taken that no connection has: by one whose name
// differs by case, or one that has just been removed.
func nameTaken(name string, err error) error {
	var conflict *credstore.ConflictError
	if errors.As(err, &conflict) && conflict.With == name {
		return concurrentlyRemoved()
	}
	return err
}

// concurrentlyRemoved tells who makes a connection, which somebody else removes, to do
// it again: to a client that has named what is to be there, 404 says nothing.
func concurrentlyRemoved() error {
	return manage.NewProblem(manage.CodeConnectionBusy, "A connection of this name was removed at this moment; try again.")
}

func (a *Admin) checkReturnURL(given string) error {
	if given == "" || slices.Contains(a.returnURLs, given) {
		return nil
	}
	return manage.NewProblem(manage.CodeReturnURL, "The return_url is not among connect.return_urls, with which it is compared character by character.")
}

// linkRequest is the body of POST /api/v1/connections/NAME/link.
type linkRequest struct {
	returnURL                                    string
	ttl                                          linkTTL
	fresh, allowOtherCompany, allowSharedCompany bool
}

func (l *linkRequest) fields() fields {
	return fields{
		"return_url": &l.returnURL, "ttl": &l.ttl, "fresh": &l.fresh,
		"allow_other_company": &l.allowOtherCompany, "allow_shared_company": &l.allowSharedCompany,
	}
}

// LinkResponse is a link by which a customer connects.
type LinkResponse struct {
	ConnectURL *string    `json:"connect_url"`
	ExpiresAt  *time.Time `json:"expires_at"`
}

// makeLink answers POST /api/v1/connections/NAME/link.
func (a *Admin) makeLink(w http.ResponseWriter, r *http.Request) error {
	var body linkRequest
	if err := readBody(w, r, body.fields()); err != nil {
		return err
	}
	if err := a.checkReturnURL(body.returnURL); err != nil {
		return err
	}
	c, err := a.find(r)
	if err != nil {
		return err
	}
	link, err := a.link(r.Context(), c, credstore.LinkRequest{
		ReturnURL: body.returnURL, TTL: time.Duration(body.ttl), ReplaceExisting: body.fresh,
		AllowOtherCompany: body.allowOtherCompany, AllowSharedCompany: body.allowSharedCompany,
	})
	if err != nil {
		return err
	}
	url, expiresAt := reveal(link)
	return writeJSON(w, http.StatusOK, LinkResponse{ConnectURL: url, ExpiresAt: expiresAt})
}

func (a *Admin) link(ctx context.Context, c credstore.Connection, r credstore.LinkRequest) (manage.Link, error) {
	if !a.links {
		return manage.Link{}, manage.NewProblem(manage.CodeNotPossible, "There are no pages for customers here: set connect.public_url.")
	}
	return a.actions.Link(ctx, c, r)
}

// reveal returns a link for a client that has asked for it with the admin token.
func reveal(l manage.Link) (url *string, expiresAt *time.Time) {
	plain, end := l.URL.Reveal(), l.ExpiresAt.UTC()
	return &plain, &end
}

// keyRequest is the body of POST /api/v1/connections/NAME/key.
type keyRequest struct {
	apiKey                                      string
	next, allowOtherCompany, allowSharedCompany bool
	expiresAt                                   time.Time
}

func (k *keyRequest) fields() fields {
	return fields{
		"api_key": &k.apiKey, "next": &k.next, "expires_at": &k.expiresAt,
		"allow_other_company": &k.allowOtherCompany, "allow_shared_company": &k.allowSharedCompany,
	}
}

func (k *keyRequest) key() manage.NewKey {
	return manage.NewKey{
		Key: credstore.NewSecret(k.apiKey), Next: k.next, ExpiresAt: k.expiresAt,
		AllowOtherCompany: k.allowOtherCompany, AllowSharedCompany: k.allowSharedCompany,
	}
}

// setKey answers POST /api/v1/connections/NAME/key.
func (a *Admin) setKey(w http.ResponseWriter, r *http.Request) error {
	var body keyRequest
	if err := readBody(w, r, body.fields()); err != nil {
		return err
	}
	c, err := a.find(r)
	if err != nil {
		return err
	}
	c, err = a.key(r.Context(), c, body.key())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, manage.Describe(c))
}

// key stores a key, if the connection is one for keys and the key can be one.
func (a *Admin) key(ctx context.Context, c credstore.Connection, k manage.NewKey) (credstore.Connection, error) {
	if !c.Kind.IsKey() {
		return c, manage.NewProblem(manage.CodeNotPossible, "Connection %q is of kind oauth: it has no API key, and the customer connects it by a link.", c.Name)
	}
	if k.Key.IsZero() || !k.Key.Sendable() {
		return c, manage.NewProblem(manage.CodeBadRequest, "The API key is missing, or holds spaces, line breaks or other characters that no key of Pleo's has.")
	}
	if k.Next && (k.AllowOtherCompany || k.AllowSharedCompany) {
		return c, manage.NewProblem(manage.CodeBadRequest, "The next key is another one of the same company: leave allow_other_company and allow_shared_company out.")
	}
	if k.Next && c.Version == 0 {
		return c, manage.NewProblem(manage.CodeNotPossible, "Connection %q has no key yet that another could follow: leave next out.", c.Name)
	}
	if !k.ExpiresAt.IsZero() && !k.ExpiresAt.After(a.now()) {
		return c, manage.NewProblem(manage.CodeBadRequest, "The time in expires_at has passed already.")
	}
	after, err := a.actions.SetKey(ctx, c, k)
	if err != nil {
		return c, manage.ExplainKeyError(err)
	}
	return after, nil
}

// findRemoved is what is left to say of a connection.
type removeResponse struct {
	Connection  manage.Connection `json:"connection"` // as it was
	Uninstalled bool              `json:"uninstalled"`
	Message     string            `json:"message"`
}

// removeConnection answers DELETE /api/v1/connections/NAME.
func (a *Admin) removeConnection(w http.ResponseWriter, r *http.Request) error {
	values, err := parameters(r.URL.RawQuery, "uninstall")
	if err != nil {
		return err
	}
	uninstall, err := boolParameter(values, "uninstall")
	if err != nil {
		return err
	}
	// One who wants an uninstalling, and says so here, must not lose the connection without.
	if err := readFields(w, r, fields{}); err != nil {
		return err
	}
	c, err := a.find(r)
	if err != nil {
		return err
	}
	gone, err := a.actions.Remove(r.Context(), c, uninstall)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, removeResponse{Connection: manage.Describe(c), Uninstalled: gone.Uninstalled, Message: gone.Message})
}

// withoutBody is an action that takes no parameters and answers with what it returns.
func (a *Admin) withoutBody(do func(context.Context, credstore.Connection) (status int, answer any, err error)) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := readBody(w, r, fields{}); err != nil {
			return err
		}
		c, err := a.find(r)
		if err != nil {
			return err
		}
		status, answer, err := do(r.Context(), c)
		if err != nil {
			return err
		}
		return writeJSON(w, status, answer)
	}
}

func (a *Admin) checkConnection(ctx context.Context, c credstore.Connection) (int, any, error) {
	found, err := a.actions.Check(ctx, c)
	return http.StatusOK, manage.DescribeCheckup(found), err
}

// refreshConnection answers 202 when there is no outcome yet.
func (a *Admin) refreshConnection(ctx context.Context, c credstore.Connection) (int, any, error) {
	after, err := a.actions.Refresh(ctx, c)
	if errors.Is(err, manage.ErrRefreshPending) {
		return http.StatusAccepted, manage.Describe(c), nil
	}
	return http.StatusOK, manage.Describe(after), err
}

func (a *Admin) retryConnection(ctx context.Context, c credstore.Connection) (int, any, error) {
	return a.respondChanged(ctx, c, a.store.RetryRejected(ctx, c.ID, a.now()))
}

func (a *Admin) disableConnection(ctx context.Context, c credstore.Connection) (int, any, error) {
	return a.respondChanged(ctx, c, a.store.Disable(ctx, c.ID, credstore.ReasonOperator))
}

func (a *Admin) enableConnection(ctx context.Context, c credstore.Connection) (int, any, error) {
	return a.respondChanged(ctx, c, a.store.Enable(ctx, c.ID))
}

// respondChanged answers a change with the connection as it is now.
func (a *Admin) respondChanged(ctx context.Context, c credstore.Connection, err error) (int, any, error) {
	if err != nil {
		return 0, nil, err
	}
	after, err := a.store.Find(ctx, c.Name)
	return http.StatusOK, manage.Describe(after), err
}

// capitalize returns the text of an error as a sentence without its full stop.
func capitalize(err error) string {
	text := err.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}
