package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

const (
	checkNetwork = "network"
	checkClock   = "clock"
	checkClient  = "client"
)

// How long one question to a server may take.
const reachTimeout = 20 * time.Second

// A clock that is off by less troubles nobody.
const clockTolerance = 30 * time.Second

// environments looks for hosts of Pleo's that do not belong together.
func (d *doctor) environments() {
	api, auth := environmentOf(d.cfg.Upstream.APIURL), environmentOf(d.cfg.Upstream.AuthURL)
	if d.cfg.EndpointsFixed() || api == "" && auth == "" {
		return
	}
	if api != auth {
		d.report(checkConfiguration, severityError, "upstream",
			fmt.Sprintf("%s and %s do not belong together: a token of one environment is worth nothing in another", d.cfg.Upstream.APIURL.Host, d.cfg.Upstream.AuthURL.Host),
			"use environment: production or environment: staging, which set both")
		return
	}
	d.report(checkConfiguration, severityNote, "environment", "the hosts are those of Pleo's "+api, "use environment: "+api+" and leave upstream.api_url and upstream.auth_url out")
}

// environmentOf returns which of Pleo's environments the host belongs to, if any.
func environmentOf(u *url.URL) string {
	for _, name := range []string{"production", "staging"} {
		if e, ok := pleo.EndpointsFor(name); ok && (e.API.Host == u.Host || e.Auth.Host == u.Host) {
			return name
		}
	}
	return ""
}

// network reaches both servers, compares their clocks with ours, and reports
// whether both can be reached.
func (d *doctor) network(ctx context.Context) bool {
	transport, err := upstreamTransport(d.cfg)
	if err != nil {
		return false // said when the files were looked at
	}
	defer transport.CloseIdleConnections()
	reached := d.reach(ctx, transport, d.cfg.Upstream.APIURL)
	if d.cfg.Upstream.AuthURL.Host == d.cfg.Upstream.APIURL.Host {
		return reached
	}
	return d.reach(ctx, transport, d.cfg.Upstream.AuthURL) && reached
}

func (d *doctor) reach(ctx context.Context, transport http.RoundTripper, u *url.URL) bool {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	before := time.Now()
	date, _, err := outbound.Probe(ctx, transport, u)
	var unreachable *outbound.UnreachableError
	if errors.As(err, &unreachable) {
		d.report(checkNetwork, severityError, u.Host, unreachable.Error(), unreachable.Hint)
		d.causes = append(d.causes, err)
		return false
	}
	d.report(checkNetwork, severityOK, u.Host, "answers", "")
	if !date.IsZero() {
		d.clock(u.Host, date, before, time.Now())
	}
	return true
}

// clock compares a server's clock with ours: it was date there at some moment
// between before and after. Servers tell whole seconds.
func (d *doctor) clock(host string, date, before, after time.Time) {
	off := time.Duration(0)
	switch {
	case date.Add(time.Second).Before(before):
		off = before.Sub(date)
	case date.After(after):
		off = after.Sub(date)
	}
	if off.Abs() <= clockTolerance {
		d.report(checkClock, severityOK, host, "agrees with this machine's clock", "")
		return
	}
	direction := "ahead of"
	if off < 0 {
		direction = "behind"
	}
	d.report(checkClock, severityWarning, host, fmt.Sprintf("this machine's clock is %v %s the server's", off.Abs().Round(time.Second), direction),
		"have the clock set by the network (systemd-timesyncd or chrony): certificates and signatures depend on it")
}

// client asks the authorization server whether it knows our client. The token
// that it is asked about does not exist, so nothing can be spent.
func (d *doctor) client(ctx context.Context) {
	if d.cfg.OAuth.ClientID == "" {
		d.report(checkClient, severityNote, "oauth.client_id", "not set: only API keys can be used", "")
		return
	}
	current := *d.cfg
	current.OAuth.PreviousClientSecret = config.SecretSource{}
	err := d.authenticate(ctx, &current)
	if clientRejected(err) && !d.cfg.OAuth.PreviousClientSecret.IsZero() {
		previous := current
		previous.OAuth.ClientSecret = d.cfg.OAuth.PreviousClientSecret
		if d.authenticate(ctx, &previous) == nil {
			d.report(checkClient, severityWarning, d.cfg.OAuth.ClientID, "Pleo refuses oauth.client_secret, and accepts oauth.previous_client_secret",
				"put the new secret into oauth.client_secret, once it is in force at Pleo")
			return
		}
	}
	d.reportClient(err)
}

// errAlwaysActive says that introspection cannot be trusted.
var errAlwaysActive = errors.New("introspection calls a token active that does not exist")

// authenticate returns nil where the client of cfg is accepted.
func (d *doctor) authenticate(ctx context.Context, cfg *config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	transport, err := upstreamTransport(cfg)
	if err != nil {
		return err
	}
	server, err := newAuthorizationServer(cfg, transport, d.capturingLogger(checkClient, "see the files of the client secrets"))
	if err != nil {
		return err
	}
	active, err := server.Active(ctx, credstore.NewSecret("pleo-auth-proxy-doctor"), "refresh_token")
	if err == nil && active {
		return errAlwaysActive
	}
	return err
}

func clientRejected(err error) bool {
	var answer *pleo.ResponseError
	return errors.As(err, &answer) && answer.Class == pleo.ClientRejected
}

func (d *doctor) reportClient(err error) {
	id := d.cfg.OAuth.ClientID
	switch {
	case err == nil:
		d.report(checkClient, severityOK, id, "the authorization server accepts the client and its secret", "")
	case clientRejected(err):
		d.report(checkClient, severityError, id, "the authorization server refuses the client or its secret",
			fmt.Sprintf("check oauth.client_id and oauth.client_secret, that they are of the environment %q, and whether oauth.client_auth has to be basic_plain or post", d.cfg.Environment))
		d.causes = append(d.causes, err)
	case errors.Is(err, pleo.ErrIntrospectionUnsupported), errors.Is(err, errAlwaysActive):
		d.report(checkClient, severityWarning, d.cfg.Upstream.AuthURL.Host, err.Error()+", so that doubtful tokens cannot be asked about",
			"check upstream.auth_url; Pleo's own server has introspection")
	default:
		d.report(checkClient, severityWarning, d.cfg.Upstream.AuthURL.Host, "whether the client is accepted cannot be told: "+err.Error(), "try again later, after what is wrong with the network is mended")
	}
}
