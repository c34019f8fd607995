package dashboard

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

const (
	// maxShown is the number of connections that the overview shows of a group.
	maxShown = 5
	// maxCounted is the number of connections that are counted for a cause of which
	// the store has no count.
	maxCounted = 200
)

// overviewPage is the first page: connections that need attention, and how the
// program is.
type overviewPage struct {
	Error          string // why nothing is known about connections; empty: all is
	NeedsAttention []attentionGroup
	Pending        int // connections of customers that have not connected yet
	Total          int
	Statuses       []statusCount
	StatusBar      chart
	Charts         []chart
	Period         chartPeriod
	Periods        []chartPeriod
	Checks         []Check
}

// attentionCause is a cause for which connections need attention.
type attentionCause struct {
	Name  string // as the list has it among the statuses
	Label string // on the list; empty if the cause is a status
	Title string // on the overview
	query credstore.Query
}

// attentionCauses returns all causes. Those that do not go away by themselves come
// first.
func attentionCauses(now time.Time) []attentionCause {
	return []attentionCause{
		{
			Name: string(credstore.ReauthorizationRequired), Title: "Reauthorization required",
			query: credstore.Query{Status: credstore.ReauthorizationRequired},
		},
		{
			Name: credstore.ReasonCompanyConflict, Label: "Disabled: company conflict", Title: "Disabled because of a company conflict",
			query: credstore.Query{Status: credstore.Disabled, Reason: credstore.ReasonCompanyConflict},
		},
		{
			Name: "key_ends_soon", Label: "API key expires soon", Title: "API key expires soon",
			query: credstore.Query{KeyExpiresBefore: now.Add(keyExpiryNotice)},
		},
		{
			Name: string(credstore.Degraded), Title: "Degraded, may recover automatically",
			query: credstore.Query{Status: credstore.Degraded},
		},
	}
}

// attentionGroup has the first connections that need attention for one cause.
type attentionGroup struct {
	Title string
	URL   string // list of all of them
	Count int
	More  bool // there are more than Count
	First []credstore.Connection
}

func (d *Dashboard) overview(w http.ResponseWriter, r *http.Request) error {
	page, status := overviewPage{Periods: chartPeriods()}, http.StatusOK
	page.Period = page.Periods[0]
	for _, p := range page.Periods {
		if p.Name == r.URL.Query().Get("period") {
			page.Period = p
		}
	}
	err := page.load(r.Context(), d.Operator.Store, d.Now())
	if webguard.ClientGone(r, err) {
		return err
	}
	if err != nil { // all the more reason to show how the program is
		problem := d.Operator.Problem(err)
		page.Error, status = problem.Message, problem.Status
	}
	page.Charts = d.series.charts(page.Period)
	page.Checks = d.Health(r.Context())
	return d.pages.render(w, r, status, "overview", view{Title: "Overview", Current: "/", Page: page})
}

// load reads what the page shows of connections.
func (p *overviewPage) load(ctx context.Context, store manage.Store, now time.Time) (err error) {
	if p.Statuses, p.Total, err = countStatuses(ctx, store); err != nil {
		return err
	}
	counts := map[credstore.Status]int{}
	for _, s := range p.Statuses {
		counts[s.Status] = s.Count
	}
	p.Pending, p.StatusBar = counts[credstore.Pending], statusBar(counts)
	for _, cause := range attentionCauses(now) {
		group, err := findAttentionGroup(ctx, store, cause, counts)
		if err != nil {
			return err
		}
		if group.Count > 0 {
			p.NeedsAttention = append(p.NeedsAttention, group)
		}
	}
	return nil
}

// findAttentionGroup reads the connections that need attention for the cause. It
// reads no more than it has to: the store may hold 100,000 connections.
func findAttentionGroup(ctx context.Context, store manage.Store, c attentionCause, counts map[credstore.Status]int) (attentionGroup, error) {
	group := attentionGroup{Title: c.Title, URL: "/connections?" + url.Values{"status": {c.Name}}.Encode()}
	isStatus, q := c.Label == "", c.query
	if q.Status != "" && counts[q.Status] == 0 {
		return group, nil
	}
	q.Limit = maxCounted
	if isStatus {
		q.Limit = maxShown
	}
	page, err := store.List(ctx, q)
	if err != nil {
		return group, err
	}
	group.Count, group.More = len(page.Connections), page.Next != ""
	if isStatus {
		group.Count, group.More = counts[q.Status], false
	}
	group.First = page.Connections[:min(maxShown, len(page.Connections))]
	return group, nil
}

// statusCount is the number of connections with a status.
type statusCount struct {
	Status credstore.Status
	Count  int
}

// countStatuses returns the number of connections with each status, and of all.
func countStatuses(ctx context.Context, store manage.Store) (counts []statusCount, total int, err error) {
	groups, err := store.Count(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, status := range credstore.Statuses() {
		c := statusCount{Status: status}
		for _, kind := range credstore.Kinds() {
			c.Count += groups[credstore.Group{Kind: kind, Status: status}]
		}
		counts, total = append(counts, c), total+c.Count
	}
	return counts, total, nil
}
