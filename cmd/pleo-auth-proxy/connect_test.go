package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/api"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/connect"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/freeport"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// returnURL is the return URL of links in the tests.
const returnURL = "https://books.example.com/pleo/done?from=pleo"

// connectEnv is an env with pages for customers.
type connectEnv struct {
	*env
	public string // the URL of the pages
}

// newConnectEnv returns a connectEnv with further lines of configuration. Its
// simulator has a client with the redirect URI of the pages.
func newConnectEnv(t testing.TB, settings simulator.Settings, lines ...string) *connectEnv {
	t.Helper()
	public := "http://" + freeAddress(t)
	if len(settings.Clients) == 0 {
		settings.Clients = []simulator.Client{{
			ID: simulator.DefaultClientID, Secret: simulator.DefaultClientSecret,
			Name: "Fjord Books", RedirectURIs: []string{public + "/oauth/callback"},
		}}
	}
	lines = append([]string{fmt.Sprintf(`connect:
  listen: %q
  public_url: %q
  return_urls: [%q]
  branding: {name: Fjord Books}`, strings.TrimPrefix(public, "http://"), public, returnURL)}, lines...)
	w := newEnv(t, settings, lines...)
	raw, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.write(filepath.Base(w.config), replaceOnce(t, string(raw), "oauth: {", "oauth: {scopes: [users:read, companies:read, export-jobs:read, export-jobs:write, export-items:read], "))
	return &connectEnv{env: w, public: public}
}

