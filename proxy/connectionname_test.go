package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
)

func TestConnectionNames(t *testing.T) {
	long := strings.Repeat("a", 9<<10)
	tests := []struct {
		name   string
		target string
		header string
		want   string // the connection, or a code
	}{
		{"header", "/", "Pleo-Connection: acme\r\n", "acme"},
		{"header in lower case", "/", "pleo-connection: acme\r\n", "acme"},
		{"alias", "/", "Connection-Id: acme\r\n", "acme"},
		{"prefix", "/@acme/v1", "", "acme"},
		{"prefix without a slash", "/@acme", "", "acme"},
		{"prefix with a query", "/@acme?a=b", "", "acme"},
		{"encoded prefix", "/%40acme/v1", "", "acme"},
		{"encoded name", "/@a%7Eb%3Ac/v1", "", "a~b:c"},
		{"the same twice", "/@acme/v1", "Pleo-Connection: acme\r\nConnection-Id: acme\r\n", "acme"},
		{"nominated by Connection", "/", "Connection: Pleo-Connection\r\nPleo-Connection: acme\r\n", "acme"},
		{"none", "/", "", "connection_required"},
		{"empty header", "/", "Pleo-Connection:\r\n", "connection_required"},
		{"empty prefix", "/@/v1", "", "connection_required"},
		{"unknown", "/@unknown/v1", "", "connection_unknown"},
		{"other case", "/@Acme/v1", "", "connection_unknown"},
		{"traversal", "/@../v1", "", "connection_unknown"},
		{"encoded traversal", "/@a%2F..%2Fb/v1", "", "connection_unknown"},
		{"encoded NUL", "/@acme%00/v1", "", "connection_unknown"},
		{"not ASCII", "/", "Pleo-Connection: äcme\r\n", "connection_unknown"},
		{"9 KB in the header", "/", "Pleo-Connection: " + long + "\r\n", "connection_unknown"},
		{"9 KB in the path", "/@" + long, "", "connection_unknown"},
		{"prefix and header differ", "/@acme/v1", "Pleo-Connection: globex\r\n", "connection_conflict"},
		{"header and alias differ", "/", "Pleo-Connection: globex\r\nConnection-Id: acme\r\n", "connection_conflict"},
		{"header twice", "/", "Pleo-Connection: acme\r\nPleo-Connection: globex\r\n", "connection_conflict"},
		{"header twice the same", "/", "Pleo-Connection: acme\r\nPleo-Connection: acme\r\n", "connection_conflict"},
		{"list", "/", "Pleo-Connection: acme, globex\r\n", "connection_conflict"},
		{"underscore", "/", "Pleo_Connection: acme\r\n", "connection_required"},
	}
	v := newFakeCredentials("acme", "globex", "a~b:c")
	r := newTestProxy(t, v, nameOwner(v))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := r.raw("GET " + tt.target + " HTTP/1.1\r\nHost: localhost\r\n" + tt.header + "Connection: close\r\n\r\n")
			if name := bodyOrCode(t, got); name != tt.want {
				t.Errorf("connection = %q, want %q", name, tt.want)
			}
			if len(got) > 2<<10 {
				t.Errorf("the response has %d bytes, want that it does not repeat the name", len(got))
			}
		})
	}
}

// nameOwner responds with the name of the connection whose token it got.
func nameOwner(v *fakeCredentials) http.HandlerFunc {
	return v.requireToken(func(w http.ResponseWriter, r *http.Request) {
		name, _ := v.connectionOf(r.Header)
		_, _ = w.Write([]byte(name))
	})
}

// bodyOrCode returns the body of a raw response, or the code of a problem.
func bodyOrCode(t *testing.T, raw string) string {
	t.Helper()
	_, body, _ := strings.Cut(raw, "\r\n\r\n")
	if !strings.HasPrefix(body, "{") {
		return body
	}
	return decodeProblem(t, body).Code
}

type decodedProblem struct {
	Type, Title, Detail, Code, Message, Connection string
	Status                                         int
}

func decodeProblem(t *testing.T, body string) decodedProblem {
	t.Helper()
	var p decodedProblem
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("decoding %q: %v", body, err)
	}
	return p
}

func TestNameInTrailerIsIgnored(t *testing.T) {
	v := newFakeCredentials("acme")
	r := newTestProxy(t, v, nameOwner(v))
	got := r.raw("POST / HTTP/1.1\r\nHost: localhost\r\nTrailer: Pleo-Connection\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\nPleo-Connection: acme\r\n\r\n")
	if code := bodyOrCode(t, got); code != "connection_required" {
		t.Errorf("code = %q, want connection_required", code)
	}
}

