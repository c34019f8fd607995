package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
)

const (
	checkListeners = "listeners"
	checkConnect   = "connect"
)

// listeners finds out whether the server can listen where it is told to, or does
// so already.
func (d *doctor) listeners(ctx context.Context) {
	for _, l := range listenersOf(d.cfg) {
		if !strings.HasSuffix(l.at.Address, ":0") {
			d.listener(ctx, l)
		}
	}
}

func (d *doctor) listener(ctx context.Context, l *listener) {
	key, at := l.name+".listen", l.at.String()
	dialCtx, cancel := context.WithTimeout(ctx, time.Second)
	conn, err := new(net.Dialer).DialContext(dialCtx, l.at.Network, dialAddress(l.at))
	cancel()
	if err != nil {
		d.checkFree(ctx, l, key)
		return
	}
	_ = conn.Close() // dash was sent
	if d.tls(l).ClientCAFile != "" {
		d.report(checkListeners, severityNote, key, "somebody listens at "+at+"; who cannot be seen without a client certificate", "")
		return
	}
	ours, err := d.isOurs(ctx, l)
	if err != nil && l.name == connectListener && !d.cfg.Connect.ACME.Off() {
		d.report(checkListeners, severityWarning, key, "no certificate is shown at "+at+": "+err.Error(), "see the log of the server for what keeps it from getting one")
		return
	}
	if !ours {
		d.report(checkListeners, severityError, key, "another program listens at "+at, "stop that program, or set "+key+" to another address")
		return
	}
	d.report(checkListeners, severityOK, key, "a server of ours answers at "+at, "")
	switch l.name {
	case adminListener:
		d.readyz(ctx, l)
	case connectListener:
		d.publicURL(ctx)
	}
}

// publicURL looks whether browsers that go to connect.public_url come to our
// pages.
func (d *doctor) publicURL(ctx context.Context) {
	u := d.cfg.Connect.PublicURL
	d.report(checkConnect, severityNote, "connect.public_url", "Pleo sends customers back to "+u.JoinPath("oauth/callback").String(),
		"have exactly this redirect URI registered for your client at Pleo")
	transport, err := outbound.NewTransport(outbound.Config{})
	if err != nil {
		return // it fails for a forward proxy only
	}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	_, header, err := outbound.Probe(ctx, transport, u)
	var unreachable *outbound.UnreachableError
	switch {
	case errors.As(err, &unreachable):
		d.report(checkConnect, severityWarning, "connect.public_url", unreachable.Error(), unreachable.Hint+"; customers' browsers have to reach it, if not this machine")
	case !isPage(header):
		d.report(checkConnect, severityError, "connect.public_url", "something else than our pages answers at "+u.String(), "have the ingress for this host send everything to connect.listen")
	default:
		d.report(checkConnect, severityOK, "connect.public_url", "leads to our pages", "")
	}
}

// checkFree opens the listener and closes it again.
func (d *doctor) checkFree(ctx context.Context, l *listener, key string) {
	bound, err := bind(ctx, key, l.at)
	if err != nil {
		d.reportError(checkListeners, key, err, "set "+key+" to an address that this machine has and this user may listen at")
		return
	}
	_ = bound.Close() // nobody can have come
	d.report(checkListeners, severityOK, key, l.at.String()+" is free; no server is running", "")
}

// isOurs reports whether it is this program that answers at the listener. The
// proxy says so in answers of its own: TRACE is never forwarded.
func (d *doctor) isOurs(ctx context.Context, l *listener) (bool, error) {
	method, path := http.MethodGet, "/"
	switch {
	case l.forClients():
		method = http.MethodTrace
	case l.name == adminListener, l.name == healthListener:
		path = "/livez"
	}
	a, err := d.send(ctx, l, method, path)
	if err != nil {
		return false, err
	}
	switch {
	case l.forClients():
		return strings.HasPrefix(a.header.Get("Proxy-Status"), "pleo-auth-proxy"), nil
	case l.name == connectListener:
		return isPage(a.header), nil
	case l.name == plainListener:
		return strings.HasPrefix(a.header.Get("Location"), d.cfg.Connect.PublicURL.Scheme+"://"+d.cfg.Connect.PublicURL.Host), nil
	}
	return a.status == http.StatusOK && a.body == "ok\n", nil
}

// isPage reports whether a header is that of our pages for customers.
func isPage(h http.Header) bool {
	return strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'none'; style-src 'self';") && h.Get("X-Robots-Tag") != ""
}

// readyz passes on what the running server says is not well.
func (d *doctor) readyz(ctx context.Context, l *listener) {
	a, err := d.send(ctx, l, http.MethodGet, "/readyz?verbose")
	if err != nil {
		return // it has just answered; it is ending
	}
	for line := range strings.Lines(a.body) {
		if said, bad := strings.CutPrefix(strings.TrimSpace(line), "[-] "); bad {
			d.report(checkListeners, severityWarning, "readyz", "the running server says: "+said, "see the other findings, and the server's log")
		}
	}
}

// tls returns by which files the listener speaks TLS.
func (d *doctor) tls(l *listener) config.TLS {
	switch {
	case l.at.Network == "unix":
		return config.TLS{}
	case l.forClients():
		return d.cfg.Proxy.TLS
	case l.name == adminListener:
		return d.cfg.Admin.TLS
	case l.name == connectListener:
		return d.cfg.Connect.TLS
	}
	return config.TLS{}
}

// try asks a listener, over TLS where it has that, and the pages for customers
// by their public name.
func (d *doctor) send(ctx context.Context, l *listener, method, path string) (localResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, healthcheckTimeout)
	defer cancel()
	at := url.URL{Scheme: "http", Host: "localhost"}
	if l.name == connectListener || l.name == plainListener {
		at.Host = d.cfg.Connect.PublicURL.Host
	}
	if !d.tls(l).Off() || l.name == connectListener && !d.cfg.Connect.ACME.Off() {
		at.Scheme = "https"
	}
	return requestListener(ctx, l.at, method, at.String()+path)
}
