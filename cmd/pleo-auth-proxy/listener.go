package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/admin"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy"
)

// listener is one place where the server waits for requests.
type listener struct {
	name  string // as in the configuration: proxy, admin, health
	at    config.Listen
	bound net.Listener
	http  *http.Server
}

// The names of the listeners.
const (
	proxyListener  = "proxy"
	adminListener  = "admin"
	healthListener = "health"
)

// listenersOf returns the listeners that are not off.
func listenersOf(cfg *config.Config) []*listener {
	all := []*listener{
		{name: proxyListener, at: cfg.Proxy.Listen},
		{name: adminListener, at: cfg.Admin.Listen},
		{name: healthListener, at: cfg.Health.Listen},
	}
	return slices.DeleteFunc(all, func(l *listener) bool { return l.at.Off() })
}

// serve puts the listener's handler behind it.
func (l *listener) serve(p *parts, log *zap.Logger) {
	errorLog, err := zap.NewStdLogAt(log.Named("http").With(zap.String("listener", l.name)), zapcore.DebugLevel)
	if err != nil {
		errorLog = zap.NewStdLog(log) // only an unknown level makes it fail
	}
	switch l.name {
	case proxyListener:
		l.bound = proxy.WatchConnections(l.bound)
		l.http = proxy.NewServer(p.proxy, nil, errorLog)
	case adminListener:
		l.http = admin.NewServer(p.admin.Handler(), errorLog)
	default:
		l.http = admin.NewServer(p.admin.HealthHandler(), errorLog)
	}
}

// run serves until the listener is shut down, and reports any other end.
func (l *listener) run(failed chan<- error) {
	if err := l.http.Serve(l.bound); !errors.Is(err, http.ErrServerClosed) {
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
