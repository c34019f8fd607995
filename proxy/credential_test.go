package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// hostile are header sections by which a client may try to have its own
// credential forwarded, the proxy's removed, or the connection's name passed on.
var hostile = []struct{ name, header string }{
	{"plain", ""},
	{"own authorization", "Authorization: Bearer mine\r\n"},
	{"own authorization twice", "Authorization: Bearer mine\r\nauthorization: Basic bWluZQ==\r\n"},
	{"upper case", "AUTHORIZATION: Bearer mine\r\n"},
	{"nominated", "Connection: Authorization, close\r\n"},
	{"nominated in lower case", "Connection: authorization\r\nConnection: pleo-connection\r\n"},
	{"nominated host", "Connection: Host, User-Agent, Content-Length\r\n"},
	{"underscores", "Pleo_Connection: other\r\nProxy_Authorization: Basic bWluZQ==\r\nX_Forwarded_For: 1.2.3.4\r\n"},
	{"proxy fields", "Proxy-Authorization: Basic bWluZQ==\r\nProxy-Connection: keep-alive\r\nProxy-Foo: x\r\n"},
	{"cookies", "Cookie: a=b\r\n"},
	{"origin of the request", "Forwarded: for=1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Whatever: x\r\n"},
	{"hop by hop", "Keep-Alive: timeout=5\r\nTE: trailers\r\nConnection: TE, X-Nominated\r\nX-Nominated: x\r\n"},
	{"selectors", "Connection-Id: acme\r\nPleo-Expect-Company: " + companyOfAcme + "\r\nPleo-Priority: 1\r\n"},
	{"upgrade without connection", "Upgrade: websocket\r\n"},
}

func TestOnlyOurAuthorizationIsForwarded(t *testing.T) {
	for _, tt := range hostile {
		t.Run(tt.name, func(t *testing.T) {
			api := newTCPUpstream(t, respondAlways(okResponse))
			r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
			got := r.raw("GET /v1/x HTTP/1.1\r\nHost: localhost\r\nPleo-Connection: acme\r\nX-Kept: yes\r\n" + tt.header + "Connection: close\r\n\r\n")
			if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") {
				t.Fatalf("response = %q, want 200", got)
			}
			want := []string{
				"GET /v1/x HTTP/1.1",
				"Host: " + strings.TrimPrefix(api.url, "http://"),
				"Authorization: Bearer secret-of-acme-v1",
				"X-Kept: yes",
			}
			lines := strings.Split(strings.TrimSuffix(api.bytes(), "\r\n\r\n"), "\r\n")
			if diff := cmp.Diff(want, lines); diff != "" {
				t.Errorf("request upstream (-want +got):\n%s", diff)
			}
		})
	}
}

// No credential, no name of a connection, no framing and no routing is forwarded
// in a trailer section.
func TestRequestTrailersAreStripped(t *testing.T) {
	v := newFakeCredentials("acme")
	var header, trailer http.Header
	r := newTestProxy(t, v, v.requireToken(func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		header, trailer = req.Header, req.Trailer
	}))
	got := r.raw("POST /v1/x HTTP/1.1\r\nHost: localhost\r\nPleo-Connection: acme\r\nConnection: close\r\n" +
		"Trailer: Authorization, X-Sum, Pleo-Connection\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"2\r\nhi\r\n0\r\nAuthorization: Bearer mine\r\nX-Sum: 42\r\nPleo-Connection: other\r\nX-Unannounced: 1\r\nCookie: a\r\nContent-Length: 5\r\nHost: elsewhere\r\nContent_Length: 5\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") {
		t.Fatalf("response = %q, want 200", got)
	}
	if diff := cmp.Diff(http.Header{"X-Sum": {"42"}, "X-Unannounced": {"1"}}, trailer); diff != "" {
		t.Errorf("trailer upstream (-want +got):\n%s", diff)
	}
	if got := header["Authorization"]; len(got) != 1 || got[0] != "Bearer secret-of-acme-v1" {
		t.Errorf("Authorization upstream = %q, want ours", got)
	}
}

func TestConnectionsAreNeverMixedUp(t *testing.T) {
	const connections, parallel = 50, 200
	var names []string
	for i := range connections {
		names = append(names, fmt.Sprintf("company-%d", i))
	}
	v := newFakeCredentials(names...)
	r := newTestProxy(t, v, v.requireToken(func(w http.ResponseWriter, req *http.Request) {
		name, _ := v.connectionOf(req.Header)
		_, _ = io.WriteString(w, name)
	}))
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: parallel}}
	defer client.CloseIdleConnections()
	var wrong sync.Map
	var workers sync.WaitGroup
	for w := range parallel {
		workers.Go(func() {
			for i := range connections {
				name := names[(w+i)%connections]
				if got := fetch(client, r.url+"/@"+name+"/v1/whoami"); got != name {
					wrong.Store(name, got)
				}
			}
		})
	}
	workers.Wait()
	wrong.Range(func(name, got any) bool {
		t.Errorf("a request for %v was sent as %q", name, got)
		return true
	})
}

func fetch(client *http.Client, url string) string {
	res, err := client.Get(url)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}
