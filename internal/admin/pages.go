package admin

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// overviewPage is the first page: what needs a person, and how things go.
type overviewPage struct {
	Wrong    string // why nothing is known about the connections
	Needs    []attention
	Waiting  int // connections of customers who have not connected yet
	All      int
	Statuses []tally
	Picture  chart
	Charts   []chart
	Period   period
	Periods  []period
	Health   []health
}

// attention is the first of the connections that call for a person for one cause.
type attention struct {
	Title string
	All   string // where all of them are
	Count int
	More  bool // there are more than Count
	First []credstore.Connection
}

// cause is why connections call for a person.
type cause struct {
	Name  string // as the list takes it in the place of a status
	Label string // among the statuses of the list; empty: it is one of them
	Title string // on the overview
	query credstore.Query
}

// causes are all, those first that nobody but a person can mend.
func causes(now time.Time) []cause {
	return []cause{
		{
			Name: string(credstore.ReauthorizationRequired), Title: "Need a person",
			query: credstore.Query{Status: credstore.ReauthorizationRequired},
		},
		{
			Name: credstore.ReasonCompany, Label: "disabled for its company", Title: "Are disabled, since their credential is another company's",
			query: credstore.Query{Status: credstore.Disabled, Reason: credstore.ReasonCompany},
		},
		{
			Name: "key_ends_soon", Label: "API key ends soon", Title: "Have an API key that ends soon",
			query: credstore.Query{KeyEndsBefore: now.Add(keyEndsSoon)},
		},
		{
			Name: string(credstore.Degraded), Title: "Have trouble, and may recover by themselves",
			query: credstore.Query{Status: credstore.Degraded},
		},
	}
}

// tally counts the connections of a status.
type tally struct {
	Status credstore.Status
	Count  int
}

// health is one check of the program.
type health struct {
	Name    string
	Trouble string // empty: all is well
}

// firstFew is how many connections the overview shows of a status.
const firstFew = 5

func (d *dashboard) overview(w http.ResponseWriter, r *http.Request) error {
	page, status := overviewPage{Periods: periods()}, http.StatusOK
	page.Period = page.Periods[0]
	for _, p := range page.Periods {
		if p.Name == r.URL.Query().Get("period") {
			page.Period = p
		}
	}
	err := d.lookOver(r.Context(), &page)
	if left(r, err) {
		return err
	}
	if err != nil { // the more reason to show how the program is
		p := d.explain(err)
		page.Wrong, status = p.Detail, p.Status
	}
	page.Charts = d.series.charts(page.Period)
	page.Health = d.health(r.Context())
	return d.draw(w, r, status, "overview", view{Title: "Overview", Here: "/", Page: page})
}

// lookOver puts on the page how the connections are.
func (d *dashboard) lookOver(ctx context.Context, page *overviewPage) (err error) {
	if page.Statuses, err = d.tallies(ctx); err != nil {
		return err
	}
	byStatus := map[credstore.Status]int{}
	for _, t := range page.Statuses {
		page.All += t.Count
		byStatus[t.Status] = t.Count
	}
	page.Waiting, page.Picture = byStatus[credstore.Pending], statusChart(byStatus)
	page.Needs, err = d.needs(ctx, byStatus)
	return err
}

// tallies counts the connections of each status.
func (d *dashboard) tallies(ctx context.Context) ([]tally, error) {
	groups, err := d.store.Count(ctx)
	if err != nil {
		return nil, err
	}
	var all []tally
	for _, status := range credstore.Statuses() {
		t := tally{Status: status}
		for _, kind := range credstore.Kinds() {
			t.Count += groups[credstore.Group{Kind: kind, Status: status}]
		}
		all = append(all, t)
	}
	return all, nil
}

// needs returns the connections that call for a person.
func (d *dashboard) needs(ctx context.Context, counts map[credstore.Status]int) ([]attention, error) {
	var all []attention
	for _, cause := range causes(d.now()) {
		found, err := d.calling(ctx, cause, counts)
		if err != nil {
			return nil, err
		}
		if found.Count > 0 {
			all = append(all, found)
		}
	}
	return all, nil
}

