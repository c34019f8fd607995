//go:build heavy && linux

// The tests in this file take minutes, so they have a tag of their own. They
// measure a program without the race detector on a machine with little else to
// do.

package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

var soakTime = flag.Duration("soak", time.Minute, "how long TestSoak runs")

// startBehind starts the program before an API of the test's own. Settings are lines
// of configuration.
func startBehind(t *testing.T, api http.HandlerFunc, settings ...string) *process {
	t.Helper()
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	w := newEnv(t, simulator.Settings{})
	config := configFor(w.sim, w.url, filepath.Join(w.dir, "data"))
	config = replaceOnce(t, config, fmt.Sprintf("api_url: %q", w.url), fmt.Sprintf("api_url: %q", server.URL))
	w.write("config.yaml", config+strings.Join(settings, "\n")+"\n")
	w.importLines(`{"name":"acme","kind":"standalone_key","api_key":"key"}`)
	return w.serve()
}

// status returns a number from /proc/PID/status, in KiB.
func (p *process) status(name string) int64 {
	p.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + name + `:\s+([0-9]+)`).FindSubmatch(raw)
	if m == nil {
		p.t.Fatalf("/proc has no %s", name)
	}
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

const (
	gigabyte = 1 << 30
	// residentLimit is the memory that the program may use for bodies of any size.
	residentLimit = 64 << 10 // KiB
)

// zeros yields n bytes.
func zeros(n int64) io.Reader { return io.LimitReader(endless{}, n) }

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestGigabyteBothWays(t *testing.T) {
	p := startBehind(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("X-Received", fmt.Sprint(n))
		if r.Method == http.MethodGet {
			_, _ = io.Copy(w, zeros(gigabyte))
		}
	})
	tests := []struct {
		name, method     string
		length           int64 // of the body; -1: chunked
		sent, downloaded int64
	}{
		{"down", "GET", 0, 0, gigabyte},
		{"up", "POST", gigabyte, gigabyte, 0},
		{"up in chunks", "POST", -1, gigabyte, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := http.NewRequest(tt.method, "http://"+p.addresses["proxy"]+"/@acme/x", zeros(tt.sent))
			if err != nil {
				t.Fatal(err)
			}
			r.ContentLength = tt.length
			if tt.length == 0 {
				r.Body = nil
			}
			began := time.Now()
			res, err := client(t).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = res.Body.Close() }()
			n, err := io.Copy(io.Discard, res.Body)
			if err != nil || n != tt.downloaded || res.Header.Get("X-Received") != fmt.Sprint(tt.sent) {
				t.Errorf("down %d bytes, %v, up %s, want %d and %d", n, err, res.Header.Get("X-Received"), tt.downloaded, tt.sent)
			}
			t.Logf("%s took %v", tt.name, time.Since(began).Round(time.Millisecond))
		})
	}
	peak := p.status("VmHWM")
	t.Logf("resident memory at its peak: %d KiB", peak)
	if peak > residentLimit {
		t.Errorf("resident memory at its peak = %d KiB, want at most %d", peak, residentLimit)
	}
}

const (
	// slowClients is how many clients of each slow kind there are at once.
	slowClients = 200
	// visits is how often the slow clients connect and disconnect. Because the load of
	// the machine varies, only consecutive measurements are compared.
	visits = 9
)

func TestSlowClientsDoNotSlowOthers(t *testing.T) {
	p := startBehind(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/large" {
			_, _ = io.Copy(w, zeros(64<<20))
		}
	})
	c := client(t)
	measure(p, c) // warms up
	var ratios []float64
	for range visits {
		alone := measure(p, c)
		leave := p.connectSlowClients()
		beside := measure(p, c)
		leave()
		ratios = append(ratios, float64(beside)/float64(alone))
		t.Logf("a healthy request takes %v, and %v beside %d slow clients", alone, beside, 3*slowClients)
	}
	slices.Sort(ratios)
	t.Logf("ratios: %.2f", ratios)
	if median := ratios[len(ratios)/2]; median > 1.2 {
		t.Errorf("a healthy request takes %.2f times as long beside slow clients, want at most 1.2", median)
	}
	if peak := p.status("VmHWM"); peak > 4*residentLimit {
		t.Errorf("resident memory at its peak = %d KiB, want at most %d", peak, 4*residentLimit)
	}
}

