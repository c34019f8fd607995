package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func hashText(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func TestClientsListenersAndTLSAreRead(t *testing.T) {
	got := mustLoad(t, `environment: production
proxy:
  listen: 0.0.0.0:8484
  listeners:
    - {listen: "unix:/run/acme.sock?mode=0600&group=erp", connection: acme}
    - listen: 127.0.0.1:8490
      connection: shop
  clients:
    - name: erp
      token_hash: `+hashText("one")+`
      connections: [acme, "shop-*"]
      allow:
        - {methods: [GET, HEAD], paths: [/v1/expenses/*]}
        - paths: [/v2/exports/**]
    - name: restricted
      token_file: /run/secrets/restricted
      connections: []
      allow: []
    - {name: unrestricted, token_hash: `+hashText("two")+`}
  client_networks: [10.0.0.0/8, 192.168.1.7, "fd00::/8"]
  tls: {cert_file: /tls/cert.pem, key_file: /tls/key.pem, client_ca_file: /tls/ca.pem}
`).Proxy
	if diff := cmp.Diff([]Listener{
		{Listen{Network: "unix", Address: "/run/acme.sock", Mode: 0o600, Group: "erp"}, "acme"},
		{Listen{Network: "tcp", Address: "127.0.0.1:8490"}, "shop"},
	}, got.Listeners); diff != "" {
		t.Errorf("listeners (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(TLS{"/tls/cert.pem", "/tls/key.pem", "/tls/ca.pem"}, got.TLS); diff != "" {
		t.Errorf("tls (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"10.0.0.0/8", "192.168.1.7/32", "fd00::/8"}, prefixes(got.ClientNetworks)); diff != "" {
		t.Errorf("networks (-want +got):\n%s", diff)
	}
	checkClientsRead(t, got.Clients)
}

func prefixes(networks []netip.Prefix) []string {
	var texts []string
	for _, n := range networks {
		texts = append(texts, n.String())
	}
	return texts
}

func checkClientsRead(t *testing.T, clients []Client) {
	t.Helper()
	if len(clients) != 3 {
		t.Fatalf("%d clients, want 3", len(clients))
	}
	erp, restricted, unrestricted := clients[0], clients[1], clients[2]
	if erp.Name != "erp" || erp.TokenHash != sha256.Sum256([]byte("one")) {
		t.Errorf("first client = %q with hash %x, want erp with the hash of its token", erp.Name, erp.TokenHash)
	}
	if diff := cmp.Diff([]Rule{{[]string{"GET", "HEAD"}, []string{"/v1/expenses/*"}}, {nil, []string{"/v2/exports/**"}}}, erp.Allow); diff != "" {
		t.Errorf("allow (-want +got):\n%s", diff)
	}
	if restricted.Connections == nil || restricted.Allow == nil || restricted.Token.IsZero() {
		t.Errorf("second client = %+v, want empty lists that are not nil", restricted)
	}
	if unrestricted.Connections != nil || unrestricted.Allow != nil {
		t.Errorf("third client = %+v, want nil lists", unrestricted)
	}
}

// Every mistake is reported with its line, and no hash is shown.
func TestMistakesInClients(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	content := `environment: production
proxy:
  listen: 0.0.0.0:8484
  listeners:
    - {listen: 127.0.0.1:8485}
    - {connection: acme}
    - {listen: "unix:/run/x?colour=red", connection: "-"}
  clients:
    - {name: erp, token_hash: 1234}
    - {name: erp, token_hash: ` + hashText("one") + `, token_file: /x}
    - {token_hash: ` + hashText("one") + `}
    - {name: "ba:re", conections: [acme]}
    - {name: patterns, token_file: /x, connections: ["["], allow: [{methods: [get], paths: [v1]}]}
    - 42
  client_networks: [10.0.0.1/8, nowhere]
  tls: {cert_file: /tls/cert.pem}
`
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(Source{Path: path, Environ: []string{"HOME=/home/x"}})
	var wrong *Error
	if !errors.As(err, &wrong) {
		t.Fatalf("Load = %v, want an *Error", err)
	}
	for _, want := range []string{
		":5: proxy.listeners[0].connection: is required",
		":6: proxy.listeners[1].listen: is required",
		":7: proxy.listeners[2].listen: must be unix:/path?mode",
		":7: proxy.listeners[2].connection: must be the name",
		":9: proxy.clients[0].token_hash: must be 64 hexadecimal digits",
		":10: proxy.clients[1].name: is already the name of proxy.clients[0]",
		":10: proxy.clients[1].token_file: cannot be combined",
		":11: proxy.clients[2].name: is required",
		":12: proxy.clients[3].name: must not be empty or contain a colon",
		":11: proxy.clients[2].token_hash: is already the token of proxy.clients[1]",
		":12: proxy.clients[3]: requires token_file or token_hash",
		":12: proxy.clients[3].conections: unknown key; did you mean proxy.clients[].connections?",
		`:13: proxy.clients[4].connections: "[" is not a pattern`,
		`:13: proxy.clients[4].allow[0].methods: "get" is not a method`,
		`:13: proxy.clients[4].allow[0].paths: "v1" is not a pattern`,
		":14: proxy.clients[5]: must be a mapping",
		":15: proxy.client_networks: must not have bits set beyond its prefix length; the network is 10.0.0.0/8",
		":16: proxy.tls.cert_file: requires proxy.tls.key_file",
		"proxy.listeners[0].listen",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the mistakes do not include %q:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), hashText("one")) {
		t.Errorf("mistakes show a hash:\n%v", err)
	}
}

// A listener that other machines can reach requires client authentication or
// networks.
func TestExposedListenersNeedClients(t *testing.T) {
	client := "clients: [{name: erp, token_hash: " + hashText("one") + "}]"
	tests := []struct {
		name, proxy string
		ok          bool
	}{
		{"loopback", "listen: 127.0.0.1:8484", true},
		{"all addresses", "listen: 0.0.0.0:8484", false},
		{"no address", "listen: \":8484\"", false},
		{"no clients in the list", "listen: \":8484\", clients: [], client_networks: []", false},
		{"clients", "listen: \":8484\", " + client, true},
		{"networks", "listen: \":8484\", client_networks: [10.0.0.0/8]", true},
		{"anyone", "listen: \":8484\", dangerously_allow_anyone: true", true},
		{"another listener", "listeners: [{listen: \":8490\", connection: acme}]", false},
		{"another listener with clients", "listeners: [{listen: \":8490\", connection: acme}], " + client, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(path, []byte("environment: production\nproxy: {"+tt.proxy+"}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(Source{Path: path, Environ: []string{"HOME=/home/x"}})
			if (err == nil) != tt.ok {
				t.Errorf("Load = %v, want ok: %v", err, tt.ok)
			}
		})
	}
}

func TestSocketOptions(t *testing.T) {
	tests := []struct {
		in    string
		mode  fs.FileMode
		group string
		ok    bool
	}{
		{"unix:/run/x", 0, "", true},
		{"unix:/run/x?mode=0600", 0o600, "", true},
		{"unix:/run/x?group=erp&mode=666", 0o666, "erp", true},
		{"unix:/run/x?mode=1777", 0, "", false},
		{"unix:/run/x?mode=9", 0, "", false},
		{"unix:/run/x?mode=0", 0, "", false},
		{"unix:/run/x?owner=erp", 0, "", false},
		{"unix:/run/x?%zz", 0, "", false},
		{"unix:run/x", 0, "", false},
	}
	for _, tt := range tests {
		got, err := parseListen(tt.in)
		if (err == nil) != tt.ok || tt.ok && (got.Mode != tt.mode || got.Group != tt.group || got.Address != "/run/x") {
			t.Errorf("parseListen(%q) = %+v, %v, want mode %o, group %q, ok: %v", tt.in, got, err, tt.mode, tt.group, tt.ok)
		}
	}
}
