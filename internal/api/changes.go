package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// createRequest is the body of POST /api/v1/connections.
type createRequest struct {
	connection credstore.NewConnection
	returnURL  string
	ttl        linkTTL
}

func (c *createRequest) fields() manage.Fields {
	return manage.Fields{
		"name": &c.connection.Name, "kind": &c.connection.Kind, "external_tenant": &c.connection.ExternalTenant,
		"return_url": &c.returnURL, "ttl": &c.ttl, "allow_shared_company": &c.connection.SharedCompany,
	}
}

// CreateResponse is a connection with the link that its customer connects by.
type CreateResponse struct {
	Connection          manage.Connection `json:"connection"`
	ConnectURL          *string           `json:"connect_url"` // null unless connect.public_url is set
	ConnectURLExpiresAt *time.Time        `json:"connect_url_expires_at"`
}

// create serves POST /api/v1/connections. It responds 200 if the same connection
// already exists.
func (a *API) create(w http.ResponseWriter, r *http.Request) error {
	var body createRequest
	if err := readBody(w, r, body.fields()); err != nil {
		return err
	}
	// Checked before anything is created.
	if err := a.operator.CheckReturnURL(body.returnURL); err != nil {
		return err
	}
	c, created, err := a.operator.Create(r.Context(), body.connection)
	if err != nil {
		return err
	}
	link, err := a.operator.LinkNew(r.Context(), c, credstore.LinkRequest{ReturnURL: body.returnURL, TTL: time.Duration(body.ttl)})
	if err != nil {
		return err
	}
	response, status := CreateResponse{Connection: manage.Describe(c)}, http.StatusOK
	response.ConnectURL, response.ConnectURLExpiresAt = reveal(link)
	if created {
		status = http.StatusCreated
	}
	return writeJSON(w, status, response)
}

// linkRequest is the body of POST /api/v1/connections/NAME/link.
type linkRequest struct {
	request credstore.LinkRequest
	ttl     linkTTL
}

func (l *linkRequest) fields() manage.Fields {
	return manage.Fields{
		"return_url": &l.request.ReturnURL, "ttl": &l.ttl, "fresh": &l.request.ReplaceExisting,
		"allow_other_company": &l.request.AllowOtherCompany, "allow_shared_company": &l.request.AllowSharedCompany,
	}
}

// LinkResponse is a link that a customer connects by.
type LinkResponse struct {
	ConnectURL *string    `json:"connect_url"`
	ExpiresAt  *time.Time `json:"expires_at"`
}

// link serves POST /api/v1/connections/NAME/link.
func (a *API) link(w http.ResponseWriter, r *http.Request) error {
	var body linkRequest
	if err := readBody(w, r, body.fields()); err != nil {
		return err
	}
	c, err := a.find(r)
	if err != nil {
		return err
	}
	body.request.TTL = time.Duration(body.ttl)
	link, err := a.operator.Link(r.Context(), c, body.request)
	if err != nil {
		return err
	}
	var response LinkResponse
	response.ConnectURL, response.ExpiresAt = reveal(link)
	return writeJSON(w, http.StatusOK, response)
}

// reveal returns a link for a client that has requested it with the admin token. An
// empty link is null.
func reveal(l manage.Link) (url *string, expiresAt *time.Time) {
	if l.URL.IsZero() {
		return nil, nil
	}
	plain, end := l.URL.Reveal(), l.ExpiresAt.UTC()
	return &plain, &end
}

// keyRequest is the body of POST /api/v1/connections/NAME/key.
type keyRequest struct {
	apiKey string
	key    manage.NewKey
}

func (k *keyRequest) fields() manage.Fields {
	return manage.Fields{
		"api_key": &k.apiKey, "next": &k.key.Next, "expires_at": &k.key.ExpiresAt,
		"allow_other_company": &k.key.AllowOtherCompany, "allow_shared_company": &k.key.AllowSharedCompany,
	}
}

// setKey serves POST /api/v1/connections/NAME/key.
func (a *API) setKey(w http.ResponseWriter, r *http.Request) error {
	var body keyRequest
	if err := readBody(w, r, body.fields()); err != nil {
		return err
	}
	c, err := a.find(r)
	if err != nil {
		return err
	}
	body.key.Key = credstore.NewSecret(body.apiKey)
	c, err = a.operator.SetKey(r.Context(), c, body.key)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, manage.Describe(c))
}

// removeResponse is a connection as it was before it was removed.
type removeResponse struct {
	Connection  manage.Connection `json:"connection"`
	Uninstalled bool              `json:"uninstalled"`
	Message     string            `json:"message"`
}

// remove serves DELETE /api/v1/connections/NAME.
func (a *API) remove(w http.ResponseWriter, r *http.Request) error {
	values, err := parameters(r.URL.RawQuery, "uninstall")
	if err != nil {
		return err
	}
	uninstall, err := boolParameter(values, "uninstall")
	if err != nil {
		return err
	}
	// A client that puts uninstall into the body must not have the connection
	// removed without it.
	if err := readFields(w, r, nil); err != nil {
		return err
	}
	c, err := a.find(r)
	if err != nil {
		return err
	}
	removal, err := a.operator.Remove(r.Context(), c, uninstall)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, removeResponse{manage.Describe(c), removal.Uninstalled, removal.Message})
}

// action does something with a connection, and returns the response.
type action func(context.Context, credstore.Connection) (status int, response any, err error)

// withoutBody serves an action that has no parameters.
func (a *API) withoutBody(do action) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := readBody(w, r, nil); err != nil {
			return err
		}
		c, err := a.find(r)
		if err != nil {
			return err
		}
		status, response, err := do(r.Context(), c)
		if err != nil {
			return err
		}
		return writeJSON(w, status, response)
	}
}

// describeChange returns the action of a change, which responds with the changed
// connection.
func describeChange(change func(context.Context, credstore.Connection) (credstore.Connection, error)) action {
	return func(ctx context.Context, c credstore.Connection) (int, any, error) {
		after, err := change(ctx, c)
		return http.StatusOK, manage.Describe(after), err
	}
}

func (a *API) check(ctx context.Context, c credstore.Connection) (int, any, error) {
	found, err := a.operator.Check(ctx, c)
	return http.StatusOK, manage.DescribeCheck(found), err
}

// refresh responds 202 if there is no outcome yet.
func (a *API) refresh(ctx context.Context, c credstore.Connection) (int, any, error) {
	after, err := a.operator.Refresh(ctx, c, manage.ShortRefreshWait())
	if errors.Is(err, manage.ErrRefreshPending) {
		return http.StatusAccepted, manage.Describe(c), nil
	}
	return http.StatusOK, manage.Describe(after), err
}