// countedAtMost is how many connections are counted for a cause that is no status,
// which the store has no count of.
const countedAtMost = 200

// calling returns the connections that call for a person for the cause.
func (d *dashboard) calling(ctx context.Context, c cause, counts map[credstore.Status]int) (attention, error) {
	found := attention{Title: c.Title, All: "/connections?" + url.Values{"status": {c.Name}}.Encode()}
	q := c.query
	if q.Status != "" && counts[q.Status] == 0 {
		return found, nil
	}
	q.Limit = firstFew
	if c.Label != "" {
		q.Limit = countedAtMost
	}
	page, err := d.store.List(ctx, q)
	if err != nil {
		return found, err
	}
	found.Count, found.More = len(page.Connections), page.Next != ""
	if c.Label == "" {
		found.Count, found.More = counts[q.Status], false
	}
	found.First = page.Connections[:min(firstFew, len(page.Connections))]
	return found, nil
}

func (d *dashboard) health(ctx context.Context) []health {
	results := []health{{Name: "program"}}
	if err := d.ready(); err != nil {
		results[0].Trouble = err.Error()
	}
	for i, err := range d.probe(ctx) {
		h := health{Name: d.checks[i].Name}
		if err != nil {
			h.Trouble = err.Error()
		}
		results = append(results, h)
	}
	return results
}

// listPage is a page of connections.
type listPage struct {
	Query       credstore.Query
	Status      string // as it was asked for: a status, or the name of a cause
	Connections []credstore.Connection
	Next        string // the address of the next page; empty on the last
	First       string // that of the first page; empty on it
	Statuses    []tally
	Causes      []cause // that are no status
	Kinds       []credstore.Kind
	All         int
}

// Filtered reports whether not all connections are asked for.
func (p listPage) Filtered() bool {
	return p.Status != "" || p.Query.Kind != "" || p.Query.Search != ""
}

func (d *dashboard) list(w http.ResponseWriter, r *http.Request) error {
	q, status, err := d.parseListing(r.URL.RawQuery)
	if err != nil {
		return err
	}
	found, err := d.store.List(r.Context(), q)
	if err != nil {
		return err
	}
	page := listPage{
		Query: q, Status: status, Connections: found.Connections, Kinds: credstore.Kinds(),
		Causes: slices.DeleteFunc(causes(d.now()), func(c cause) bool { return c.Label == "" }),
	}
	if page.Statuses, err = d.tallies(r.Context()); err != nil {
		return err
	}
	for _, t := range page.Statuses {
		page.All += t.Count
	}
	if found.Next != "" {
		page.Next = listAddress(page, found.Next)
	}
	if q.Cursor != "" {
		page.First = listAddress(page, "")
	}
	return d.draw(w, r, http.StatusOK, "list", view{Title: "Connections", Here: "/connections", Page: page})
}

// parseListing reads the parameters of the list: those of the API, but that the
// status may be a cause, which it returns as it was given, and that what was pasted
// into the search may have spaces beside it.
func (d *dashboard) parseListing(raw string) (q credstore.Query, status string, err error) {
	values, err := parameters(raw, listing()...)
	if err != nil {
		return q, "", err
	}
	values.Set("q", strings.TrimSpace(values.Get("q")))
	status = values.Get("status")
	for _, c := range causes(d.now()) {
		if c.Name == status {
			values.Del("status")
			q, err = queryOf(values)
			q.Status, q.Reason, q.KeyEndsBefore = c.query.Status, c.query.Reason, c.query.KeyEndsBefore
			return q, status, err
		}
	}
	q, err = queryOf(values)
	return q, status, err
}

