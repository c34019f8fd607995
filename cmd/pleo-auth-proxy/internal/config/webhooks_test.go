package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func TestWebhooks(t *testing.T) {
	secrets := writeFile(t, "hook", "one\n# and another\r\n\ttwo\n")
	c := mustLoad(t, minimal+`webhooks:
  - {url: "https://app.example.com/hooks?token=1", secret_file: "`+secrets+`", events: [connection.removed]}
  - {url: "http://127.0.0.1:9000/", secret_file: "`+secrets+`"}
`)
	w := c.Webhooks
	if len(w) != 2 || w[0].URL.String() != "https://app.example.com/hooks?token=1" || w[1].URL.Port() != "9000" {
		t.Fatalf("webhooks %+v, want two with their URLs", w)
	}
	if !cmp.Equal(w[0].Events, []credstore.EventType{credstore.EventRemoved}) || w[1].Events != nil {
		t.Errorf("events %v and %v, want one and none", w[0].Events, w[1].Events)
	}
	r, err := w[0].Secrets.Open()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.Secret().Reveal(), "one\n# and another\r\n\ttwo"; got != want {
		t.Errorf("the secrets are %q, want %q", got, want)
	}
}

func TestMistakesInWebhooks(t *testing.T) {
	for _, test := range []mistakesCase{
		{"empty", minimal + "webhooks: [{}]\n", []string{
			"c.yaml:2: webhooks[0].url: is required", "c.yaml:2: webhooks[0].secret_file: is required",
		}},
		{"plain http", minimal + "webhooks: [{url: \"http://app.example.com/canary\", secret_file: /s}]\n", []string{
			"c.yaml:2: webhooks[0].url: must begin with https://; plain http is accepted for loopback addresses only",
		}},
		{"with a user", minimal + "webhooks: [{url: \"https://u:canary@app.example.com\", secret_file: /s}]\n", []string{
			"c.yaml:2: webhooks[0].url: must be a URL without user and fragment, such as https://app.example.com/hooks/pleo",
		}},
		{"no URL", minimal + "webhooks: [{url: canary, secret_file: /s}]\n", []string{
			"c.yaml:2: webhooks[0].url: must be a URL without user and fragment, such as https://app.example.com/hooks/pleo",
		}},
		{"another scheme", minimal + "webhooks: [{url: \"ftp://app.example.com\", secret_file: /s}]\n", []string{
			"c.yaml:2: webhooks[0].url: must begin with https://; plain http is accepted for loopback addresses only",
		}},
		{"same URL twice", minimal + "webhooks: [{url: \"https://a.example\", secret_file: /s}, {url: \"https://a.example\", secret_file: /t}]\n", []string{
			"c.yaml:2: webhooks[1].url: is already the URL of webhooks[0]",
		}},
		{"unknown event", minimal + "webhooks: [{url: \"https://a.example\", secret_file: /s, events: [connection.refreshed]}]\n", []string{
			`c.yaml:2: webhooks[0].events: must be connection.connected, connection.reauthorization_required, connection.recovered, connection.key_expiring or connection.removed (it is "connection.refreshed")`,
		}},
	} {
		t.Run(test.name, test.check)
	}
}

func TestMistakesInPages(t *testing.T) {
	for _, test := range []mistakesCase{
		{"no listener", minimal + "connect: {listen: off, public_url: \"https://c.example.com\"}\n", []string{
			"c.yaml:2: connect.public_url: requires connect.listen, which is off",
		}},
		{"ACME and certificate files", minimal + "connect:\n  public_url: https://c.example.com\n  tls:\n    cert_file: /c\n    key_file: /k\n    acme: {domains: [c.example.com]}\n", []string{
			"c.yaml:7: connect.tls.acme.domains: cannot be combined with connect.tls.cert_file; remove one of them",
		}},
		{"public_url of another host", minimal + "connect:\n  public_url: https://c.example.com\n  tls: {acme: {domains: [d.example.com]}}\n", []string{
			"c.yaml:3: connect.public_url: must have a host that is in connect.tls.acme.domains",
		}},
		{"plain public_url", minimal + "connect:\n  public_url: http://localhost:8486\n  tls: {cert_file: /c, key_file: /k}\n", []string{
			"c.yaml:3: connect.public_url: must begin with https:// if connect.tls is set",
		}},
		{"unix socket", minimal + "connect:\n  listen: unix:/run/c.sock\n  public_url: https://c.example.com\n  tls: {acme: {domains: [c.example.com]}}\n", []string{
			"c.yaml:3: connect.listen: must be host:port with a fixed port if connect.tls.acme.domains is set",
		}},
		{"no domains", minimal + "connect: {tls: {acme: {email: a@example.com, ca_root_file: /r}}}\n", []string{
			"c.yaml:2: connect.tls.acme.email: requires connect.tls.acme.domains",
			"c.yaml:2: connect.tls.acme.ca_root_file: requires connect.tls.acme.domains",
		}},
		{"no public_url", minimal + "connect: {http: {listen: \":80\"}, tls: {acme: {domains: [c.example.com]}}}\n", []string{
			"c.yaml:2: connect.tls.acme.domains: requires connect.public_url",
			"c.yaml:2: connect.http.listen: requires connect.public_url",
		}},
		{"wildcard", minimal + "connect: {tls: {acme: {domains: [\"*.example.com\"], ca_url: \"http://acme.example\"}}}\n", []string{
			`c.yaml:2: connect.tls.acme.domains: must be a domain such as connect.example.com (it is "*.example.com")`,
			`c.yaml:2: connect.tls.acme.ca_url: must be a URL such as https://acme.example.com/directory (it is "http://acme.example")`,
		}},
	} {
		t.Run(test.name, test.check)
	}
}
