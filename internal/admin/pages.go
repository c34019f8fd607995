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
	Error          string // why nothing is known about the connections
	NeedsAttention []attentionGroup
	Pending        int // connections of customers who have not connected yet
	Total          int
	Statuses       []statusCount
	StatusBar      chart
	Charts         []chart
	Period         chartPeriod
	Periods        []chartPeriod
	Checks         []checkResult
}

// attentionGroup is the first of the connections that call for a person for one cause.
type attentionGroup struct {
	Title string
	URL   string // where all of them are
	Count int
	More  bool // there are more than Count
	First []credstore.Connection
}

// attentionCause is why connections call for a person.
type attentionCause struct {
	Name  string // as the list takes it in the place of a status
	Label string // among the statuses of the list; empty: it is one of them
	Title string // on the overview
	query credstore.Query
}

// attentionCauses are all, those first that nobody but a person can mend.
func attentionCauses(now time.Time) []attentionCause {
	return []attentionCause{
		{
			Name: string(credstore.ReauthorizationRequired), Title: "Need a person",
			query: credstore.Query{Status: credstore.ReauthorizationRequired},
		},
		{
			Name: credstore.ReasonCompanyConflict, Label: "disabled for its company", Title: "Are disabled, since their credential is another company's",
			query: credstore.Query{Status: credstore.Disabled, Reason: credstore.ReasonCompanyConflict},
		},
		{
			Name: "key_ends_soon", Label: "API key ends soon", Title: "Have an API key that ends soon",
			query: credstore.Query{KeyExpiresBefore: now.Add(keyExpiryWarning)},
		},
		{
			Name: string(credstore.Degraded), Title: "Have trouble, and may recover by themselves",
			query: credstore.Query{Status: credstore.Degraded},
		},
	}
}

// statusCount counts the connections of a status.
type statusCount struct {
	Status credstore.Status
	Count  int
}

// checkResults is one check of the program.
type checkResult struct {
	Name  string
	Error string // empty: all is well
}

// maxShown is how many connections the overview shows of a status.
const maxShown = 5

func (d *dashboard) overview(w http.ResponseWriter, r *http.Request) error {
	page, status := overviewPage{Periods: chartPeriods()}, http.StatusOK
	page.Period = page.Periods[0]
	for _, p := range page.Periods {
		if p.Name == r.URL.Query().Get("period") {
			page.Period = p
		}
	}
	err := d.loadOverview(r.Context(), &page)
	if clientGone(r, err) {
		return err
	}
	if err != nil { // the more reason to show how the program is
		p := d.problemFor(err)
		page.Error, status = p.Detail, p.Status
	}
	page.Charts = d.series.charts(page.Period)
	page.Checks = d.checkResults(r.Context())
	return d.render(w, r, status, "overview", view{Title: "Overview", Current: "/", Page: page})
}

// loadOverview puts on the page how the connections are.
func (d *dashboard) loadOverview(ctx context.Context, page *overviewPage) (err error) {
	if page.Statuses, err = d.statusCounts(ctx); err != nil {
		return err
	}
	byStatus := map[credstore.Status]int{}
	for _, t := range page.Statuses {
		page.Total += t.Count
		byStatus[t.Status] = t.Count
	}
	page.Pending, page.StatusBar = byStatus[credstore.Pending], statusBar(byStatus)
	page.NeedsAttention, err = d.attentionGroups(ctx, byStatus)
	return err
}

// statusCounts counts the connections of each status.
func (d *dashboard) statusCounts(ctx context.Context) ([]statusCount, error) {
	groups, err := d.store.Count(ctx)
	if err != nil {
		return nil, err
	}
	var all []statusCount
	for _, status := range credstore.Statuses() {
		t := statusCount{Status: status}
		for _, kind := range credstore.Kinds() {
			t.Count += groups[credstore.Group{Kind: kind, Status: status}]
		}
		all = append(all, t)
	}
	return all, nil
}

