package proxy

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// hashOf returns a constant token hash.
func hashOf(token string) func() [sha256.Size]byte {
	sum := sha256.Sum256([]byte(token))
	return func() [sha256.Size]byte { return sum }
}

func basic(name, token string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+token))
}

func TestClientAuthentication(t *testing.T) {
	tests := []struct {
		name, header string
		status       int
		code         string
	}{
		{"bearer", "Authorization: Bearer token-of-erp\r\n", 200, ""},
		{"bearer in lower case", "authorization: bearer token-of-erp\r\n", 200, ""},
		{"basic", "Authorization: " + basic("erp", "token-of-erp") + "\r\n", 200, ""},
		{"basic of a token with a colon", "Authorization: " + basic("colon", "a:b") + "\r\n", 200, ""},
		{"nothing", "", 401, "client_unauthenticated"},
		{"empty", "Authorization:\r\n", 401, "client_unauthenticated"},
		{"empty bearer", "Authorization: Bearer \r\n", 401, "client_unauthenticated"},
		{"unknown token", "Authorization: Bearer wrong\r\n", 401, "client_unauthenticated"},
		{"longer token", "Authorization: Bearer token-of-erp2\r\n", 401, "client_unauthenticated"},
		{"the hash instead of the token", "Authorization: Bearer " + base64.StdEncoding.EncodeToString(sumOf("token-of-erp")) + "\r\n", 401, "client_unauthenticated"},
		{"token of another name", "Authorization: " + basic("shop", "token-of-erp") + "\r\n", 401, "client_unauthenticated"},
		{"no name", "Authorization: " + basic("", "token-of-erp") + "\r\n", 401, "client_unauthenticated"},
		{"no token", "Authorization: " + basic("erp", "") + "\r\n", 401, "client_unauthenticated"},
		{"not base64", "Authorization: Basic ???\r\n", 401, "client_unauthenticated"},
		{"another scheme", "Authorization: Digest token-of-erp\r\n", 401, "client_unauthenticated"},
		{"twice", "Authorization: Bearer token-of-erp\r\nAuthorization: Bearer token-of-erp\r\n", 401, "client_unauthenticated"},
		{"in another field", "Proxy-Authorization: Bearer token-of-erp\r\n", 401, "client_unauthenticated"},
		{"a token that two clients share", "Authorization: Bearer shared\r\n", 401, "client_unauthenticated"},
		{"pleo's own token", "Authorization: Bearer secret-of-acme-v1\r\n", 401, "client_unauthenticated"},
	}
	api := newTCPUpstream(t, respondAlways(okResponse))
	r := newTestProxyTo(t, newFakeCredentials("acme"), api.url, func(c *Config) {
		c.Clients = []Client{
			{Name: "erp", TokenHash: hashOf("token-of-erp")},
			{Name: "colon", TokenHash: hashOf("a:b")},
			{Name: "one", TokenHash: hashOf("shared")},
			{Name: "two", TokenHash: hashOf("shared")},
		}
	})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := len(api.bytes())
			got := r.raw("GET /@acme/v1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + tt.header + "\r\n")
			code := ""
			if tt.code != "" {
				code = bodyOrCode(t, got)
			}
			if status := statusOf(t, got); status != tt.status || code != tt.code {
				t.Errorf("response = %d %s, want %d %s", status, code, tt.status, tt.code)
			}
			sent := api.bytes()[before:]
			if tt.status != 200 && sent != "" {
				t.Errorf("upstream got %q, want nothing", sent)
			}
			if strings.Contains(sent, "token-of-erp") || tt.status == 200 && strings.Count(sent, "Authorization: ") != 1 {
				t.Errorf("upstream got %q, want our Authorization only", sent)
			}
		})
	}
}

