package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
)

// healthcheckTimeout is shorter than what image and pod health checks allow.
const healthcheckTimeout = 3 * time.Second

func newHealthcheckCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "healthcheck",
		Short: "Asks the running server whether it is ready",
		Long: `Asks /readyz of the running server, at health.listen or else at admin.listen, and
exits 0 if it is ready. For images that have no shell and no curl:

  HEALTHCHECK CMD ["/pleo-auth-proxy", "healthcheck"]`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := p.loadConfig()
			if err != nil {
				return err
			}
			return healthcheck(cmd.Context(), p, cfg)
		},
	}
}

func healthcheck(ctx context.Context, p *program, cfg *config.Config) error {
	at, err := healthListen(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, healthcheckTimeout)
	defer cancel()
	answer, err := checkReady(ctx, at)
	if err != nil {
		return fmt.Errorf("asking the server at %s: %w", at, err)
	}
	if p.asJSON {
		if err := p.printJSON(map[string]any{"ready": answer.ok, "answer": answer.text}); err != nil {
			return err
		}
	}
	if !answer.ok {
		return errors.New(answer.text)
	}
	p.notef("%s", answer.text)
	return nil
}

// healthListen returns the listener to ask.
func healthListen(cfg *config.Config) (config.Listen, error) {
	at := cfg.Health.Listen
	if at.Off() {
		at = cfg.Admin.Listen
	}
	if at == cfg.Admin.Listen && at.Network == "tcp" && !cfg.Admin.TLS.Off() {
		return at, &config.Error{Mistakes: []config.Mistake{{
			Key: "health.listen", Problem: "is needed for a health check, since admin.listen speaks TLS",
		}}}
	}
	if at.Off() || strings.HasSuffix(at.Address, ":0") {
		return at, &config.Error{Mistakes: []config.Mistake{{
			Key: "health.listen", Problem: "must have a fixed address for a health check, or else admin.listen",
		}}}
	}
	return at, nil
}

type readiness struct {
	ok   bool
	text string
}

// checkReady asks /readyz.
func checkReady(ctx context.Context, at config.Listen) (readiness, error) {
	a, err := requestListener(ctx, at, http.MethodGet, "http://localhost/readyz")
	if err != nil {
		return readiness{}, err
	}
	return readiness{ok: a.status == http.StatusOK, text: strings.TrimSpace(a.body)}, nil
}

// localResponse is what a listener of this machine has answered.
type localResponse struct {
	status int
	header http.Header
	body   string
}

// requestListener asks a listener over a connection of its own, past any HTTP_PROXY.
// The host of the URL is what the listener is told, not where the request goes.
func requestListener(ctx context.Context, at config.Listen, method, url string) (localResponse, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		// It is asked how it is, and told nothing.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // G402: see above
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, at.Network, dialAddress(at))
		},
	}
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return localResponse{}, err
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		return localResponse{}, err
	}
	defer func() { _ = response.Body.Close() }() // it has been read
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	return localResponse{response.StatusCode, response.Header, string(body)}, err
}

// dialAddress returns the address to reach a listener at: one that waits on all
// addresses is asked on a loopback one.
func dialAddress(at config.Listen) string {
	host, port, err := net.SplitHostPort(at.Address)
	if err != nil {
		return at.Address // a socket
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "", err == nil && ip.IsUnspecified() && ip.Is4():
		return net.JoinHostPort("127.0.0.1", port)
	case err == nil && ip.IsUnspecified():
		return net.JoinHostPort("::1", port)
	}
	return at.Address
}