// attentionGroups returns the connections that call for a person.
func (d *dashboard) attentionGroups(ctx context.Context, counts map[credstore.Status]int) ([]attentionGroup, error) {
	var all []attentionGroup
	for _, cause := range attentionCauses(d.now()) {
		found, err := d.attentionGroup(ctx, cause, counts)
		if err != nil {
			return nil, err
		}
		if found.Count > 0 {
			all = append(all, found)
		}
	}
	return all, nil
}

// maxCounted is how many connections are counted for a cause that is no status,
// which the store has no count of.
const maxCounted = 200

// attentionGroup returns the connections that call for a person for the cause.
func (d *dashboard) attentionGroup(ctx context.Context, c attentionCause, counts map[credstore.Status]int) (attentionGroup, error) {
	found := attentionGroup{Title: c.Title, URL: "/connections?" + url.Values{"status": {c.Name}}.Encode()}
	q := c.query
	if q.Status != "" && counts[q.Status] == 0 {
		return found, nil
	}
	q.Limit = maxShown
	if c.Label != "" {
		q.Limit = maxCounted
	}
	page, err := d.store.List(ctx, q)
	if err != nil {
		return found, err
	}
	found.Count, found.More = len(page.Connections), page.Next != ""
	if c.Label == "" {
		found.Count, found.More = counts[q.Status], false
	}
	found.First = page.Connections[:min(maxShown, len(page.Connections))]
	return found, nil
}

