package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/testca"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/api"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// adminAPI is a client of a server's JSON API with the admin token.
type adminAPI struct {
	t     testing.TB
	at    string // URL of the admin listener
	token string
}

// adminAPI returns a client of the process's API.
func (w *env) adminAPI(p *process) *adminAPI {
	w.t.Helper()
	token, err := os.ReadFile(filepath.Join(w.dir, "data", "admin-token"))
	if err != nil {
		w.t.Fatal(err)
	}
	return &adminAPI{t: w.t, at: "http://" + p.addresses["admin"], token: strings.TrimSpace(string(token))}
}

// request sends a request with the admin token and decodes the response into v if that
// is not nil and the status is as wanted.
func (b *adminAPI) request(method, path, body string, want int, v any) string {
	b.t.Helper()
	a, err := b.try(method, path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	if a.status != want {
		b.t.Fatalf("%s %s = %d, want %d: %s", method, path, a.status, want, a.body)
	}
	if v != nil {
		if err := json.Unmarshal([]byte(a.body), v); err != nil {
			b.t.Fatalf("%s %s = %s: %v", method, path, a.body, err)
		}
	}
	return a.body
}

// try sends a request about connections with the admin token.
func (b *adminAPI) try(method, path, body string) (response, error) {
	r, err := http.NewRequest(method, b.at+"/api/v1/connections"+path, strings.NewReader(body))
	if err != nil {
		return response{}, err
	}
	r.Header.Set("Authorization", "Bearer "+b.token)
	r.Header.Set("Content-Type", "application/json")
	return send(client(b.t), r)
}

// consent gives consent by a link, as a customer does.
func consent(t testing.TB, link string) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := client(t)
	browser.Jar = jar
	for _, step := range []func() (*http.Response, error){
		func() (*http.Response, error) { return browser.Get(link) },
		func() (*http.Response, error) { return browser.PostForm(link, url.Values{}) },
	} {
		response, err := step()
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("a page on the way = %d: %v\n%s", response.StatusCode, err, body)
		}
	}
}

// TestAdminAPI manages a connection with the API alone: it is created, connected by
// its customer, used, refreshed, disabled, connected again, and removed.
func TestAdminAPI(t *testing.T) {
	w := newConnectEnv(t, simulator.Settings{})
	p := w.serve()
	b := w.adminAPI(p)
	var created api.CreateResponse
	b.request("POST", "", fmt.Sprintf(`{"name":"acme","kind":"oauth","external_tenant":"4711","return_url":%q}`, returnURL), 201, &created)
	if created.Connection.Status != "pending" || created.ConnectURL == nil || !strings.HasPrefix(*created.ConnectURL, w.public+"/connect/") {
		t.Fatalf("created %+v, want it pending with a link to %s", created, w.public)
	}
	var again api.CreateResponse
	b.request("POST", "", fmt.Sprintf(`{"name":"acme","kind":"oauth","external_tenant":"4711","return_url":%q}`, returnURL), 200, &again)
	if *again.ConnectURL != *created.ConnectURL {
		t.Errorf("the link of a repeated request is %s, want %s", *again.ConnectURL, *created.ConnectURL)
	}
	b.request("POST", "", `{"name":"other","kind":"oauth","return_url":"https://evil.example.com"}`, 400, nil)
	b.request("GET", "/other", "", 404, nil) // nothing was created

	consent(t, *created.ConnectURL)
	c := p.connection("acme")
	if c.Status != "active" || c.CompanyID == nil {
		t.Fatalf("after consent the connection is %+v, want it active with a company", c)
	}
	if a, err := p.get(client(t), "acme", "/v2/employees"); err != nil || a.status != 200 {
		t.Fatalf("a request with the connection = %d %v, want 200", a.status, err)
	}
	var checkup manage.CredentialCheck
	b.request("POST", "/acme/check", "", 200, &checkup)
	if !checkup.Healthy || len(checkup.Findings) != 2 {
		t.Errorf("a check finds %+v, want two parts and all well", checkup)
	}
	var after manage.Connection
	b.request("POST", "/acme/refresh", "{}", 200, &after)
	if *after.Version <= *c.Version {
		t.Errorf("after a refresh the version is %d, want more than %d", *after.Version, *c.Version)
	}
	b.request("POST", "/acme/disable", "", 200, &after)
	b.request("POST", "/acme/disable", "", 200, &after) // as after a lost response
	if after.Status != "disabled" || *after.Reason != "operator" {
		t.Errorf("disabled it is %s, want disabled by the operator", after.Status)
	}
	b.request("POST", "/acme/refresh", "", 409, nil)
	p.await(t, "acme", "/v2/employees", 403)
	b.request("POST", "/acme/enable", "", 200, &after)
	p.await(t, "acme", "/v2/employees", 200)

	var link api.LinkResponse
	b.request("POST", "/acme/link", "", 200, &link)
	consent(t, *link.ConnectURL)
	if again := p.connection("acme"); *again.Version <= *after.Version || again.Status != "active" {
		t.Errorf("connected again it is %+v, want a newer version than %d", again, *after.Version)
	}
	var history manage.History
	b.request("GET", "/acme/history?limit=200", "", 200, &history)
	for _, want := range []string{"connection.created by back office", "connection.connected by customer", "connection.refreshed by proxy", "connection.disabled by back office"} {
		if !strings.Contains(didWhat(history), want) {
			t.Errorf("the history lacks %q:\n%s", want, didWhat(history))
		}
	}
	var gone struct{ Uninstalled bool }
	b.request("DELETE", "/acme?uninstall=1", "", 200, &gone)
	if !gone.Uninstalled || w.liveGrants() != 0 {
		t.Errorf("removed with uninstalled = %v, and %d grants live on at Pleo, want none", gone.Uninstalled, w.liveGrants())
	}
	b.request("DELETE", "/acme", "", 404, nil)
	b.request("GET", "/acme", "", 404, nil)
	b.request("GET", "/acme/history?limit=1", "", 200, &history)
	if got := didWhat(history); got != "connection.removed by back office\n" {
		t.Errorf("the history of one that was removed begins with %q, want that", got)
	}
	if code, stdout, stderr := w.run("", "connections", "history", "acme"); code != exitDone || !strings.Contains(stdout, "connection.removed") || !strings.Contains(stderr, "was removed") {
		t.Errorf("connections history of one that was removed exits %d, want 0, its history, and that it was removed:\n%s%s", code, stdout, stderr)
	}
	if code := p.stop(); code != exitDone {
		t.Errorf("the server exits %d, want 0", code)
	}
	for _, secret := range []string{b.token, *created.ConnectURL, *link.ConnectURL} {
		if strings.Contains(p.log.String(), secret[strings.LastIndexByte(secret, '/')+1:]) {
			t.Errorf("the log shows %s:\n%s", secret, p.log)
		}
	}
}

