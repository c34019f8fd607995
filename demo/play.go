package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// tokenLife is short, so that a refresh can be watched. Pleo's own tokens live
// some minutes.
const tokenLife = "4s"

// play shows the demo, step by step.
func (s *stage) play(ctx context.Context) error {
	fmt.Fprintln(s.out, "pleo-auth-proxy: a demo on this machine alone. It ends by itself; its files stay in "+workDir+".")
	if s.curl == "" {
		fmt.Fprintln(s.out, "There is no curl here, so the demo sends by itself what the curl commands below would send.")
	}
	for _, step := range []func(context.Context) error{
		s.startPleo, s.configure, s.addOAuth, s.addKeys, s.startProxy,
		s.askForAll, s.watchRefresh, s.healRejected, s.revoke, s.askOthers, s.stop,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) startPleo(context.Context) error {
	if err := errors.Join(os.RemoveAll(workDir), os.Mkdir(workDir, 0o700)); err != nil {
		return err
	}
	p, err := start(&s.said, pleoLog(), s.program("pleo-sim"),
		"--listen", "127.0.0.1:0", "--access-token-lifetime", tokenLife)
	if err != nil {
		return err
	}
	s.pleo = p
	if len(s.said.Companies) < 3 {
		return fmt.Errorf("the simulator has %d companies, the demo wants 3", len(s.said.Companies))
	}
	s.explain("A simulated Pleo runs at %s. Its access tokens live %s, so that there is something to see.", s.said.APIURL, tokenLife)
	return nil
}

func (s *stage) configure(context.Context) error {
	s.explain("This is all the configuration that the proxy needs (port 0 stands for any free one):")
	config := fmt.Sprintf(`environment: custom   # or production, then without URLs
data_dir: %s
upstream:
  api_url: %s
  auth_url: %s
oauth:
  client_id: %s
  client_secret_file: %s
proxy:
  listen: 127.0.0.1:0
admin:
  listen: 127.0.0.1:0
`, filepath.Join(workDir, "data"), s.said.APIURL, s.said.AuthURL, s.said.ClientID, filepath.Join(workDir, "client-secret"))
	s.show(config)
	return errors.Join(
		os.WriteFile(filepath.Join(workDir, "client-secret"), []byte(s.said.ClientSecret), 0o600),
		os.WriteFile(filepath.Join(workDir, "config.yaml"), []byte(config), 0o600))
}

func (s *stage) addOAuth(ctx context.Context) error {
	s.explain("acme is connected by OAuth: its tokens, which another system has got by consent, come in on standard input.")
	if err := s.control(ctx, http.MethodPost, "grants", map[string]string{"company": s.said.Companies[0].ID}, &s.grant); err != nil {
		return err
	}
	line, err := json.Marshal(map[string]any{
		"name": "acme", "kind": "oauth", "refresh_token": s.grant.RefreshToken,
		"access_token": s.grant.AccessToken, "expires_at": s.grant.ExpiresAt,
	})
	if err != nil {
		return err
	}
	return s.command(ctx, string(line), "connections", "import", "-")
}

func (s *stage) addKeys(ctx context.Context) error {
	s.explain("bolt has an integrated key and crux a standalone key; keys come from a file or standard input, never as an argument.")
	for i, name := range []string{"bolt", "crux"} {
		kind := []string{"integrated_key", "standalone_key"}[i]
		var key struct {
			Value string `json:"key"`
		}
		want := map[string]string{"kind": kind, "company": s.said.Companies[i+1].ID}
		if err := s.control(ctx, http.MethodPost, "keys", want, &key); err != nil {
			return err
		}
		if err := s.command(ctx, key.Value, "connections", "add", name, "--kind", kind, "--key-file", "-"); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) startProxy(context.Context) error {
	args := []string{"serve", "--json", "--config", filepath.Join(workDir, "config.yaml")}
	p, err := start(&s.listen, proxyLog(), s.program("pleo-auth-proxy"), args...)
	if err != nil {
		return err
	}
	s.proxy = p
	s.explain("The proxy is ready: clients use http://%s and name their connection in a header.", s.listen.Proxy)
	s.show("$ " + strings.Join(p.cmd.Args, " "))
	return nil
}

func (s *stage) askForAll(ctx context.Context) error {
	s.explain("A plain request for each: the proxy puts on a Bearer token for acme, the key in Basic form for bolt and crux.")
	for i, name := range []string{"acme", "bolt", "crux"} {
		a, err := s.get(ctx, name, "/v1/introspect", http.StatusOK)
		if err != nil {
			return err
		}
		if company := s.said.Companies[i].ID; !strings.Contains(string(a.body), company) {
			return fmt.Errorf("the answer for %s is not about company %s", name, company)
		}
	}
	return nil
}

func (s *stage) watchRefresh(ctx context.Context) error {
	before, err := s.look(ctx, "acme")
	if err != nil {
		return err
	}
	s.explain("acme's token is about to expire. The proxy refreshes it before that, since it is in use:")
	var now connection
	err = await(ctx, "a refresh", func(ctx context.Context) (done bool, err error) {
		now, err = s.look(ctx, "acme")
		return now.Version > before.Version, err
	})
	if err != nil {
		return err
	}
	s.show(fmt.Sprintf("the credential went from version %d to version %d, saved before it was used", before.Version, now.Version))
	_, err = s.get(ctx, "acme", "/v2/employees?limit=1", http.StatusOK)
	return err
}

func (s *stage) healRejected(ctx context.Context) error {
	s.explain("Now Pleo drops acme's token early. The proxy gets a 401, refreshes, and sends the request again; the client sees a 200:")
	if err := s.control(ctx, http.MethodPost, "access-tokens/kill", map[string]string{"grant": s.grant.ID}, nil); err != nil {
		return err
	}
	if _, err := s.get(ctx, "acme", "/v1/companies?limit=1", http.StatusOK); err != nil {
		return err
	}
	return await(ctx, "the request in the log", func(context.Context) (bool, error) {
		line, err := findLine(proxyLog(), `"path":"/v1/companies"`)
		if line == "" || err != nil {
			return false, err
		}
		s.show("the proxy's log: " + line)
		if !strings.Contains(line, `"attempts":2`) {
			return false, errors.New("the request was not sent twice")
		}
		return true, nil
	})
}

// findLine returns the first line of a file that holds text, if there is one.
func findLine(path, text string) (string, error) {
	all, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(all)) {
		if strings.Contains(line, text) && strings.HasSuffix(line, "\n") {
			return line, nil
		}
	}
	return "", nil
}

func (s *stage) revoke(ctx context.Context) error {
	s.explain("acme's admin removes the integration at Pleo. The next refresh is refused, and the proxy tells clients what is needed:")
	if err := s.control(ctx, http.MethodDelete, "grants/"+s.grant.ID, nil, nil); err != nil {
		return err
	}
	err := await(ctx, "the refusal", func(ctx context.Context) (bool, error) {
		c, err := s.look(ctx, "acme")
		return c.Status == "reauthorization_required", err
	})
	if err != nil {
		return err
	}
	a, err := s.get(ctx, "acme", "/v2/employees?limit=1", http.StatusUnauthorized)
	if err != nil {
		return err
	}
	if a.contentType != "application/problem+json" || !strings.Contains(string(a.body), `"reauthorization_required"`) {
		return fmt.Errorf("the answer is %s without the code reauthorization_required", a.contentType)
	}
	return nil
}

func (s *stage) askOthers(ctx context.Context) error {
	s.explain("The other connections do not notice, and the list shows who needs a person:")
	if _, err := s.get(ctx, "bolt", "/v2/employees?limit=1", http.StatusOK); err != nil {
		return err
	}
	return s.command(ctx, "", "connections", "list")
}

func (s *stage) stop(ctx context.Context) error {
	var seen struct {
		Refreshes    int `json:"refreshes"`
		MaxTimesSent int `json:"max_times_sent"`
	}
	if err := s.control(ctx, http.MethodGet, "counters", nil, &seen); err != nil {
		return err
	}
	s.explain("Pleo counted %d refreshes, and presentations of any one refresh token: %d. Everything stops.", seen.Refreshes, seen.MaxTimesSent)
	if seen.Refreshes < 2 || seen.MaxTimesSent != 1 {
		return errors.New("there should have been two refreshes or more, and no refresh token used twice")
	}
	return s.end()
}