func (d *dashboard) checkResults(ctx context.Context) []checkResult {
	results := []checkResult{{Name: "program"}}
	if err := d.ready(); err != nil {
		results[0].Error = err.Error()
	}
	for i, err := range d.probe(ctx) {
		h := checkResult{Name: d.checks[i].Name}
		if err != nil {
			h.Error = err.Error()
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
	NextURL     string // the address of the next page; empty on the last
	FirstURL    string // that of the first page; empty on it
	Statuses    []statusCount
	Causes      []attentionCause // that are no status
	Kinds       []credstore.Kind
	Total       int
}

// Filtered reports whether not all connections are asked for.
func (p listPage) Filtered() bool {
	return p.Status != "" || p.Query.Kind != "" || p.Query.Search != ""
}

func (d *dashboard) list(w http.ResponseWriter, r *http.Request) error {
	q, status, err := d.parseListQuery(r.URL.RawQuery)
	if err != nil {
		return err
	}
	found, err := d.store.List(r.Context(), q)
	if err != nil {
		return err
	}
	page := listPage{
		Query: q, Status: status, Connections: found.Connections, Kinds: credstore.Kinds(),
		Causes: slices.DeleteFunc(attentionCauses(d.now()), func(c attentionCause) bool { return c.Label == "" }),
	}
	if page.Statuses, err = d.statusCounts(r.Context()); err != nil {
		return err
	}
	for _, t := range page.Statuses {
		page.Total += t.Count
	}
	if found.Next != "" {
		page.NextURL = listURL(page, found.Next)
	}
	if q.Cursor != "" {
		page.FirstURL = listURL(page, "")
	}
	return d.render(w, r, http.StatusOK, "list", view{Title: "Connections", Current: "/connections", Page: page})
}

// parseListQuery reads the parameters of the list: those of the API, but that the
// status may be a cause, which it returns as it was given, and that what was pasted
// into the search may have spaces beside it.
func (d *dashboard) parseListQuery(raw string) (q credstore.Query, status string, err error) {
	values, err := parameters(raw, listParameters()...)
	if err != nil {
		return q, "", err
	}
	values.Set("q", strings.TrimSpace(values.Get("q")))
	status = values.Get("status")
	for _, c := range attentionCauses(d.now()) {
		if c.Name == status {
			values.Del("status")
			q, err = listQuery(values)
			q.Status, q.Reason, q.KeyExpiresBefore = c.query.Status, c.query.Reason, c.query.KeyExpiresBefore
			return q, status, err
		}
	}
	q, err = listQuery(values)
	return q, status, err
}

// listURL returns the address of the page at the cursor of what p selects.
func listURL(p listPage, cursor string) string {
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

// connectionPage is one connection with what has happened to it.
type connectionPage struct {
	Connection credstore.Connection
	Advice     advice
	Operations []operation
	History    historySection
}

// historySection is what has happened to a connection, as a part of a page.
type historySection struct {
	Events    []credstore.Event
	OlderURL  string // the address of the page with older events; empty: there are none
	NewestURL string // that of the page with the newest; empty on it
}

const historyPageSize = 25

// history reads a page of what has happened to the connection with the id.
func (d *dashboard) history(r *http.Request, id, cursor string) (historySection, error) {
	page, err := d.store.History(r.Context(), id, cursor, historyPageSize)
	part := historySection{Events: page.Events}
	here := url.URL{Path: r.URL.Path, Fragment: "history"}
	if cursor != "" {
		part.NewestURL = here.String()
	}
	if page.Next != "" {
		here.RawQuery = url.Values{"cursor": {page.Next}}.Encode()
		part.OlderURL = here.String()
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
	page := connectionPage{Connection: c, Advice: d.advise(c), Operations: d.availableOperations(c), History: history}
	return d.render(w, r, http.StatusOK, "show", view{Title: c.Name, Current: "/connections", Page: page})
}

// removedPage is what is left of a connection.
type removedPage struct {
	Name    string
	History historySection
}

// showRemoved draws the page of a connection that was removed, or returns the
// error with which it was not found.
func (d *dashboard) showRemoved(w http.ResponseWriter, r *http.Request, cursor string, unknown error) error {
	id, err := d.findRemoved(r, unknown)
	if err != nil {
		return err
	}
	history, err := d.history(r, id, cursor)
	if err != nil {
		return err
	}
	name := r.PathValue("name")
	return d.render(w, r, http.StatusGone, "removed", view{Title: name, Current: "/connections", Page: removedPage{name, history}})
}

// createPage is the form for a new connection.
type createPage struct {
	Body  createRequest
	Kinds []credstore.Kind
	Links bool
	Error string // what is wrong with what was given
}

// The templates see what the form was filled in with.
func (p createPage) Name() string           { return p.Body.name }
func (p createPage) Kind() string           { return p.Body.kind }
func (p createPage) ExternalTenant() string { return p.Body.externalTenant }

func (d *dashboard) createForm(w http.ResponseWriter, r *http.Request) error {
	return d.renderCreate(w, r, http.StatusOK, createPage{Body: createRequest{kind: string(credstore.OAuth)}})
}

func (d *dashboard) renderCreate(w http.ResponseWriter, r *http.Request, status int, p createPage) error {
	p.Kinds, p.Links = credstore.Kinds(), d.links
	return d.render(w, r, status, "new", view{Title: "New connection", Current: "/new", Page: p})
}

// create makes a connection and goes on to what its customer needs.
func (d *dashboard) create(w http.ResponseWriter, r *http.Request) error {
	body := createRequest{
		name: r.PostForm.Get("name"), kind: r.PostForm.Get("kind"), externalTenant: r.PostForm.Get("external_tenant"),
	}
	c, made, err := d.Admin.create(r.Context(), body)
	if err != nil {
		p := d.problemFor(err)
		return d.renderCreate(w, r, p.Status, createPage{Body: body, Error: p.Detail})
	}
	if !made {
		return d.renderCreate(w, r, http.StatusConflict, createPage{Body: body, Error: "There is a connection " + c.Name + " already."})
	}
	d.sessions.setNotice(d.sessions.find(r), notice{Text: "Connection " + c.Name + " was made."})
	http.Redirect(w, r, "/connections/"+c.Name, http.StatusSeeOther)
	return nil
}
