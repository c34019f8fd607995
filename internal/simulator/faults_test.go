package simulator

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestFaultsAtTheTokenEndpoint(t *testing.T) {
	tests := []struct {
		name          string
		fault         Fault
		wantStatus    int // 0: no complete response
		wantCommitted bool
		wantOutcome   string
	}{
		{"drop before", Fault{Kind: FaultDrop}, 0, false, "dropped"},
		{"drop after", Fault{Kind: FaultDrop, When: AfterCommit}, 0, true, "dropped"},
		{"reset before", Fault{Kind: FaultReset}, 0, false, "reset"},
		{"reset after", Fault{Kind: FaultReset, When: AfterCommit}, 0, true, "reset"},
		{"truncate", Fault{Kind: FaultTruncate, Cut: 20}, 0, true, "cut"},
		{"truncate and reset", Fault{Kind: FaultTruncate, Cut: 20, CutReset: true}, 0, true, "cut_reset"},
		{"status", Fault{Kind: FaultStatus, Status: 503}, 503, false, "503"},
		{"status after", Fault{Kind: FaultStatus, Status: 500, When: AfterCommit}, 500, true, "500"},
		{"html", Fault{Kind: FaultHTML}, 200, false, "200"},
		{"garbage", Fault{Kind: FaultGarbage, When: AfterCommit}, 200, true, "200"},
		{"unauthorized", Fault{Kind: FaultUnauthorized}, 401, false, "401"},
		{"delay", Fault{Kind: FaultDelay, Delay: Duration(time.Millisecond)}, 200, true, "200"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newEnv(t, Settings{})
			g := b.grant(GrantRequest{})
			b.fault(tt.fault)
			a, err := b.form("/oauth/token", refreshForm(g.RefreshToken))
			if (err == nil) != (tt.wantStatus != 0) || (err == nil && a.status != tt.wantStatus) {
				t.Errorf("response = %d, %v; want %d", a.status, err, tt.wantStatus)
			}
			c := b.Counters()
			if got := c.Refreshes == 1; got != tt.wantCommitted {
				t.Errorf("committed = %v, want %v", got, tt.wantCommitted)
			}
			if c.TokenRequests[tt.wantOutcome] != 1 || c.MaxTimesSent != 1 {
				t.Errorf("counters = %v with a token sent %d times, want one %s", c.TokenRequests, c.MaxTimesSent, tt.wantOutcome)
			}
		})
	}
}

func TestResetIsAReset(t *testing.T) {
	b := newEnv(t, Settings{})
	b.fault(Fault{Kind: FaultReset, When: AfterCommit})
	_, err := b.form("/oauth/token", refreshForm(b.grant(GrantRequest{}).RefreshToken))
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("error = %v, want a connection reset", err)
	}
}

func TestTruncatedResponses(t *testing.T) {
	whole := newEnv(t, Settings{})
	length := len(whole.refresh(whole.grant(GrantRequest{}).RefreshToken).body)
	for _, cut := range []int{0, 1, length / 2, length - 1} {
		b := newEnv(t, Settings{})
		b.fault(Fault{Kind: FaultTruncate, Cut: cut})
		a, err := b.form("/oauth/token", refreshForm(b.grant(GrantRequest{}).RefreshToken))
		if !errors.Is(err, io.ErrUnexpectedEOF) || a.status != 200 || len(a.body) != cut {
			t.Errorf("cut at %d: %d with %d bytes, %v; want 200 with the cut and an unexpected EOF", cut, a.status, len(a.body), err)
		}
	}
}

func TestTruncatedAfterTheRefreshToken(t *testing.T) {
	for _, first := range []bool{false, true} {
		b := newEnv(t, Settings{OAuth: OAuthSettings{RefreshTokenFirst: first}})
		b.fault(Fault{Kind: FaultTruncate, CutAfter: "refresh_token", Count: 1})
		a, _ := b.form("/oauth/token", refreshForm(b.grant(GrantRequest{}).RefreshToken))
		_, tail, found := strings.Cut(a.body, `"refresh_token":"`)
		if !found || !strings.HasSuffix(tail, `"`) || strings.Contains(a.body, "access_token") == first {
			t.Fatalf("body = %q, want it to end with the whole refresh token", a.body)
		}
		b.mustRefresh(strings.TrimSuffix(tail, `"`))
	}
}