// measure returns how long a healthy request takes: the median of many.
func measure(p *process, c *http.Client) time.Duration {
	p.t.Helper()
	var took []time.Duration
	for range 3000 {
		began := time.Now()
		if a, err := p.get(c, "acme", "/x"); err != nil || a.status != http.StatusOK {
			p.t.Fatalf("response = %d, %v, want 200", a.status, err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// connectSlowClients connects slow clients of every kind, until leave is called.
func (p *process) connectSlowClients() (leave func()) {
	p.t.Helper()
	var dripping, reading []net.Conn
	for range slowClients {
		dripping = append(dripping,
			p.dialSlow("GET /@acme/x HTTP/1.1\r\nHost: localhost\r\nX-Slow: "),
			p.dialSlow("POST /@acme/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"))
		reader := p.dialSlow("GET /@acme/large HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if _, err := bufio.NewReaderSize(reader, 16).ReadString('\n'); err != nil { // and no more than that
			p.t.Fatal(err)
		}
		reading = append(reading, reader)
	}
	stop := drip(dripping)
	return func() {
		stop()
		for _, conn := range slices.Concat(dripping, reading) {
			_ = conn.Close()
		}
	}
}

func (p *process) dialSlow(first string) net.Conn {
	p.t.Helper()
	conn, err := net.Dial("tcp", p.addresses["proxy"])
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, first); err != nil {
		p.t.Fatal(err)
	}
	return conn
}

// drip sends a byte on every connection five times a second, until stop is
// called.
func drip(conns []net.Conn) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			for _, conn := range conns {
				_, _ = io.WriteString(conn, "x") // the connection may have been closed, as it should
			}
		}
	})
	return func() { close(done); running.Wait() }
}

// TestManyConnectionsAtOnce has 200 clients for each of 50 connections send requests at
// once, repeatedly, while tokens rotate, and once all tokens expire together.
func TestManyConnectionsAtOnce(t *testing.T) {
	const connections, clients, rounds = 50, 200, 4
	// As many in flight as the file descriptors of the test and the program allow.
	const onTheWire = 2000
	life := simulator.Duration(4 * time.Second)
	w := newEnv(t, simulator.Settings{OAuth: simulator.OAuthSettings{AccessTokenLifetime: life}}, "log: {level: warn}")
	var lines, companies []string
	for i := range connections {
		g, line := w.grant(fmt.Sprint("c", i), simulator.GrantRequest{})
		lines, companies = append(lines, line), append(companies, g.Company)
	}
	w.importLines(lines...)
	p := w.serve()
	transport := &http.Transport{MaxIdleConnsPerHost: onTheWire, MaxConnsPerHost: onTheWire}
	defer transport.CloseIdleConnections()
	l := &load{p: p, client: &http.Client{Transport: transport}}
	for round := range rounds {
		if round == 1 {
			w.sim.KillAccessTokens("", "")
		}
		var running sync.WaitGroup
		for i := range connections {
			for range clients {
				running.Go(func() { l.one(fmt.Sprint("c", i), companies[i]) })
			}
		}
		running.Wait()
	}
	if failed := l.failed.Load(); failed != nil {
		t.Errorf("one of %d requests: %s; want 200 for all", l.sent.Load(), *failed)
	}
	counters := w.sim.Counters()
	if counters.WrongCompany != 0 || counters.AuthorizationNotOnce != 0 {
		t.Errorf("%d requests went to a wrong company and %d had not one Authorization, want none", counters.WrongCompany, counters.AuthorizationNotOnce)
	}
	if counters.Refreshes < connections {
		t.Errorf("%d refreshes, want at least %d: nothing has rotated", counters.Refreshes, connections)
	}
	w.checkAlive(1)
	t.Logf("%d requests, %d refreshes", l.sent.Load(), counters.Refreshes)
}

// usage is what a program must not accumulate over time.
type usage struct{ files, goroutines, resident int64 }

