package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// requestTimeout bounds one request to a server.
const requestTimeout = 20 * time.Second

// clockTolerance is a difference between clocks that does no harm.
const clockTolerance = 30 * time.Second

// checkEnvironments finds hosts of Pleo that do not belong together.
func checkEnvironments(r *report, cfg *config.Config) {
	api, auth := environmentOf(cfg.Upstream.APIURL), environmentOf(cfg.Upstream.AuthURL)
	if cfg.EndpointsFixed() || api == "" && auth == "" {
		return
	}
	if api != auth {
		r.add(checkConfiguration, Error, "upstream",
			fmt.Sprintf("%s and %s do not belong together: a token of one environment is not valid in another", cfg.Upstream.APIURL.Host, cfg.Upstream.AuthURL.Host),
			"use environment: production or environment: staging, which set both")
		return
	}
	r.add(checkConfiguration, Note, "environment", "the hosts are those of Pleo's "+api+" environment",
		"use environment: "+api+" and omit upstream.api_url and upstream.auth_url")
}

// environmentOf returns the environment of Pleo that has the host, or "".
func environmentOf(u *url.URL) string {
	for _, name := range []string{"production", "staging"} {
		if e, ok := pleo.EndpointsFor(name); ok && (e.API.Host == u.Host || e.Auth.Host == u.Host) {
			return name
		}
	}
	return ""
}

// checkReachability compares the clocks of Pleo's servers with ours, and reports
// whether both servers can be reached.
func checkReachability(ctx context.Context, r *report, cfg *config.Config) bool {
	transport, err := setup.UpstreamTransport(cfg)
	if err != nil {
		return false // checkInputs has reported it
	}
	defer transport.CloseIdleConnections()
	reachable := probe(ctx, r, transport, cfg.Upstream.APIURL)
	if cfg.Upstream.AuthURL.Host == cfg.Upstream.APIURL.Host {
		return reachable
	}
	return probe(ctx, r, transport, cfg.Upstream.AuthURL) && reachable
}

func probe(ctx context.Context, r *report, transport http.RoundTripper, u *url.URL) bool {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	before := time.Now()
	date, _, err := outbound.Probe(ctx, transport, u)
	var unreachable *outbound.UnreachableError
	if errors.As(err, &unreachable) {
		r.add(checkNetwork, Error, u.Host, unreachable.Error(), unreachable.Hint)
		r.causes = append(r.causes, err)
		return false
	}
	r.add(checkNetwork, OK, u.Host, "responds", "")
	if !date.IsZero() {
		compareClocks(r, u.Host, date, before, time.Now())
	}
	return true
}

// compareClocks compares a server's clock with ours: it was date there at some
// moment between before and after. A Date field has whole seconds.
func compareClocks(r *report, host string, date, before, after time.Time) {
	difference := time.Duration(0)
	switch {
	case date.Add(time.Second).Before(before):
		difference = before.Sub(date)
	case date.After(after):
		difference = after.Sub(date)
	}
	if difference.Abs() <= clockTolerance {
		r.add(checkClock, OK, host, "agrees with this machine's clock", "")
		return
	}
	direction := "ahead of"
	if difference < 0 {
		direction = "behind"
	}
	r.add(checkClock, Warning, host, fmt.Sprintf("this machine's clock is %v %s the server's", difference.Abs().Round(time.Second), direction),
		"synchronize the clock (systemd-timesyncd or chrony): certificates and signatures depend on it")
}

// checkOAuthClient checks the client's id and secret with the authorization server.
func checkOAuthClient(ctx context.Context, r *report, cfg *config.Config) {
	id := cfg.OAuth.ClientID
	if id == "" {
		r.add(checkClient, Note, "oauth.client_id", "not set: only API keys can be used", "")
		return
	}
	current := *cfg
	current.OAuth.PreviousClientSecret = config.SecretSource{}
	err := authenticate(ctx, r, &current)
	if isClientRejected(err) && !cfg.OAuth.PreviousClientSecret.IsZero() {
		previous := current
		previous.OAuth.ClientSecret = cfg.OAuth.PreviousClientSecret
		if authenticate(ctx, r, &previous) == nil {
			r.add(checkClient, Warning, id, "Pleo rejects oauth.client_secret, and accepts oauth.previous_client_secret",
				"set oauth.client_secret to the new secret once Pleo accepts it")
			return
		}
	}
	switch host := cfg.Upstream.AuthURL.Host; {
	case err == nil:
		r.add(checkClient, OK, id, "the authorization server accepts the client and its secret", "")
	case isClientRejected(err):
		r.causes = append(r.causes, err)
		r.add(checkClient, Error, id, "the authorization server rejects the client or its secret",
			fmt.Sprintf("check that oauth.client_id and oauth.client_secret belong to the environment %q, and whether oauth.client_auth must be basic_plain or post", cfg.Environment))
	case errors.Is(err, pleo.ErrIntrospectionUnsupported), errors.Is(err, errAlwaysActive):
		r.add(checkClient, Warning, host, err.Error()+", so tokens cannot be checked before a risky refresh",
			"check upstream.auth_url; Pleo's own server supports token introspection")
	default:
		r.add(checkClient, Warning, host, "cannot check the client: "+err.Error(), "try again later, after fixing the network errors above")
	}
}

var errAlwaysActive = errors.New("token introspection calls a token active that does not exist")

// authenticate returns nil if the authorization server accepts the client of cfg. It
// introspects a token that does not exist.
func authenticate(ctx context.Context, r *report, cfg *config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	transport, err := setup.UpstreamTransport(cfg)
	if err != nil {
		return err
	}
	log, addWarnings := r.warnings(checkClient, "check the files of the client secrets")
	defer addWarnings()
	server, err := setup.NewAuthorizationServer(cfg, transport, log)
	if err != nil {
		return err
	}
	active, err := server.Active(ctx, credstore.NewSecret("pleo-auth-proxy-doctor"), "refresh_token")
	if err == nil && active {
		return errAlwaysActive
	}
	return err
}

func isClientRejected(err error) bool {
	var response *pleo.ResponseError
	return errors.As(err, &response) && response.Class == pleo.ClientRejected
}
