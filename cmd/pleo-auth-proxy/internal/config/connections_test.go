package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func TestConnectionsAreRead(t *testing.T) {
	file := writeFile(t, "acme.key", "key-of-acme\n")
	c := mustLoad(t, minimal+`store: {driver: memory}
connections:
  - {name: acme, kind: standalone_key, api_key_file: `+file+`, external_tenant: "4711"}
  - {name: shop, kind: integrated_key, api_key: key-of-shop}
`)
	if c.Store.Driver != DriverMemory {
		t.Errorf("Driver = %q, want %q", c.Store.Driver, DriverMemory)
	}
	type connection struct {
		Name, Key, Tenant string
		Kind              credstore.Kind
	}
	var got []connection
	for _, d := range c.Connections {
		key, err := d.APIKey.Open()
		if err != nil {
			t.Fatalf("opening the key of %q: %v", d.Name, err)
		}
		got = append(got, connection{d.Name, key.Secret().Reveal(), d.ExternalTenant, d.Kind})
	}
	want := []connection{
		{"acme", "key-of-acme", "4711", credstore.StandaloneKey},
		{"shop", "key-of-shop", "", credstore.IntegratedKey},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("connections (-want +got):\n%s", diff)
	}
}

func TestMistakesInConnections(t *testing.T) {
	for _, test := range []mistakesCase{
		{"oauth is not allowed", minimal + "connections:\n  - {name: a, kind: oauth, api_key: k}\n",
			[]string{`c.yaml:3: connections[0].kind: must be standalone_key or integrated_key (it is "oauth")`}},
		{"no key", minimal + "connections:\n  - {name: a, kind: standalone_key}\n",
			[]string{"c.yaml:3: connections[0]: requires api_key_file or api_key"}},
		{"two keys", minimal + "connections:\n  - {name: a, kind: standalone_key, api_key: k, api_key_file: /f}\n",
			[]string{"c.yaml:3: connections[0].api_key_file: cannot be combined with connections[0].api_key; remove one of them"}},
		{"only a key", minimal + "connections:\n  - api_key: k\n", []string{
			"c.yaml:3: connections[0].name: is required",
			"c.yaml:3: connections[0].kind: is required"}},
		{"names that differ by case", minimal + "connections:\n  - {name: acme, kind: standalone_key, api_key: k}\n  - {name: Acme, kind: standalone_key, api_key: l}\n",
			[]string{"c.yaml:4: connections[1].name: is already the name, apart from case, of connections[0]"}},
		{"refresh token", minimal + "connections:\n  - {name: a, kind: standalone_key, api_key: k, refresh_token: canary}\n",
			[]string{"c.yaml:3: connections[0].refresh_token: unknown key"}},
		{"tenant with a line break", minimal + "connections:\n  - {name: a, kind: standalone_key, api_key: k, external_tenant: \"b\\nc\"}\n",
			[]string{`c.yaml:3: connections[0].external_tenant: the external tenant must have at most 256 bytes and no control characters (it is "b\nc")`}},
		{"memory without connections", minimal + "store: {driver: memory}\n",
			[]string{"c.yaml:2: store.driver: is memory, which is for connections in the configuration; add one under connections, or use sqlite"}},
		{"memory with OAuth and a path", minimal + "store: {driver: memory, path: /p}\noauth: {client_id: c, client_secret: s}\nconnections: [{name: a, kind: standalone_key, api_key: k}]\n", []string{
			"c.yaml:3: oauth.client_id: cannot be combined with store.driver memory, which would lose refresh tokens on exit; use sqlite",
			"c.yaml:2: store.path: does not apply to store.driver memory; remove it"}},
	} {
		t.Run(test.name, test.check)
	}
}

// A container without a home directory needs no data directory with the memory store.
func TestMemoryNeedsNoDataDir(t *testing.T) {
	path := writeFile(t, "c.yaml", minimal+"store: {driver: memory}\nconnections: [{name: a, kind: standalone_key, api_key: k}]\n")
	c, err := Load(Source{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if c.Store.Path != "" || c.Admin.TokenFile != "" {
		t.Errorf("the store is at %q and the admin token in %q, want neither", c.Store.Path, c.Admin.TokenFile)
	}
}