func sumOf(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

func TestAuthenticationChallenges(t *testing.T) {
	r := newTestProxy(t, newFakeCredentials("acme"), ok, func(c *Config) { c.Clients = []Client{{Name: "erp", TokenHash: hashOf("x")}} })
	got := r.do("GET", "/", nil)
	if challenges := strings.Join(got.Header.Values("WWW-Authenticate"), ", "); !strings.Contains(challenges, "Bearer ") || !strings.Contains(challenges, "Basic ") {
		t.Errorf("WWW-Authenticate = %q, want Bearer and Basic", challenges)
	}
}

func TestClientIsLogged(t *testing.T) {
	r := newTestProxy(t, newFakeCredentials("acme"), ok, func(c *Config) { c.Clients = []Client{{Name: "erp", TokenHash: hashOf("token")}} })
	r.do("GET", "/", nil, "Authorization", "Bearer token")
	if got := r.logEntry()["client"]; got != "erp" {
		t.Errorf("log: client = %v, want erp", got)
	}
}

// Tokens change without a restart.
func TestClientTokenIsReadForEachRequest(t *testing.T) {
	hash := hashOf("old")
	r := newTestProxy(t, newFakeCredentials("acme"), ok, func(c *Config) {
		c.Clients = []Client{{Name: "erp", TokenHash: func() [sha256.Size]byte { return hash() }}}
	})
	if got := r.do("GET", "/", nil, "Authorization", "Bearer new").StatusCode; got != 401 {
		t.Errorf("status with the next token = %d, want 401", got)
	}
	hash = hashOf("new")
	if got := r.do("GET", "/", nil, "Authorization", "Bearer new").StatusCode; got != 200 {
		t.Errorf("status after the change = %d, want 200", got)
	}
}

func TestClientConnections(t *testing.T) {
	tests := []struct {
		name        string
		connections []string
		connection  string
		status      int
		code        string
	}{
		{"all", nil, "acme", 200, ""},
		{"none", []string{}, "acme", 403, "client_not_allowed"},
		{"exactly", []string{"acme"}, "acme", 200, ""},
		{"pattern", []string{"shop-*", "ac?e"}, "acme", 200, ""},
		{"another", []string{"ac"}, "acme", 403, "client_not_allowed"},
		{"another case", []string{"Acme"}, "acme", 403, "client_not_allowed"},
		{"unknown, indistinguishable from an existing one", []string{"acme"}, "unknown", 403, "client_not_allowed"},
		{"unknown and allowed", []string{"*"}, "unknown", 400, "connection_unknown"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newTestProxy(t, newFakeCredentials("acme"), ok, func(c *Config) {
				c.Clients = []Client{{Name: "erp", TokenHash: hashOf("token"), Connections: tt.connections}}
			})
			got := r.do("GET", "/", nil, "Pleo-Connection", tt.connection, "Authorization", "Bearer token")
			code := ""
			if got.StatusCode != 200 {
				code = decodeProblem(t, got.body).Code
			}
			if got.StatusCode != tt.status || code != tt.code {
				t.Errorf("response = %d %s, want %d %s", got.StatusCode, code, tt.status, tt.code)
			}
		})
	}
}