func TestRetryAfter(t *testing.T) {
	b := newEnv(t, Settings{})
	wait := Duration(90 * time.Second)
	date := b.clock().Add(90 * time.Second).Format(http.TimeFormat)
	for form, want := range map[string]string{"": "", "none": "", "seconds": "90", "date": date} {
		b.fault(Fault{Kind: FaultStatus, Status: 429, RetryAfter: form, Wait: wait, Target: TargetAll})
		for name, a := range map[string]received{
			"token": b.refresh("x"), "introspection": b.introspect("x"), "api": b.api("GET", "/v2/employees", "", "x"),
		} {
			if a.status != 429 || a.header.Get("Retry-After") != want {
				t.Errorf("%s, form %q: %d with Retry-After %q, want 429 with %q", name, form, a.status, a.header.Get("Retry-After"), want)
			}
		}
		b.ClearFaults()
	}
}

func TestFaultsChooseTheirRequests(t *testing.T) {
	b := newEnv(t, Settings{})
	one, other := b.grant(GrantRequest{}), b.grant(GrantRequest{})
	tests := []struct {
		name  string
		fault Fault
		path  string
		token string
		want  []int // statuses of requests in a row
	}{
		{"count", Fault{Count: 2}, "/v1/introspect", one.AccessToken, []int{401, 401, 200}},
		{"until cleared", Fault{}, "/v1/introspect", one.AccessToken, []int{401, 401, 401}},
		{"its grant", Fault{Grant: one.ID}, "/v1/introspect", one.AccessToken, []int{401}},
		{"another grant", Fault{Grant: one.ID}, "/v1/introspect", other.AccessToken, []int{200}},
		{"its path", Fault{Path: "/v2/"}, "/v2/employees", one.AccessToken, []int{401}},
		{"another path", Fault{Path: "/v2/"}, "/v1/introspect", one.AccessToken, []int{200}},
		{"another target", Fault{Target: TargetToken}, "/v1/introspect", one.AccessToken, []int{200}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.fault.Kind = FaultUnauthorized
			tt.fault.Target = cmp.Or(tt.fault.Target, TargetAPI)
			b.fault(tt.fault)
			defer b.ClearFaults()
			for i, want := range tt.want {
				if a := b.api("GET", tt.path, "", tt.token); a.status != want {
					t.Errorf("request %d = %d, want %d", i, a.status, want)
				}
			}
		})
	}
}

func TestInvalidFaultsAreRejected(t *testing.T) {
	b := newEnv(t, Settings{})
	for name, f := range map[string]Fault{
		"no kind":             {},
		"unknown kind":        {Kind: "explode"},
		"unknown target":      {Kind: FaultDrop, Target: "moon"},
		"unknown time":        {Kind: FaultDrop, When: "later"},
		"no status":           {Kind: FaultStatus},
		"truncated too early": {Kind: FaultTruncate, When: BeforeCommit},
		"negative count":      {Kind: FaultDrop, Count: -1},
		"unknown retry_after": {Kind: FaultStatus, Status: 429, RetryAfter: "soon"},
	} {
		if _, err := b.SetFault(f); err == nil {
			t.Errorf("%s: SetFault(%+v) succeeded", name, f)
		}
	}
	if got := len(b.faults.list()); got != 0 {
		t.Errorf("%d faults are set, want none", got)
	}
}

