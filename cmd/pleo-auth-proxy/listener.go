package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/api"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/connect"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy"
)

// listener is one place where the server waits for requests.
type listener struct {
	name       string // as in the configuration: proxy, proxy.listeners[0], admin, connect, connect.http, health
	at         config.Listen
	connection string // that all requests are for; empty unless it is one of proxy.listeners
	bound      net.Listener
	http       *http.Server
}

// The names of the listeners.
const (
	proxyListener   = "proxy"
	adminListener   = "admin"
	connectListener = "connect"
	plainListener   = "connect.http"
	healthListener  = "health"
)

// listenersOf returns the listeners that are not off.
func listenersOf(cfg *config.Config) []*listener {
	all := []*listener{{name: proxyListener, at: cfg.Proxy.Listen}}
	for i, own := range cfg.Proxy.Listeners {
		name := fmt.Sprintf("%s.listeners[%d]", proxyListener, i)
		all = append(all, &listener{name: name, at: own.Listen, connection: own.Connection})
	}
	all = append(all,
		&listener{name: adminListener, at: cfg.Admin.Listen},
		&listener{name: healthListener, at: cfg.Health.Listen},
	)
	if cfg.Connect.PublicURL != nil {
		all = append(all, &listener{name: connectListener, at: cfg.Connect.Listen}, &listener{name: plainListener, at: cfg.Connect.HTTP})
	}
	return slices.DeleteFunc(all, func(l *listener) bool { return l.at.Off() })
}

// serve puts the listener's handler behind it.
func (l *listener) serve(p *components, log *zap.Logger) {
	errorLog, err := zap.NewStdLogAt(log.Named("http").With(zap.String("listener", l.name)), zapcore.DebugLevel)
	if err != nil {
		errorLog = zap.NewStdLog(log) // only an unknown level makes it fail
	}
	switch {
	case l.forClients():
		l.serveProxy(p, errorLog)
	case l.name == connectListener:
		l.bound = connect.LimitConnections(l.bound)
		l.http = connect.NewServer(p.pages, p.pagesTLS(l), errorLog)
	case l.name == plainListener:
		l.bound = connect.LimitConnections(l.bound)
		l.http = connect.NewServer(p.plainPages, nil, errorLog)
	case l.name == adminListener:
		l.http = api.NewServer(p.api.Handler(p.dashboard.Handler()), l.tls(p.tls.admin), errorLog)
	default:
		l.http = api.NewServer(p.api.HealthHandler(), nil, errorLog)
	}
}

// forClients reports whether requests to the API are sent here.
func (l *listener) forClients() bool { return strings.HasPrefix(l.name, proxyListener) }

// tls returns what the listener needs to speak TLS by the files; nil without,
// and on unix sockets, whose file says who may connect.
func (l *listener) tls(files *tlsFiles) *tls.Config {
	if files == nil || l.at.Network == "unix" {
		return nil
	}
	return files.config()
}

// serveProxy puts the proxy behind the listener.
func (l *listener) serveProxy(p *components, errorLog *stdlog.Logger) {
	var handler http.Handler = p.proxy
	if l.connection != "" {
		handler = p.proxy.ForConnection(l.connection)
	}
	l.bound = proxy.TrackConnections(l.bound)
	l.http = proxy.NewServer(handler, l.tls(p.tls.proxy), errorLog)
}

// run serves until the listener is shut down, and reports any other end.
func (l *listener) run(failed chan<- error) {
	serve := l.http.Serve
	if l.http.TLSConfig != nil {
		serve = func(bound net.Listener) error { return l.http.ServeTLS(bound, "", "") }
	}
	if err := serve(l.bound); !errors.Is(err, http.ErrServerClosed) {
		failed <- fmt.Errorf("serving %s: %w", l.address(), err)
	}
}

// shutdown takes no new requests and waits for those under way; what is left
// when ctx ends is cut off. It reports whether nothing had to be.
func (l *listener) shutdown(ctx context.Context) bool {
	if err := l.http.Shutdown(ctx); err == nil {
		return true
	}
	_ = l.http.Close() // its errors are those of connections that are to end
	return false
}

// address returns where the listener waits, with the port that it was given.
func (l *listener) address() string {
	if l.at.Network == "unix" {
		return l.at.String()
	}
	return l.bound.Addr().String()
}

// ignoredProxyVariables returns the variables of environ that other programs
// would take a forward proxy from.
func ignoredProxyVariables(environ []string) []string {
	var found []string
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		switch strings.ToUpper(name) {
		case "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY":
			if value != "" {
				found = append(found, name)
			}
		}
	}
	return found
}