func TestPolicy(t *testing.T) {
	read := []Rule{{Methods: []string{"GET"}, Paths: []string{"/v1/expenses", "/v1/expenses/*", "/v2/exports/**", "/v1/**/items"}}}
	tests := []struct {
		name, method, target, header string
		rules                        []Rule
		want                         bool
	}{
		{"no rules", "DELETE", "/v1/%2e%2e/x", "", nil, true},
		{"an empty list", "GET", "/v1/expenses", "", []Rule{}, false},
		{"a rule for everything", "GET", "/v1/expenses", "", []Rule{{}}, true},
		{"exactly", "GET", "/v1/expenses", "", read, true},
		{"with a query", "GET", "/v1/expenses?a=/../b%zz", "", read, true},
		{"behind the prefix", "GET", "/@acme/v1/expenses", "", read, true},
		{"a segment", "GET", "/v1/expenses/1", "", read, true},
		{"a colon", "GET", "/v1/expenses/1:enrich", "", read, true},
		{"encoded but plain", "GET", "/v1/%65xpenses", "", read, true},
		{"two segments", "GET", "/v1/expenses/1/x", "", read, false},
		{"an empty segment", "GET", "/v2/employees/", "", []Rule{{Paths: []string{"/v2/employees/*"}}}, false},
		{"an empty segment after any number", "GET", "/v2/employees/", "", []Rule{{Paths: []string{"/v2/**/*"}}}, false},
		{"only an empty segment after any number", "GET", "/v2/", "", []Rule{{Paths: []string{"/v2/**/*"}}}, false},
		{"several stars and an empty segment", "GET", "/v2/employees/", "", []Rule{{Paths: []string{"/v2/employees/***"}}}, false},
		{"a pattern with a slash at the end", "GET", "/v2/employees/", "", []Rule{{Paths: []string{"/v2/employees/"}}}, true},
		{"no segment", "GET", "/v2/exports", "", read, true},
		{"many segments", "GET", "/v2/exports/1/items/2", "", read, true},
		{"in the middle", "GET", "/v1/a/b/items", "", read, true},
		{"in the middle, other end", "GET", "/v1/a/b/itemsx", "", read, false},
		{"another method", "POST", "/v1/expenses", "", read, false},
		{"method in lower case", "get", "/v1/expenses", "", read, false},
		{"another path", "GET", "/v1/employees", "", read, false},
		{"longer", "GET", "/v1/expensesx", "", read, false},
		{"another case", "GET", "/V1/expenses", "", read, false},
		{"slash at the end", "GET", "/v1/expenses/", "", read, false},
		{"dot segments", "GET", "/v2/exports/../v1/employees", "", read, false},
		{"encoded dot segments", "GET", "/v2/exports/%2e%2E/employees", "", read, false},
		{"half-encoded dot segments", "GET", "/v2/exports/.%2e/employees", "", read, false},
		{"one dot", "GET", "/v2/exports/./x", "", read, false},
		{"doubly encoded", "GET", "/v2/exports/%252e%252e/x", "", read, false},
		{"encoded slash", "GET", "/v2/exports/..%2femployees", "", read, false},
		{"backslash", "GET", "/v2/exports/..\\employees", "", read, false},
		{"encoded backslash", "GET", "/v2/exports/..%5cemployees", "", read, false},
		{"parameter", "GET", "/v2/exports/..;x/employees", "", read, false},
		{"empty segment", "GET", "/v2/exports//x", "", read, false},
		{"NUL", "GET", "/v2/exports/x%00", "", read, false},
		{"encoded question mark", "GET", "/v2/exports/x%3fy", "", read, false},
		{"overlong dot", "GET", "/v2/exports/%c0%ae%c0%ae/x", "", read, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			api := newTCPUpstream(t, respondAlways(okResponse))
			r := newTestProxyTo(t, newFakeCredentials("acme"), api.url, func(c *Config) {
				c.Clients = []Client{{Name: "erp", TokenHash: hashOf("token"), Allow: tt.rules}}
				c.DefaultConnection, c.DefaultConnectionShared = "acme", true
			})
			got := r.raw(tt.method + " " + tt.target + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer token\r\nConnection: close\r\n" + tt.header + "\r\n")
			status := statusOf(t, got)
			if (status == 200) != tt.want || (api.bytes() != "") != tt.want {
				t.Fatalf("status = %d, upstream got %q, want it forwarded: %v", status, api.bytes(), tt.want)
			}
			if !tt.want && bodyOrCode(t, got) != "policy_denied" {
				t.Errorf("code = %s, want policy_denied", bodyOrCode(t, got))
			}
		})
	}
}

// Fields by which some servers replace method or path would let a client around
// its policy.
func TestOverridesAreRemovedForClientsWithPolicy(t *testing.T) {
	fields := []string{"X-HTTP-Method-Override", "X_HTTP_Method_Override", "X-HTTP-Method", "x-method-override", "X-Original-URL", "x_original_url", "X-Rewrite-URL"}
	tests := []struct {
		name    string
		clients []Client
		removed bool
	}{
		{"policy", []Client{{Name: "erp", TokenHash: hashOf("token"), Allow: []Rule{{Methods: []string{"POST"}}}}}, true},
		{"no policy", []Client{{Name: "erp", TokenHash: hashOf("token")}}, false},
		{"no clients", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			api := newTCPUpstream(t, func(r *bufio.Reader, w net.Conn) {
				if req, err := http.ReadRequest(r); err == nil {
					_, _ = io.Copy(io.Discard, req.Body)
					_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				}
			})
			r := newTestProxyTo(t, newFakeCredentials("acme"), api.url, func(c *Config) { c.Clients = tt.clients })
			request := "POST /@acme/v1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer token\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
			trailer := "0\r\nX-Sum: 42\r\n"
			for _, name := range fields {
				request += name + ": in-header\r\n"
				trailer += name + ": in-trailer\r\n"
			}
			if status := statusOf(t, r.raw(request+"\r\n"+trailer+"\r\n")); status != http.StatusOK {
				t.Errorf("status = %d, want 200", status)
			}
			want := len(fields)
			if tt.removed {
				want = 0
			}
			sent := api.bytes()
			if header, trailer := strings.Count(sent, "in-header"), strings.Count(sent, "in-trailer"); header != want || trailer != want {
				t.Errorf("upstream got %d of the fields in its header and %d in its trailer, want %d: %q", header, trailer, want, sent)
			}
			if !strings.Contains(sent, "X-Sum: 42\r\n") {
				t.Errorf("upstream got %q, want other fields unchanged", sent)
			}
		})
	}
}