func didWhat(h manage.History) string {
	var lines strings.Builder
	for _, e := range h.Events {
		fmt.Fprintf(&lines, "%s by %s\n", e.Type, e.Actor)
	}
	return lines.String()
}

func (w *env) liveGrants() int {
	live := 0
	for _, g := range w.sim.Grants() {
		if g.Live {
			live++
		}
	}
	return live
}

// waitForRefresh sends requests until one gets the status: a server receives
// changes within a second.
func (p *process) await(t testing.TB, connection, path string, status int) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		a, err := p.get(client(t), connection, path)
		if err == nil && a.status == status {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("a request of %s = %d %v, want %d", connection, a.status, err, status)
		}
	}
}

// TestAdminAPISetsKeys checks that the API stores a key that Pleo accepts, and neither
// an unknown one nor one of another company.
func TestAdminAPISetsKeys(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	p := w.serve()
	b := w.adminAPI(p)
	companies := w.sim.Companies()
	key, next, foreign := w.issueKey(companies[0].ID), w.issueKey(companies[0].ID), w.issueKey(companies[1].ID)
	var created api.CreateResponse
	b.request("POST", "", `{"name":"acme","kind":"standalone_key"}`, 201, &created)
	if created.ConnectURL != nil {
		t.Errorf("without pages for customers connect_url is %s, want null", *created.ConnectURL)
	}
	set := func(key, more string, want int) string {
		t.Helper()
		return b.request("POST", "/acme/key", fmt.Sprintf(`{"api_key":%q%s}`, key, more), want, nil)
	}
	if got := set(plantedKey, "", 422); !strings.Contains(got, `"key_rejected"`) || strings.Contains(got, plantedKey) {
		t.Errorf("an unknown key = %s, want key_rejected and not the key", got)
	}
	set(key.Value, "", 200)
	p.await(t, "acme", "/v2/employees", 200)
	if got := set(foreign.Value, "", 409); !strings.Contains(got, `"other_company"`) {
		t.Errorf("a key of another company = %s, want other_company", got)
	}
	set(foreign.Value, `,"allow_other_company":true,"next":true`, 400) // the next key must belong to the same company
	set(foreign.Value, `,"allow_other_company":true`, 200)
	set(key.Value, `,"allow_other_company":true`, 200)
	w.fault(simulator.Fault{Target: "api", Kind: "reset", Count: 10})
	if got := set(next.Value, "", 502); !strings.Contains(got, `"upstream_unreachable"`) {
		t.Errorf("a key while Pleo is unreachable = %s, want upstream_unreachable", got)
	}
	w.sim.ClearFaults()
	set(next.Value, `,"next":true,"expires_at":"2099-01-01T00:00:00Z"`, 200)
	w.revokeKey(key)
	p.await(t, "acme", "/v2/employees", 200) // the next key has taken over
}