// listAddress returns the address of the page at the cursor of what p selects.
func listAddress(p listPage, cursor string) string {
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

// showPage is one connection with what has happened to it.
type showPage struct {
	Connection credstore.Connection
	Advice     advice
	Operations []operation
	History    historyPart
}

// historyPart is what has happened to a connection, as a part of a page.
type historyPart struct {
	Events []credstore.Event
	Older  string // the address of the page with older events; empty: there are none
	Newest string // that of the page with the newest; empty on it
}

const eventsAtOnce = 25

// history reads a page of what has happened to the connection with the id.
func (d *dashboard) history(r *http.Request, id, cursor string) (historyPart, error) {
	page, err := d.store.History(r.Context(), id, cursor, eventsAtOnce)
	part := historyPart{Events: page.Events}
	here := url.URL{Path: r.URL.Path, Fragment: "history"}
	if cursor != "" {
		part.Newest = here.String()
	}
	if page.Next != "" {
		here.RawQuery = url.Values{"cursor": {page.Next}}.Encode()
		part.Older = here.String()
	}
	return part, err
}

func (d *dashboard) show(w http.ResponseWriter, r *http.Request) error {
	values, err := parameters(r.URL.RawQuery, "cursor")
	if err != nil {
		return err
	}
	c, err := d.find(r)
	if err != nil {
		return d.showRemoved(w, r, values.Get("cursor"), err)
	}
	history, err := d.history(r, c.ID, values.Get("cursor"))
	if err != nil {
		return err
	}
	page := showPage{Connection: c, Advice: d.advise(c), Operations: d.offers(c), History: history}
	return d.draw(w, r, http.StatusOK, "show", view{Title: c.Name, Here: "/connections", Page: page})
}

// removedPage is what is left of a connection.
type removedPage struct {
	Name    string
	History historyPart
}

// showRemoved draws the page of a connection that was removed, or returns the
// error with which it was not found.
func (d *dashboard) showRemoved(w http.ResponseWriter, r *http.Request, cursor string, unknown error) error {
	id, err := d.removed(r, unknown)
	if err != nil {
		return err
	}
	history, err := d.history(r, id, cursor)
	if err != nil {
		return err
	}
	name := r.PathValue("name")
	return d.draw(w, r, http.StatusGone, "removed", view{Title: name, Here: "/connections", Page: removedPage{name, history}})
}

// newPage is the form for a new connection.
type newPage struct {
	Body  creation
	Kinds []credstore.Kind
	Links bool
	Wrong string // what is wrong with what was given
}

// The templates see what the form was filled in with.
func (p newPage) Name() string           { return p.Body.name }
func (p newPage) Kind() string           { return p.Body.kind }
func (p newPage) ExternalTenant() string { return p.Body.externalTenant }

func (d *dashboard) newForm(w http.ResponseWriter, r *http.Request) error {
	return d.drawNew(w, r, http.StatusOK, newPage{Body: creation{kind: string(credstore.OAuth)}})
}

func (d *dashboard) drawNew(w http.ResponseWriter, r *http.Request, status int, p newPage) error {
	p.Kinds, p.Links = credstore.Kinds(), d.links
	return d.draw(w, r, status, "new", view{Title: "New connection", Here: "/new", Page: p})
}

// create makes a connection and goes on to what its customer needs.
func (d *dashboard) create(w http.ResponseWriter, r *http.Request) error {
	body := creation{
		name: r.PostForm.Get("name"), kind: r.PostForm.Get("kind"), externalTenant: r.PostForm.Get("external_tenant"),
	}
	c, made, err := d.Admin.create(r.Context(), body)
	if err != nil {
		p := d.explain(err)
		return d.drawNew(w, r, p.Status, newPage{Body: body, Wrong: p.Detail})
	}
	if !made {
		return d.drawNew(w, r, http.StatusConflict, newPage{Body: body, Wrong: "There is a connection " + c.Name + " already."})
	}
	d.sessions.say(d.sessions.of(r), notice{Text: "Connection " + c.Name + " was made."})
	http.Redirect(w, r, "/connections/"+c.Name, http.StatusSeeOther)
	return nil
}