func TestMatchSegments(t *testing.T) {
	tests := []struct {
		pattern, path string
		want          bool
	}{
		{"/**", "/", true},
		{"/**", "/a/b", true},
		{"/**/**", "/", true},
		{"/**/a/**", "/a", true},
		{"/**/a/**", "/b/a/c", true},
		{"/**/a/**", "/b/c", false},
		{"/**/a/b", "/a/a/b", true},
		{"/**/a/b", "/a/b/a/b", true},
		{"/**/a/b", "/a/b/c", false},
		{"/**/a/**/b", "/b/a", false},
		{"/**/a/**/b", "/a/b/a/c/b", true},
		{"/a/**/a", "/a", false},
		{"/a/**/*/c", "/a/c", false},
		{"/a/**/*/c", "/a/b/b/c", true},
	}
	for _, tt := range tests {
		pattern, segments := strings.Split(tt.pattern, "/")[1:], strings.Split(tt.path, "/")[1:]
		if got := matchSegments(pattern, segments); got != tt.want {
			t.Errorf("matchSegments(%q, %q) = %v, want %v", tt.pattern, tt.path, got, tt.want)
		}
	}
}

// Trying every split of the path between the ** would take longer than any test may
// run.
func TestPatternsWithManyWildcardsMatchInLinearTime(t *testing.T) {
	pattern := strings.Split(strings.Repeat("/**/items", 10)+"/files", "/")[1:]
	segments := strings.Split(strings.Repeat("/items", 30_000), "/")[1:]
	if matchSegments(pattern, segments) {
		t.Error("a path without /files matches a pattern that ends in it")
	}
	if !matchSegments(pattern, append(segments, "files")) {
		t.Error("a path that ends in /files does not match")
	}
}

func TestClientNetworks(t *testing.T) {
	tests := []struct {
		peer     string
		networks []string
		want     bool
	}{
		{"10.1.2.3:5", []string{"10.0.0.0/8"}, true},
		{"11.1.2.3:5", []string{"10.0.0.0/8"}, false},
		{"11.1.2.3:5", []string{"10.0.0.0/8", "11.1.2.3/32"}, true},
		{"[::ffff:10.1.2.3]:5", []string{"10.0.0.0/8"}, true},
		{"[fe80::1%eth0]:5", []string{"fe80::/10"}, true},
		{"[2001:db8::1]:5", []string{"10.0.0.0/8"}, false},
		{"127.0.0.1:5", []string{"10.0.0.0/8"}, false},
		{"", []string{"0.0.0.0/0"}, false},
		{"@", []string{"0.0.0.0/0", "::/0"}, false},
	}
	for _, tt := range tests {
		g := clientAccess{}
		for _, n := range tt.networks {
			g.networks = append(g.networks, netip.MustParsePrefix(n))
		}
		if got := g.inNetworks(tt.peer); got != tt.want {
			t.Errorf("reaches(%q) with %q = %v, want %v", tt.peer, tt.networks, got, tt.want)
		}
	}
}

// Header fields about the origin of a request can be forged.
func TestForwardedAddressIsIgnored(t *testing.T) {
	api := newTCPUpstream(t, respondAlways(okResponse))
	r := newTestProxyTo(t, newFakeCredentials("acme"), api.url, func(c *Config) { c.ClientNetworks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	got := r.do("GET", "/", nil, "X-Forwarded-For", "10.0.0.1", "Forwarded", "for=10.0.0.1")
	if p := decodeProblem(t, got.body); got.StatusCode != 403 || p.Code != "client_not_allowed" || api.bytes() != "" {
		t.Errorf("response = %d %s, want 403 client_not_allowed and nothing upstream", got.StatusCode, p.Code)
	}
}

func TestAllClientMistakesAreReported(t *testing.T) {
	err := checkClients([]Client{
		{Name: "a:b", TokenHash: hashOf("x")},
		{Name: "twice", TokenHash: hashOf("x")},
		{Name: "twice", TokenHash: hashOf("y")},
		{Name: "bare"},
		{
			Name: "patterns", TokenHash: hashOf("z"), Connections: []string{"[", ""},
			Allow: []Rule{{Methods: []string{"get"}, Paths: []string{"v1", "/v1/["}}},
		},
	})
	for _, want := range []string{`"a:b"`, `two clients are called "twice"`, `"bare" has no token`, `"["`, `""`, `"get"`, `"v1"`, `"/v1/["`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("checkClients = %v, which does not mention %s", err, want)
		}
	}
}
