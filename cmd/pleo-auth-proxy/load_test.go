package main

import (
	"flag"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// loadFor is how long TestLoadUnderRotation lasts. The documentation promises 30s.
var loadFor = flag.Duration("load", 6*time.Second, "how long the load test lasts")

// TestLoadUnderRotation sends requests on 10 connections by 40 clients each,
// while each token lives only 4 seconds, less than refresh_before_expiry.
func TestLoadUnderRotation(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	const connections, clients = 10, 40
	life := simulator.Duration(4 * time.Second)
	w := newEnv(t, simulator.Settings{OAuth: simulator.OAuthSettings{AccessTokenLifetime: life}}, "log: {level: warn}")
	var lines, companies []string
	for i := range connections {
		g, line := w.grant(fmt.Sprint("c", i), simulator.GrantRequest{})
		lines, companies = append(lines, line), append(companies, g.Company)
	}
	w.importLines(lines...)
	p := w.serve()
	l := &load{p: p, client: client(t), ends: time.Now().Add(*loadFor)}
	var running sync.WaitGroup
	for i := range connections {
		for range clients {
			running.Go(func() { l.run(fmt.Sprint("c", i), companies[i]) })
		}
	}
	running.Wait()

	counters := w.sim.Counters()
	if failed := l.failed.Load(); failed != nil {
		t.Errorf("one of %d requests: %s; want 200 for all", l.sent.Load(), *failed)
	}
	if counters.WrongCompany != 0 {
		t.Errorf("%d of %d requests went to a wrong company, want none", counters.WrongCompany, l.sent.Load())
	}
	w.checkAlive(1)
	// One refresh ahead of each expiry, and no loop.
	expiries := int(*loadFor / (3 * time.Second))
	if most := connections * (expiries + 2); counters.Refreshes < connections || counters.Refreshes > most {
		t.Errorf("%d refreshes, want %d to %d", counters.Refreshes, connections, most)
	}
	t.Logf("%d requests, %d refreshes", l.sent.Load(), counters.Refreshes)
}

// load is the shared state of the clients of a test.
type load struct {
	p      *process
	client *http.Client
	ends   time.Time
	sent   atomic.Int64
	failed atomic.Pointer[string] // the last response that was not 200
}

// think is the time between the requests of one client: it keeps the machine
// from being the limit.
const think = 200 * time.Millisecond

func (l *load) run(connection, company string) {
	pace := time.NewTicker(think)
	defer pace.Stop()
	for ; time.Now().Before(l.ends); <-pace.C {
		l.one(connection, company)
	}
}

// one sends one request, whose response names the company.
func (l *load) one(connection, company string) {
	r, err := http.NewRequest(http.MethodGet, "http://"+l.p.addresses["proxy"]+"/v1/companies", nil)
	if err != nil {
		l.fail(err.Error())
		return
	}
	r.Header.Set("Pleo-Connection", connection)
	r.Header.Set("Simulator-Expect-Company", company)
	a, err := send(l.client, r)
	l.sent.Add(1)
	if err != nil || a.status != http.StatusOK {
		l.fail(fmt.Sprintf("%s got %d %v %s", connection, a.status, err, a.body))
	}
}

func (l *load) fail(how string) { l.failed.Store(&how) }
