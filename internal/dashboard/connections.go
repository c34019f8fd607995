package dashboard

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// historyPageSize is the number of events on a page.
const historyPageSize = 25

// listPage is a page of the list of connections.
type listPage struct {
	Query       credstore.Query
	Status      string // as requested: a status, or the name of a cause
	Connections []credstore.Connection
	NextURL     string // next page; empty on the last one
	FirstURL    string // first page; empty on it
	Statuses    []statusCount
	Causes      []attentionCause // those that are not a status
	Kinds       []credstore.Kind
	Total       int
}

// Filtered reports whether the list has been filtered.
func (p listPage) Filtered() bool {
	return p.Status != "" || p.Query.Kind != "" || p.Query.Search != ""
}

func (d *Dashboard) list(w http.ResponseWriter, r *http.Request) error {
	page, err := parseListPage(r.URL.Query(), d.Now())
	if err != nil {
		return err
	}
	found, err := d.Operator.Store.List(r.Context(), page.Query)
	if err != nil {
		return err
	}
	if page.Statuses, page.Total, err = countStatuses(r.Context(), d.Operator.Store); err != nil {
		return err
	}
	page.Connections = found.Connections
	if found.Next != "" {
		page.NextURL = page.url(found.Next)
	}
	if page.Query.Cursor != "" {
		page.FirstURL = page.url("")
	}
	return d.pages.render(w, r, http.StatusOK, "list", view{Title: "Connections", Current: "/connections", Page: page})
}

// parseListPage returns the page with the parameters of the API, except that the
// status may be a cause too, and that space around the search is ignored: it is often
// pasted.
func parseListPage(values url.Values, now time.Time) (listPage, error) {
	page := listPage{Status: values.Get("status"), Kinds: credstore.Kinds()}
	status, selected := page.Status, credstore.Query{}
	for _, c := range attentionCauses(now) {
		if c.Name == status {
			status, selected = string(c.query.Status), c.query
		}
		if c.Label != "" {
			page.Causes = append(page.Causes, c)
		}
	}
	q, err := manage.ParseQuery(values.Get("limit"), values.Get("cursor"), status, values.Get("kind"), strings.TrimSpace(values.Get("q")))
	q.Reason, q.KeyExpiresBefore = selected.Reason, selected.KeyExpiresBefore
	page.Query = q
	return page, err
}

// url returns the address of the list with the same filters at the cursor.
func (p listPage) url(cursor string) string {
	values := url.Values{}
	for name, value := range map[string]string{
		"q": p.Query.Search, "status": p.Status, "kind": string(p.Query.Kind), "cursor": cursor,
	} {
		if value != "" {
			values.Set(name, value)
		}
	}
	address := url.URL{Path: "/connections", RawQuery: values.Encode()}
	return address.String()
}

// connectionPage is one connection with its history.
type connectionPage struct {
	Connection credstore.Connection
	Operations []operation
	History    historySection
}

// removedPage is what remains of a connection that was removed.
type removedPage struct {
	Name    string
	History historySection
}

// historySection is one page of a history.
type historySection struct {
	Events    []credstore.Event
	OlderURL  string // page with older events; empty: there are none
	NewestURL string // page with the newest events; empty on it
}

// show renders the page of a connection, also of one that was removed.
func (d *Dashboard) show(w http.ResponseWriter, r *http.Request) error {
	c, removed, err := d.Operator.FindWithRemoved(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	history, err := d.history(r, c.ID)
	if err != nil {
		return err
	}
	v := view{Title: c.Name, Current: "/connections"}
	if removed {
		v.Page = removedPage{c.Name, history}
		return d.pages.render(w, r, http.StatusGone, "removed", v)
	}
	v.Page = connectionPage{c, availableOperations(d.Operator, c), history}
	return d.pages.render(w, r, http.StatusOK, "show", v)
}

// history reads the requested page of the history of the connection with the id.
func (d *Dashboard) history(r *http.Request, id string) (historySection, error) {
	cursor := r.URL.Query().Get("cursor")
	page, err := d.Operator.Store.Events(r.Context(), id, cursor, historyPageSize)
	section := historySection{Events: page.Events}
	here := url.URL{Path: r.URL.Path, Fragment: "history"}
	if cursor != "" {
		section.NewestURL = here.String()
	}
	if page.Next != "" {
		here.RawQuery = url.Values{"cursor": {page.Next}}.Encode()
		section.OlderURL = here.String()
	}
	return section, err
}

// createPage is the form for a new connection.
type createPage struct {
	Connection credstore.NewConnection // as filled in
	Kinds      []credstore.Kind
	Error      string
}

func (d *Dashboard) createForm(w http.ResponseWriter, r *http.Request) error {
	return d.renderCreate(w, r, http.StatusOK, createPage{Connection: credstore.NewConnection{Kind: credstore.OAuth}})
}

func (d *Dashboard) renderCreate(w http.ResponseWriter, r *http.Request, status int, p createPage) error {
	p.Kinds = credstore.Kinds()
	return d.pages.render(w, r, status, "new", view{Title: "New connection", Current: "/new", Page: p})
}

// create creates a connection and shows its page, which leads on to connecting it.
func (d *Dashboard) create(w http.ResponseWriter, r *http.Request) error {
	n := credstore.NewConnection{
		Name: r.PostForm.Get("name"), Kind: credstore.Kind(r.PostForm.Get("kind")), ExternalTenant: r.PostForm.Get("external_tenant"),
	}
	c, created, err := d.Operator.Create(r.Context(), n)
	if err == nil && !created {
		// Unlike a program, a person has not lost a response.
		err = manage.NewProblem(manage.CodeConnectionExists, "There is already a connection %q.", c.Name)
	}
	if err != nil {
		problem := d.Operator.Problem(err)
		return d.renderCreate(w, r, problem.Status, createPage{Connection: n, Error: problem.Message})
	}
	return d.pages.redirect(w, r, "/connections/"+c.Name, notice{Text: "Connection " + c.Name + " was created."})
}