// hangRefresh starts a refresh that hangs, and returns when it has reached the
// phase.
func hangRefresh(ctx context.Context, b *env, g Grant, f Fault, phase string) (done <-chan error) {
	b.t.Helper()
	b.fault(f)
	req, err := http.NewRequestWithContext(ctx, "POST", b.url+"/oauth/token", strings.NewReader(refreshForm(g.RefreshToken).Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Authorization", b.basic())
	result := make(chan error, 1)
	go func() {
		resp, err := b.client.Do(req)
		if err == nil {
			err = resp.Body.Close()
		}
		result <- err
	}()
	b.await(phase)
	return result
}

func (b *env) await(phase string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 5*time.Second)
	defer cancel()
	if _, err := b.AwaitEvent(ctx, 0, func(e Event) bool { return e.Phase == phase }); err != nil {
		b.t.Fatalf("waiting for %q: %v", phase, err)
	}
}

func TestHangUntilReleased(t *testing.T) {
	b := newEnv(t, Settings{})
	g := b.grant(GrantRequest{})
	done := hangRefresh(t.Context(), b, g, Fault{Kind: FaultHang, When: AfterCommit}, PhaseCommitted)
	b.wantToken(g.AccessToken, http.StatusUnauthorized) // committed, although no response was sent
	if got := b.Counters().Grants[g.ID].MaxRefreshesInFlight; got != 1 {
		t.Errorf("max refreshes in flight = %d, want 1", got)
	}
	if err := b.ClearFault(b.faults.list()[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("the released refresh: %v", err)
	}
}

// TestClientDisconnectsBeforeTheCommit is what a client that crashes before the
// commit looks like.
func TestClientDisconnectsBeforeTheCommit(t *testing.T) {
	for abandon, want := range map[bool]int{true: 0, false: 1} {
		b := newEnv(t, Settings{})
		g := b.grant(GrantRequest{})
		ctx, disconnect := context.WithCancel(t.Context())
		done := hangRefresh(ctx, b, g, Fault{Kind: FaultHang, Abandon: abandon, Count: 1}, PhaseDelayed)
		disconnect()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the refresh ended with %v, want it canceled", err)
		}
		if !abandon {
			b.ClearFaults()
		}
		b.await(PhaseResponded)
		if got := b.Counters().Refreshes; got != want {
			t.Errorf("abandon %v: committed = %d, want %d", abandon, got, want)
		}
	}
}

// pipeListener is a listener of in-memory connections, for tests with a fake clock.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{make(chan net.Conn), make(chan struct{})}
}

func (l *pipeListener) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	l.conns <- server
	return client, nil
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func TestDelaysWithFakeClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim, err := New(Config{Settings: Settings{Latency: Duration(time.Second)}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sim.SetFault(Fault{Kind: FaultDelay, Target: TargetAPI, Delay: Duration(time.Hour), Count: 1}); err != nil {
			t.Fatal(err)
		}
		g, err := sim.IssueGrant(GrantRequest{AccessTokenLifetime: Duration(time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		ln := newPipeListener()
		server := &http.Server{Handler: sim.Handler()}
		go func() { _ = server.Serve(ln) }()
		defer server.Close()
		client := &http.Client{Transport: &http.Transport{DialContext: ln.dial, DisableKeepAlives: true}}
		for i, want := range []time.Duration{time.Hour + time.Second, time.Second} {
			start := time.Now()
			if got := statusOf(t, client, "http://pleo/v1/introspect", g.AccessToken); got != []int{200, 401}[i] {
				t.Errorf("request %d = %d", i, got) // the access token expires during the delay
			}
			if got := time.Since(start); got != want {
				t.Errorf("request %d took %v, want %v", i, got, want)
			}
		}
		statusOf(t, client, "http://pleo/_control/counters", "") // accepts in-memory connections too
	})
}

func statusOf(t *testing.T, client *http.Client, url, token string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestEventsOfARefresh(t *testing.T) {
	b := newEnv(t, Settings{})
	g := b.grant(GrantRequest{})
	events, stop := b.Subscribe()
	defer stop()
	b.mustRefresh(g.RefreshToken)
	b.refresh("unknown")
	want := []string{
		PhaseReceived + " " + g.ID, PhaseCommitted + " " + g.ID, PhaseResponded + " " + g.ID,
		PhaseReceived + " ", PhaseRejected + " ", PhaseResponded + " ",
	}
	for i, w := range want {
		e := <-events
		if got := e.Phase + " " + e.Grant; got != w || e.Seq != int64(i+1) {
			t.Errorf("event %d = %q with number %d, want %q", i, got, e.Seq, w)
		}
		if i < 3 && e.TokenHash != hashOf(g.RefreshToken) {
			t.Errorf("event %d is about token %q", i, e.TokenHash)
		}
	}
}

func TestOldEventsAreDropped(t *testing.T) {
	l := newEventLog()
	for range 3 * maxEvents {
		l.add(Event{})
	}
	kept, _ := l.since(0)
	if last := kept[len(kept)-1].Seq; len(kept) > maxEvents || last != 3*maxEvents {
		t.Errorf("%d events up to number %d, want at most %d up to %d", len(kept), last, maxEvents, 3*maxEvents)
	}
}
