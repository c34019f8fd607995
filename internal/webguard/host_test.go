package webguard

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

func requestFor(host string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Host = host
	return r
}

func TestPrivateHosts(t *testing.T) {
	hosts := PrivateHosts("pleo.Example.com")
	for _, test := range []struct {
		host string
		want bool
	}{
		{"localhost", true}, {"localhost:8484", true}, {"LOCALHOST", true}, {"localhost.", true}, {"app.localhost:1", true},
		{"127.0.0.1", true}, {"127.0.0.1:8484", true}, {"10.1.2.3", true}, {"[::1]", true}, {"[::1]:8484", true}, {"[fe80::1]:1", true},
		{"proxy", true}, {"proxy:8484", true}, {"pleo_proxy", true},
		{"host.docker.internal", true}, {"proxy.default.svc", true}, {"proxy.default.svc.cluster.local", true}, {"proxy.default.svc.cluster.local.:80", true},
		{"pleo.example.com", true}, {"PLEO.example.com:443", true}, {"pleo.example.com.", true},
		{"", false}, {":8484", false}, {".", false}, {"evil.com", false}, {"evil.com:8484", false}, {"www.pleo.example.com", false},
		{"ai.", false}, {"localhost.evil.com", false}, {"evil.com.localhost.com", false}, {"notinternal.evilinternal", false},
		{"127.0.0.1.nip.io", false}, {"127.0.0.1.evil.com:80", false}, {"svc.evil.com", false}, {"evil.com:80:localhost", false},
		{"localhost,evil.com", false}, {"localhost evil", false}, {"evil.com#localhost", false}, {"evil.com\\.localhost", false}, {"..localhost", false},
	} {
		if got := hosts.Allow(requestFor(test.host)); got != test.want {
			t.Errorf("Allow(%q) = %v, want %v", test.host, got, test.want)
		}
	}
}

func TestPublicHosts(t *testing.T) {
	hosts := PublicHosts("connect.Example.com", "192.0.2.1")
	for _, test := range []struct {
		host string
		want bool
	}{
		{"connect.example.com", true}, {"CONNECT.example.com.:443", true}, {"192.0.2.1:8486", true},
		{"localhost:8486", true}, {"127.0.0.1:8486", true}, {"[::1]", true},
		{"", false}, {"evil.com", false}, {"192.0.2.2", false}, {"connect", false}, {"app.localhost", false}, {"connect.internal", false},
	} {
		if got := hosts.Allow(requestFor(test.host)); got != test.want {
			t.Errorf("Allow(%q) = %v, want %v", test.host, got, test.want)
		}
	}
}

func TestUnixSocketHost(t *testing.T) {
	r := requestFor("evil.com")
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.UnixAddr{Name: "/run/x", Net: "unix"}))
	if !PrivateHosts().Allow(r) {
		t.Error("PrivateHosts rejects a request over a unix socket, want any Host allowed")
	}
	if PublicHosts().Allow(r) {
		t.Error("PublicHosts allows any Host over a unix socket, which a public server may forward to")
	}
}

func TestAllowDoesNotAllocate(t *testing.T) {
	hosts := PrivateHosts("pleo.example.com")
	for _, host := range []string{"127.0.0.1:8484", "[::1]:8484", "localhost:8484", "proxy", "proxy.default.svc", "pleo.example.com"} {
		r := requestFor(host)
		if n := testing.AllocsPerRun(100, func() { hosts.Allow(r) }); n != 0 {
			t.Errorf("Allow(%q) allocates %v times, want 0", host, n)
		}
	}
}
