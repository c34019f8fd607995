package doctor

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/listen"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
)

// localTimeout bounds a request to a listener on this machine.
const localTimeout = 3 * time.Second

// checkEachListener checks whether the server can listen where the configuration
// says, or already does.
func checkEachListener(ctx context.Context, r *report, cfg *config.Config) {
	for _, l := range listen.New(cfg) {
		if !strings.HasSuffix(l.At.Address, ":0") {
			checkListener(ctx, r, cfg, l)
		}
	}
}

func checkListener(ctx context.Context, r *report, cfg *config.Config, l *listen.Listener) {
	key, at := l.Key(), l.At.String()
	dialCtx, cancel := context.WithTimeout(ctx, time.Second)
	conn, err := new(net.Dialer).DialContext(dialCtx, l.At.Network, listen.DialAddress(l.At))
	cancel()
	if err != nil {
		checkFree(ctx, r, l)
		return
	}
	_ = conn.Close() // nothing was sent
	if l.TLS.ClientCAFile != "" {
		r.add(checkListeners, Note, key, "a program listens at "+at+"; which one cannot be checked without a client certificate", "")
		return
	}
	ours, err := isOurs(ctx, cfg, l)
	switch {
	case err != nil && l.Role == listen.Connect && !cfg.Connect.ACME.Off():
		r.add(checkListeners, Warning, key, "there is no certificate at "+at+": "+err.Error(), "see the server's log for why it cannot get one")
	case !ours:
		r.add(checkListeners, Error, key, "another program listens at "+at, "stop that program, or set "+key+" to another address")
	default:
		r.add(checkListeners, OK, key, "a server of pleo-auth-proxy listens at "+at, "")
		if l.Role == listen.Admin {
			reportReadyz(ctx, r, cfg, l)
		}
		if l.Role == listen.Connect {
			checkPublicURL(ctx, r, cfg.Connect.PublicURL)
		}
	}
}

// checkFree opens the listener and closes it again.
func checkFree(ctx context.Context, r *report, l *listen.Listener) {
	if err := l.Bind(ctx); err != nil {
		r.addError(checkListeners, l.Key(), err, "set "+l.Key()+" to an address that this machine has and this user may listen at")
		return
	}
	l.Close()
	r.add(checkListeners, OK, l.Key(), l.At.String()+" is free; no server is running", "")
}

// isOurs reports whether this program responds at the listener. The proxy says so in
// its own responses; it never forwards a TRACE request.
func isOurs(ctx context.Context, cfg *config.Config, l *listen.Listener) (bool, error) {
	method, path := http.MethodGet, "/"
	switch l.Role {
	case listen.Proxy:
		method = http.MethodTrace
	case listen.Admin, listen.Health:
		path = "/livez"
	case listen.Connect, listen.ConnectHTTP:
	}
	response, err := request(ctx, cfg, l, method, path)
	if err != nil {
		return false, err
	}
	switch l.Role {
	case listen.Proxy:
		return strings.HasPrefix(response.Header.Get("Proxy-Status"), "pleo-auth-proxy"), nil
	case listen.Connect:
		return isConnectPage(response.Header), nil
	case listen.ConnectHTTP:
		return strings.HasPrefix(response.Header.Get("Location"), cfg.Connect.PublicURL.Scheme+"://"+cfg.Connect.PublicURL.Host), nil
	case listen.Admin, listen.Health:
	}
	return response.Status == http.StatusOK && response.Body == "ok\n", nil
}

// isConnectPage reports whether a header is that of a customer's page.
func isConnectPage(h http.Header) bool {
	return strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'none'; style-src 'self';") && h.Get("X-Robots-Tag") != ""
}

// reportReadyz reports what is wrong according to the running server.
func reportReadyz(ctx context.Context, r *report, cfg *config.Config, l *listen.Listener) {
	response, err := request(ctx, cfg, l, http.MethodGet, "/readyz?verbose")
	if err != nil {
		return // it has just responded; it is shutting down
	}
	for line := range strings.Lines(response.Body) {
		if message, failed := strings.CutPrefix(strings.TrimSpace(line), "[-] "); failed {
			r.add(checkListeners, Warning, "readyz", "the running server reports: "+message, "see the other findings, and the server's log")
		}
	}
}

// checkPublicURL checks whether connect.public_url leads browsers to the connect pages.
func checkPublicURL(ctx context.Context, r *report, u *url.URL) {
	const key = "connect.public_url"
	r.add(checkConnect, Note, key, "Pleo sends customers back to "+u.JoinPath("oauth/callback").String(),
		"register exactly this redirect URI for your client at Pleo")
	transport, err := outbound.NewTransport(outbound.Config{})
	if err != nil {
		return // only a forward proxy makes it fail
	}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, header, err := outbound.Probe(ctx, transport, u)
	var unreachable *outbound.UnreachableError
	switch {
	case errors.As(err, &unreachable):
		r.add(checkConnect, Warning, key, unreachable.Error(), unreachable.Hint+"; customers' browsers must be able to reach it, even if this machine cannot")
	case !isConnectPage(header):
		r.add(checkConnect, Error, key, "another site responds at "+u.String(), "let the ingress for this host send everything to connect.listen")
	default:
		r.add(checkConnect, OK, key, "is served by pleo-auth-proxy", "")
	}
}

// request sends a request to a listener, over TLS if it uses that, and to the
// customer's pages by their public name.
func request(ctx context.Context, cfg *config.Config, l *listen.Listener, method, path string) (listen.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, localTimeout)
	defer cancel()
	to := url.URL{Scheme: "http", Host: "localhost"}
	if l.Role == listen.Connect || l.Role == listen.ConnectHTTP {
		to.Host = cfg.Connect.PublicURL.Host
	}
	if !l.TLS.Off() || l.Role == listen.Connect && !cfg.Connect.ACME.Off() {
		to.Scheme = "https"
	}
	return listen.Request(ctx, l.At, method, to.String()+path)
}