func (p *process) usage() usage {
	p.t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^go_goroutines ([0-9]+)`).FindStringSubmatch(p.admin("/metrics").body)
	if m == nil {
		p.t.Fatal("/metrics has no go_goroutines")
	}
	goroutines, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return usage{int64(len(files)), goroutines, p.status("VmRSS")}
}

// TestSoak mixes everything that clients do for a while, under rotation, and
// checks what is left when they are idle.
func TestSoak(t *testing.T) {
	const connections, workers = 50, 40
	settings := simulator.Settings{OAuth: simulator.OAuthSettings{AccessTokenLifetime: simulator.Duration(5 * time.Second)}}
	for i := range connections {
		settings.Companies = append(settings.Companies, simulator.Company{ID: fmt.Sprintf("%08d-0000-4000-8000-000000000000", i), Name: fmt.Sprintf("Company %d", i)})
	}
	w := newEnv(t, settings)
	var lines []string
	for i, company := range settings.Companies {
		_, line := w.grant(fmt.Sprintf("company-%d", i), simulator.GrantRequest{Company: company.ID})
		lines = append(lines, line)
	}
	w.importLines(lines...)
	p := w.serve()
	s := &soak{p: p, c: client(t)}
	s.run(workers, connections, 10*time.Second)
	before := p.idleUsage()
	s.run(workers, connections, *soakTime)
	after := p.idleUsage()
	t.Logf("%d requests, of which %d were given up; before %+v, after %+v", s.requests.Load(), s.left.Load(), before, after)
	if n := s.wrong.Load(); n > 0 {
		t.Errorf("%d responses other than 200", n)
	}
	if after.files > before.files+8 || after.goroutines > before.goroutines+8 || after.resident > before.resident*5/4+8<<10 {
		t.Errorf("after %v the program holds %+v, before %+v, want no more", *soakTime, after, before)
	}
	w.checkAlive(1)
}

// poolTime is longer than a connection to the API stays in the pool.
const poolTime = 100 * time.Second

// idleUsage returns the usage after idle connections have been closed.
func (p *process) idleUsage() usage {
	p.t.Helper()
	time.Sleep(poolTime)
	return p.usage()
}

type soak struct {
	p                     *process
	c                     *http.Client
	requests, left, wrong atomic.Int64
}

func (s *soak) run(workers, connections int, how time.Duration) {
	until := time.Now().Add(how)
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for time.Now().Before(until) {
				s.one(fmt.Sprintf("company-%d", rand.IntN(connections)))
			}
		})
	}
	running.Wait()
	s.c.CloseIdleConnections()
}

// one sends a request of a random kind.
func (s *soak) one(connection string) {
	s.requests.Add(1)
	switch rand.IntN(10) {
	case 0: // leaves in the middle
		conn, err := net.Dial("tcp", s.p.addresses["proxy"])
		if err != nil {
			s.wrong.Add(1)
			return
		}
		_, _ = fmt.Fprintf(conn, "POST /@%s/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf", connection)
		_ = conn.Close()
		s.left.Add(1)
	case 1: // a body that is kept in a file
		s.post(connection, zeros(1500<<10))
	case 2:
		s.post(connection, strings.NewReader("small"))
	default:
		a, err := s.p.get(s.c, connection, "/v2/employees")
		s.count(a.status, a.body, err)
	}
}

func (s *soak) post(connection string, body io.Reader) {
	res, err := s.c.Post("http://"+s.p.addresses["proxy"]+"/@"+connection+"/echo", "text/plain", body)
	if err != nil {
		s.count(0, "", err)
		return
	}
	var begin strings.Builder
	_, err = io.CopyN(&begin, res.Body, 1000)
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
	}
	_ = res.Body.Close()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	s.count(res.StatusCode, begin.String(), err)
}

func (s *soak) count(status int, body string, err error) {
	if err != nil || status != http.StatusOK {
		if s.wrong.Add(1) == 1 {
			s.p.t.Logf("the first wrong response, at %v: %d, %v\n%s", time.Now().UTC(), status, err, body)
		}
	}
}