// TestF23ThroughTheAPI removes connections while they are refreshed: they stay removed,
// and nothing usable is left.
func TestF23ThroughTheAPI(t *testing.T) {
	const trials = 10
	w := newEnv(t, simulator.Settings{})
	var lines []string
	for i := range trials {
		_, line := w.expired(fmt.Sprint("c", i))
		lines = append(lines, line)
	}
	w.importLines(lines...)
	p := w.serve()
	b := w.adminAPI(p)
	w.fault(simulator.Fault{Kind: "delay", When: simulator.AfterCommit, Delay: simulator.Duration(300 * time.Millisecond), Count: trials})
	var waiting sync.WaitGroup
	for i := range trials {
		waiting.Go(func() { _, _ = p.get(client(t), fmt.Sprint("c", i), "/v2/employees") })
	}
	for range trials {
		w.awaitRequest("/oauth/token")
	}
	for i := range trials {
		b.request("DELETE", fmt.Sprint("/c", i), "", 200, nil)
	}
	waiting.Wait()
	for i := range trials {
		b.request("GET", fmt.Sprint("/c", i), "", 404, nil)
	}
	if code := p.stop(); code != exitDone {
		t.Errorf("the server exits %d, want 0", code)
	}
	spool, err := os.ReadDir(filepath.Join(w.dir, "data", "spool"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range spool {
		if strings.HasSuffix(file.Name(), ".pair") {
			t.Errorf("the spool still holds %s", file.Name())
		}
	}
}

// TestAdminListenerOverTLS checks the admin listener with a certificate, and that it
// rejects clients without one if client certificates are required.
func TestAdminListenerOverTLS(t *testing.T) {
	server, clients := testca.New(t), testca.New(t)
	w := newEnv(t, simulator.Settings{})
	cert, key := server.Issue(x509.ExtKeyUsageServerAuth)
	raw, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.write("config.yaml", replaceOnce(t, string(raw), `admin: {listen: "127.0.0.1:0"}`, fmt.Sprintf(
		`admin: {listen: "127.0.0.1:0", tls: {cert_file: %q, key_file: %q, client_ca_file: %q}}`,
		w.write("cert.pem", string(cert)), w.write("key.pem", string(key)), w.write("ca.pem", string(clients.PEM)))))
	p := w.serve()
	at := "https://" + p.addresses["admin"] + "/api/v1/connections"
	for _, certificates := range [][]tls.Certificate{{clients.ClientPair()}, nil} {
		known := len(certificates) > 0
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: server.Pool(), Certificates: certificates}, ForceAttemptHTTP2: true}}
		response, err := c.Get(at)
		if (err == nil) != known {
			t.Errorf("with a certificate: %v; asking ends with %v", known, err)
		}
		if err != nil {
			continue
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK || response.ProtoMajor != 2 {
			t.Errorf("over TLS = %d by HTTP/%d, want 200 by HTTP/2", response.StatusCode, response.ProtoMajor)
		}
		c.CloseIdleConnections()
	}
}

// TestBadAdminRequestsDoNotAffectOthers checks the proxy during 1,000 bad requests and
// as many clients that send nothing, read nothing or stop in the middle.
func TestBadAdminRequestsDoNotAffectOthers(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	_, line := w.grant("acme", simulator.GrantRequest{})
	w.importLines(line)
	p := w.serve()
	at := p.addresses["admin"]
	bad := []string{
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "GET / HTTP/9.9\r\n\r\n", "\r\n\r\n\r\n",
		"GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /api/v1/connections HTTP/1.1\r\nHost: evil.example\r\n\r\n",
		"POST /api/v1/connections HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n{",
		"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n",
		"DELETE /api/v1/connections/acme HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 100<<10) + "\r\n\r\n",
		"GET / HTTP/1.1\r\nHo",
	}
	var crowd sync.WaitGroup
	var open []net.Conn
	for i := range 1000 {
		conn, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
		crowd.Go(func() {
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.WriteString(conn, bad[i%len(bad)])
			if i%3 == 0 { // the others neither read nor disconnect
				_, _ = io.Copy(io.Discard, conn)
			}
		})
		if i%20 != 0 {
			continue
		}
		if a, err := p.get(client(t), "acme", "/v2/employees"); err != nil || a.status != http.StatusOK {
			t.Fatalf("after %d bad clients a request = %d %v, want 200", i, a.status, err)
		}
	}
	if a := p.admin("/readyz"); a.status != http.StatusOK {
		t.Errorf("GET /readyz among them = %d, want 200", a.status)
	}
	for _, conn := range open {
		_ = conn.Close()
	}
	crowd.Wait()
	if c := p.connection("acme"); c.Status != "active" {
		t.Errorf("afterwards the connection is %s, want active", c.Status)
	}
	if code := p.stop(); code != exitDone {
		t.Errorf("the server exits %d, want 0", code)
	}
}