// freeAddress returns an unused address of this machine: the configuration contains
// the public URL before the pages are served.
func freeAddress(t testing.TB) string {
	t.Helper()
	address, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// add creates a connection without a credential.
func (w *connectEnv) add(name, kind, tenant string) {
	w.t.Helper()
	if code, _, stderr := w.run("", "connections", "add", name, "--kind", kind, "--external-tenant", tenant); code != exitDone {
		w.t.Fatalf("connections add %s exits %d:\n%s", name, code, stderr)
	}
}

// connectLink returns the link that the command connect prints.
func (w *connectEnv) connectLink(name string, flags ...string) string {
	w.t.Helper()
	code, stdout, stderr := w.run("", append([]string{"connect", name}, flags...)...)
	link, rest, _ := strings.Cut(stdout, "\n")
	if code != exitDone || rest != "" || !strings.HasPrefix(link, w.public+"/connect/") {
		w.t.Fatalf("connect %s exits %d and prints %q, want only a link:\n%s", name, code, stdout, stderr)
	}
	return link
}

// inStore opens the store as a command does, while a server runs.
func (w *connectEnv) inStore(work func(context.Context, credstore.Store) error) {
	w.t.Helper()
	p := program{stdout: io.Discard, stderr: io.Discard, environ: []string{"HOME=" + w.dir}, configPath: w.config}
	if err := withStore(w.t.Context(), &p, func(_ *config.Config, v *setup.OpenedStore) error { return work(w.t.Context(), v.Store.Store) }); err != nil {
		w.t.Fatal(err)
	}
}

// ask requests the companies that the connection has access to.
func (p *process) ask(connection string) response {
	p.t.Helper()
	a, err := p.get(client(p.t), connection, "/v1/companies")
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

// customer is a browser that keeps cookies, follows redirects and records the URLs that
// it was redirected to. At Pleo it chooses a company.
type customer struct {
	w       *connectEnv
	http    *http.Client
	company string // name or id; empty: the first one

	mu     sync.Mutex // guards visits and pages
	visits []*url.URL
	pages  strings.Builder // headers and bodies of all responses
}

func (w *connectEnv) customer(company string) *customer {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	c := &customer{w: w, company: company, http: client(w.t)}
	c.http.Jar = jar
	c.http.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if r.URL.Path == "/oauth/authorize" && c.company != "" {
			r.URL.RawQuery += "&sim_company=" + url.QueryEscape(c.company)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.visits = append(c.visits, r.URL)
		return nil
	}
	return c
}

// open loads the page at the link. click submits its form. Both return the page at the
// end of all redirects.
func (c *customer) open(link string) string { return c.load(http.MethodGet, link, nil) }

func (c *customer) click(link string, form url.Values) string {
	return c.load(http.MethodPost, link, form)
}

func (c *customer) load(method, link string, form url.Values) string {
	r, err := http.NewRequest(method, link, strings.NewReader(form.Encode()))
	if err != nil {
		c.w.t.Error(err)
		return ""
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := c.http.Do(r)
	if err != nil {
		c.w.t.Error(err)
		return ""
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.w.t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(&c.pages, "%v\n%s\n", res.Header, body)
	return string(body)
}

// TestF22ThroughThePages checks consents while requests cause refreshes.
func TestF22ThroughThePages(t *testing.T) {
	newerGrantWins(t, func(w *connectEnv, p *process, links []string) func(string) {
		w.linksFor(links)
		shared := client(t)
		return func(name string) { _, _ = p.get(shared, name, "/v1/companies") }
	})
}

// TestF22ThroughTheAPI checks consents with links from the API while the back office
// requests refreshes.
func TestF22ThroughTheAPI(t *testing.T) {
	newerGrantWins(t, func(w *connectEnv, p *process, links []string) func(string) {
		b := w.adminAPI(p)
		for i := range links {
			var made api.LinkResponse
			b.request("POST", fmt.Sprintf("/c%d/link", i), "", 200, &made)
			links[i] = *made.ConnectURL
		}
		return func(name string) { _, _ = b.try("POST", "/"+name+"/refresh", "") }
	})
}

// newerGrantWins is F22: 100 consents during a refresh of the same connection. No
// consent is overwritten, and no refresh token is sent twice. begin fills in the links
// and returns a function that causes a refresh.
func newerGrantWins(t *testing.T, begin func(w *connectEnv, p *process, links []string) (refresh func(name string))) {
	const trials, together = 100, 25
	w := newConnectEnv(t, simulator.Settings{})
	old := make([]simulator.Grant, trials)
	lines, links := make([]string, trials), make([]string, trials)
	for i := range trials {
		g, err := w.sim.IssueGrant(simulator.GrantRequest{})
		if err != nil {
			t.Fatal(err)
		}
		old[i] = g
		lines[i] = fmt.Sprintf(`{"name":"c%d","kind":"oauth","refresh_token":%q,"access_token":%q,"expires_at":"2020-01-01T00:00:00Z","company_id":%q}`,
			i, g.RefreshToken, g.AccessToken, g.Company)
	}
	w.importLines(lines...)
	p := w.serve()
	refresh := begin(w, p, links)
	if _, err := w.sim.SetFault(simulator.Fault{Kind: simulator.FaultDelay, Delay: simulator.Duration(200 * time.Millisecond)}); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for i := range trials {
		name, person := fmt.Sprint("c", i), w.customer(old[i].Company)
		running.Go(func() { refresh(name) })
		running.Go(func() {
			time.Sleep(time.Duration(i%together) * 16 * time.Millisecond) // before, during and after
			if page := person.click(links[i], nil); !strings.Contains(page, "Connected") {
				t.Errorf("%s: %s", name, page)
			}
		})
		if i%together == together-1 {
			running.Wait()
		}
	}
	w.sim.ClearFaults()
	w.checkNotOverwritten(p, old)
}

// checkNotOverwritten revokes the grants from before the consents and checks that the
// connections still work.
func (w *connectEnv) checkNotOverwritten(p *process, old []simulator.Grant) {
	w.t.Helper()
	overwritten, shared := 0, client(w.t)
	for i, g := range old {
		_ = w.sim.RevokeGrant(g.ID)
		if a, err := p.get(shared, fmt.Sprint("c", i), "/v1/companies"); err != nil || a.status != 200 {
			overwritten++
		}
	}
	if overwritten > 0 {
		w.t.Errorf("%d of %d consents were overwritten by a refresh, want none", overwritten, len(old))
	}
	for hash, token := range w.sim.Counters().RefreshTokens {
		if token.TimesSent > 1 {
			w.t.Errorf("refresh token %s was sent %d times, want once", hash[:8], token.TimesSent)
		}
	}
}

// linksFor issues links for the connections c0, c1 and so on.
func (w *connectEnv) linksFor(links []string) {
	w.t.Helper()
	public, err := url.Parse(w.public)
	if err != nil {
		w.t.Fatal(err)
	}
	w.inStore(func(ctx context.Context, store credstore.Store) error {
		issuer := connect.NewLinkIssuer(connect.LinkIssuerConfig{Store: store.Links, PublicURL: public})
		for i := range links {
			c, err := store.Connections.Find(ctx, fmt.Sprint("c", i))
			if err != nil {
				return err
			}
			if links[i], _, err = issuer.Issue(ctx, c.ID, credstore.LinkRequest{}); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestF23ThroughThePages checks that a connection which is removed during a consent
// stays removed.
func TestF23ThroughThePages(t *testing.T) {
	w := newConnectEnv(t, simulator.Settings{})
	w.add("acme", "oauth", "Acme Holding")
	w.serve()
	link := w.connectLink("acme")
	fault, err := w.sim.SetFault(simulator.Fault{Kind: simulator.FaultHang})
	if err != nil {
		t.Fatal(err)
	}
	page := make(chan string, 1)
	go func() { page <- w.customer("").click(link, nil) }()
	w.awaitRequest("/oauth/token")
	if code, _, stderr := w.run("", "connections", "remove", "acme"); code != exitDone {
		t.Fatalf("connections remove exits %d:\n%s", code, stderr)
	}
	if err := w.sim.ClearFault(fault.ID); err != nil {
		t.Fatal(err)
	}
	if got := <-page; !strings.Contains(got, "This link is not valid") {
		t.Errorf("the page is:\n%s", got)
	}
	if code, _, _ := w.run("", "connections", "show", "acme"); code != exitNotFound {
		t.Errorf("connections show exits %d, want %d: it was removed", code, exitNotFound)
	}
	left, err := os.ReadDir(filepath.Join(w.dir, "data", "spool"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		if strings.HasSuffix(entry.Name(), ".pair") {
			t.Errorf("%s is left in the spool", entry.Name())
		}
	}
}

// connectURL returns the connect_url in the response to a request.
func (p *process) connectURL(connection string) string {
	p.t.Helper()
	a := p.ask(connection)
	var doc struct {
		Code       string `json:"code"`
		ConnectURL string `json:"connect_url"`
	}
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil || a.status != 401 {
		p.t.Fatalf("a request for %s: %d %s", connection, a.status, a.body)
	}
	return doc.ConnectURL
}

// TestConnectURLInProblems checks that there is one link for each credential.
func TestConnectURLInProblems(t *testing.T) {
	w := newConnectEnv(t, simulator.Settings{OAuth: simulator.OAuthSettings{IssuerInCallback: true}})
	w.add("acme", "oauth", "Acme Holding")
	p := w.serve()
	link := p.connectURL("acme")
	if !strings.HasPrefix(link, w.public+"/connect/") || p.connectURL("acme") != link || w.connectLink("acme") != link {
		t.Errorf("connect_url = %q, want one link, the same each time and from the command line", link)
	}
	if page := w.customer("").click(link, nil); !strings.Contains(page, "Connected") {
		t.Fatalf("the page of the link is:\n%s", page)
	}
	if a := p.ask("acme"); a.status != 200 {
		t.Errorf("a request after the consent: %d %s", a.status, a.body)
	}
	w.sim.RevokeGrants("")
	again := p.connectURL("acme")
	if again == link || !strings.HasPrefix(again, w.public) {
		t.Errorf("connect_url after the link was used = %q, want a link other than %q", again, link)
	}
	if page := w.customer("").click(again, nil); !strings.Contains(page, "Connected") {
		t.Errorf("the page of the second link is:\n%s", page)
	}
}

// TestIntrospectionWithoutIdentity checks that the authorization server is requested for the
// company of a consent, and that a key of an unknown company does not replace one that
// works.
func TestIntrospectionWithoutIdentity(t *testing.T) {
	w := newConnectEnv(t, simulator.Settings{})
	companies := w.sim.Companies()
	w.add("acme", "oauth", "Acme Holding")
	w.add("keyed", "standalone_key", "Keyed Holding")
	p := w.serve()
	own := companies[0].ID
	for name, form := range map[string]url.Values{"acme": nil, "keyed": {"key": {w.issueKey(own).Value}}} {
		if page := w.customer(own).click(w.connectLink(name), form); !strings.Contains(page, "is now connected") {
			t.Fatalf("%s is not connected:\n%s", name, page)
		}
	}
	w.fault(simulator.Fault{Target: "api", Path: "/v1/introspect", Kind: "status", Status: 200, Body: `{"data":{"authMethod":"API_KEY"}}`})
	for _, try := range []struct {
		name, company string
		form          url.Values
		text          string
	}{
		{"acme", companies[1].ID, nil, "You chose a different company"},
		{"acme", own, nil, "is now connected"},
		{"keyed", "", url.Values{"key": {w.issueKey(companies[1].ID).Value}}, "We could not tell which company this key is for"},
		{"keyed", "", url.Values{"key": {w.issueKey(own).Value}}, "We could not tell which company this key is for"},
	} {
		page := w.customer(try.company).click(w.connectLink(try.name), try.form)
		if !strings.Contains(page, try.text) {
			t.Errorf("%s for %s: the page does not contain %q:\n%s", try.name, try.company, try.text, page)
		}
		if a := p.ask(try.name); a.status != http.StatusOK || !strings.Contains(a.body, own) {
			t.Errorf("a request as %s after that: %d %s", try.name, a.status, a.body)
		}
	}
}

// TestConnectURLOnlyForKnownClients checks that a proxy without client authentication,
// which a network can reach, does not give out links.
func TestConnectURLOnlyForKnownClients(t *testing.T) {
	w := newConnectEnv(t, simulator.Settings{}, `proxy:
  client_networks: [127.0.0.0/8]`)
	raw, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	open := replaceOnce(t, string(raw), `proxy: {listen: "127.0.0.1:0"}`+"\n", "")
	w.write("config.yaml", replaceOnce(t, open, "proxy:\n", "proxy:\n  listen: 0.0.0.0:0\n"))
	w.add("acme", "oauth", "Acme Holding")
	p := w.serve()
	p.addresses["proxy"] = strings.Replace(p.addresses["proxy"], "[::]", "127.0.0.1", 1)
	if link := p.connectURL("acme"); link != "" {
		t.Errorf("connect_url = %q, want none", link)
	}
}

// TestPagesShowNoSecret checks that no page, log, history or list contains codes, states,
// tokens, keys or links.
func TestPagesShowNoSecret(t *testing.T) {
	w := newConnectEnv(t, simulator.Settings{}, "log: {level: debug}")
	w.add("acme", "oauth", "Acme Holding")
	w.add("keyed", "standalone_key", "Acme Holding")
	key, err := w.sim.IssueKey(simulator.Key{Company: w.sim.Companies()[0].ID})
	if err != nil {
		t.Fatal(err)
	}
	p := w.serve()
	person, links := w.customer(""), []string{w.connectLink("acme"), w.connectLink("keyed")}
	person.open(links[0])
	person.click(links[0], nil)
	person.open(links[0])
	const wrong = "pls_wrong-canary-W2k8"
	person.click(links[1], url.Values{"key": {wrong}})
	if page := person.click(links[1], url.Values{"key": {key.Value}}); !strings.Contains(page, "Connected") {
		t.Fatalf("the page of the key is:\n%s", page)
	}
	p.ask("acme")

	secrets := map[string]string{"key": key.Value, "wrong key": wrong, "client secret": simulator.DefaultClientSecret}
	for i, link := range links {
		secrets[fmt.Sprint("link ", i)] = strings.TrimPrefix(link, w.public+"/connect/")
	}
	for _, visited := range person.visits {
		for _, name := range []string{"code", "state"} {
			if value := visited.Query().Get(name); value != "" {
				secrets[name] = value
			}
		}
	}
	texts := map[string]string{"pages": person.pages.String()}
	w.inStore(func(ctx context.Context, store credstore.Store) error {
		for _, name := range []string{"acme", "keyed"} {
			c, err := store.Connections.Find(ctx, name)
			if err != nil {
				return err
			}
			state, err := store.Connections.Read(ctx, c.ID)
			if err != nil {
				return err
			}
			secrets[name+" access"], secrets[name+" refresh"] = state.Credential.AccessToken.Reveal(), state.Credential.RefreshToken.Reveal()
			history, err := store.History.Events(ctx, c.ID, "", 200)
			if err != nil {
				return err
			}
			texts["history of "+name] = fmt.Sprintf("%+v", history)
		}
		return nil
	})
	_, texts["list"], _ = w.run("", "--json", "connections", "list")
	if code := p.stop(); code != exitDone {
		t.Errorf("the server exits %d", code)
	}
	texts["log"] = p.log.String()
	if len(secrets["code"]) < 8 || len(secrets["state"]) < 43 || len(secrets["acme refresh"]) < 8 {
		t.Fatalf("the test knows only some of the secrets: %v", slices.Sorted(maps.Keys(secrets)))
	}
	for where, text := range texts {
		for name, secret := range secrets {
			if secret != "" && strings.Contains(text, secret) {
				t.Errorf("the %s appears in the %s", name, where)
			}
		}
	}
}

// TestBadConnectClientsDoNotAffectOthers checks the proxy listener and the pages during
// 1,000 invalid requests and with 200 slow clients of the pages.
func TestBadConnectClientsDoNotAffectOthers(t *testing.T) {
	w := newConnectEnv(t, simulator.Settings{})
	_, line := w.grant("acme", simulator.GrantRequest{})
	w.importLines(line)
	w.add("later", "oauth", "Acme Holding")
	w.add("flooded", "oauth", "Acme Holding")
	p := w.serve()
	link, flooded := w.connectLink("later"), w.connectLink("flooded")
	address := strings.TrimPrefix(w.public, "http://")
	var slow []net.Conn
	for i := range 200 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		head := "GET / HTTP/1.1\r\nHost: " + address
		if i%2 == 0 {
			head = "POST " + strings.TrimPrefix(flooded, w.public) + " HTTP/1.1\r\nHost: " + address + "\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nkey="
		}
		fmt.Fprint(conn, head)
		slow = append(slow, conn)
	}
	var running sync.WaitGroup
	bad := client(t)
	for i := range 20 {
		running.Go(func() {
			for j := range 50 {
				badRequest(bad, w.public, flooded, i*50+j)
			}
		})
	}
	good, began := client(t), time.Now()
	for range 200 {
		if a, err := p.get(good, "acme", "/v1/companies"); err != nil || a.status != 200 {
			t.Fatalf("a request at the same time: %+v, %v", a, err)
		}
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("200 sequential requests took %v", took)
	}
	running.Wait()
	if page := w.customer("").click(link, nil); !strings.Contains(page, "Connected") {
		t.Errorf("the page at the same time is:\n%s", page)
	}
	if len(slow) != 200 {
		t.Error("slow clients are missing")
	}
}

// badRequest sends invalid request n and ignores the response.
func badRequest(c *http.Client, public, link string, n int) {
	requests := []func() (*http.Request, error){
		func() (*http.Request, error) {
			return http.NewRequest("GET", public+"/connect/"+strings.Repeat("x", n), nil)
		},
		func() (*http.Request, error) {
			return http.NewRequest("GET", public+"/oauth/callback?code=x&state="+strings.Repeat("A", 43), nil)
		},
		func() (*http.Request, error) {
			return http.NewRequest("POST", link+"?", strings.NewReader(strings.Repeat("key=", 5000)))
		},
		func() (*http.Request, error) { return http.NewRequest("PUT", link, nil) },
		func() (*http.Request, error) {
			r, err := http.NewRequest("GET", link, nil)
			if err == nil {
				r.Host = "evil.example.com"
				r.Header.Set("Cookie", strings.Repeat("pleo-browser=x; ", 500))
			}
			return r, err
		},
	}
	r, err := requests[n%len(requests)]()
	if err != nil {
		return
	}
	res, err := c.Do(r)
	if err == nil {
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
}