func TestForConnection(t *testing.T) {
	v := newFakeCredentials("acme", "globex")
	r := newTestProxy(t, v, nameOwner(v))
	r.listen(r.proxy.ForConnection("acme"))
	tests := []struct{ name, target, header, want string }{
		{"alone", "/", "", "acme"},
		{"header agrees", "/", "Pleo-Connection: acme\r\n", "acme"},
		{"header differs", "/", "Pleo-Connection: globex\r\n", "connection_conflict"},
		{"prefix differs", "/@globex/", "", "connection_conflict"},
		{"empty header", "/", "Pleo-Connection:\r\n", "connection_required"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := r.raw("GET " + tt.target + " HTTP/1.1\r\nHost: localhost\r\n" + tt.header + "Connection: close\r\n\r\n")
			if name := bodyOrCode(t, got); name != tt.want {
				t.Errorf("connection = %q, want %q", name, tt.want)
			}
		})
	}
}

func TestDefaultConnection(t *testing.T) {
	tests := []struct {
		name   string
		shared bool
		sole   func(context.Context) (bool, error)
		header string
		want   string
	}{
		{"the only one", false, func(context.Context) (bool, error) { return true, nil }, "", "acme"},
		{"one of several", false, func(context.Context) (bool, error) { return false, nil }, "", "connection_required"},
		{"store unavailable", false, func(context.Context) (bool, error) { return false, errors.New("unavailable") }, "", "store_unavailable"},
		{"shared", true, nil, "", "acme"},
		{"another one named", true, nil, "Pleo-Connection: globex\r\n", "globex"},
		{"empty name", true, nil, "Pleo-Connection:\r\n", "connection_required"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := newFakeCredentials("acme", "globex")
			r := newTestProxy(t, v, nameOwner(v), func(c *Config) {
				c.DefaultConnection, c.DefaultConnectionShared, c.SingleConnection = "acme", tt.shared, tt.sole
			})
			got := r.raw("GET / HTTP/1.1\r\nHost: localhost\r\n" + tt.header + "Connection: close\r\n\r\n")
			if name := bodyOrCode(t, got); name != tt.want {
				t.Errorf("connection = %q, want %q", name, tt.want)
			}
		})
	}
}

func TestExpectCompany(t *testing.T) {
	tests := []struct {
		name    string
		company string // of the connection
		header  string
		want    int
	}{
		{"no header", companyOfAcme, "", 200},
		{"same", companyOfAcme, "Pleo-Expect-Company: " + companyOfAcme + "\r\n", 200},
		{"other case", "abcd-EF", "Pleo-Expect-Company: ABCD-ef\r\n", 200},
		{"another", companyOfAcme, "Pleo-Expect-Company: 99999999-2222-3333-4444-555555555555\r\n", 412},
		{"unknown", "", "Pleo-Expect-Company: " + companyOfAcme + "\r\n", 412},
		{"unknown and empty", "", "Pleo-Expect-Company:\r\n", 412},
		{"twice", companyOfAcme, strings.Repeat("Pleo-Expect-Company: "+companyOfAcme+"\r\n", 2), 412},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := newFakeCredentials("acme")
			v.current["acme"].CompanyID = tt.company
			r := newTestProxy(t, v, v.requireToken(ok))
			got := r.raw("GET /@acme/ HTTP/1.1\r\nHost: localhost\r\n" + tt.header + "Connection: close\r\n\r\n")
			if status := statusOf(t, got); status != tt.want {
				t.Errorf("status = %d, want %d", status, tt.want)
			}
		})
	}
}

func TestConnectionHeaderWithUnderscoreIsStripped(t *testing.T) {
	api := newTCPUpstream(t, respondAlways(okResponse))
	r := newTestProxyTo(t, newFakeCredentials("acme"), api.url, func(c *Config) { c.ConnectionHeaders = []string{"x_company"} })
	got := r.raw("GET / HTTP/1.1\r\nHost: localhost\r\nX_Company: acme\r\nX-Company: acme\r\nConnection: close\r\n\r\n")
	if status := statusOf(t, got); status != 200 || strings.Contains(api.bytes(), "ompany") {
		t.Errorf("status = %d, upstream got %q, want 200 and no name of a connection", status, api.bytes())
	}
}
