// Package listen opens the listeners of the configuration.
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
)

// Role is what a listener serves.
type Role int

// The roles.
const (
	Proxy       Role = iota // requests to the API
	Admin                   // the operator's API and pages
	Health                  // health endpoints and metrics
	Connect                 // the customer's pages
	ConnectHTTP             // plain HTTP beside the customer's pages
)

// Listener is an address to accept connections on.
type Listener struct {
	Name       string // as in the configuration, such as proxy.listeners[0]
	Role       Role
	At         config.Listen
	TLS        config.TLS // the certificate files; off for plain HTTP and on unix sockets
	Connection string     // that all requests are for; empty: each request names one

	bound  net.Listener
	server *http.Server
}

// New returns the listeners that are not off. They are not open yet.
func New(cfg *config.Config) []*Listener {
	all := []*Listener{{Name: "proxy", Role: Proxy, At: cfg.Proxy.Listen, TLS: cfg.Proxy.TLS}}
	for i, l := range cfg.Proxy.Listeners {
		all = append(all, &Listener{
			Name: fmt.Sprintf("proxy.listeners[%d]", i), Role: Proxy, At: l.Listen, TLS: cfg.Proxy.TLS, Connection: l.Connection,
		})
	}
	all = append(all,
		&Listener{Name: "admin", Role: Admin, At: cfg.Admin.Listen, TLS: cfg.Admin.TLS},
		&Listener{Name: "health", Role: Health, At: cfg.Health.Listen},
	)
	if cfg.Connect.PublicURL != nil {
		all = append(all,
			&Listener{Name: "connect", Role: Connect, At: cfg.Connect.Listen, TLS: cfg.Connect.TLS},
			&Listener{Name: "connect.http", Role: ConnectHTTP, At: cfg.Connect.HTTP},
		)
	}
	all = slices.DeleteFunc(all, func(l *Listener) bool { return l.At.Off() })
	for _, l := range all {
		if l.At.Network == "unix" { // the mode of the file says who may connect
			l.TLS = config.TLS{}
		}
	}
	return all
}

// Key is the key of the listener in the configuration.
func (l *Listener) Key() string { return l.Name + ".listen" }

// Bind opens the listener. Clients that connect early wait until Serve is called.
// The error says what to do.
func (l *Listener) Bind(ctx context.Context) (err error) {
	l.bound, err = bind(ctx, l.Key(), l.At)
	return err
}

// Close closes the listener if Bind has opened it. It may be called more than once.
func (l *Listener) Close() {
	if l.bound != nil {
		_ = l.bound.Close() // only a second close fails
	}
}

// SetServer sets what serves the connections, after wrap has been applied to the open
// listener. A nil wrap changes nothing.
func (l *Listener) SetServer(server *http.Server, wrap func(net.Listener) net.Listener) {
	l.server = server
	if wrap != nil {
		l.bound = wrap(l.bound)
	}
}

// Serve serves until Shutdown. It returns an error for every other end.
func (l *Listener) Serve() error {
	serve := l.server.Serve
	if l.server.TLSConfig != nil {
		serve = func(bound net.Listener) error { return l.server.ServeTLS(bound, "", "") }
	}
	if err := serve(l.bound); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s: %w", l.Address(), err)
	}
	return nil
}

// Shutdown stops accepting requests and waits for those in flight. When ctx ends, it
// closes their connections, and returns false.
func (l *Listener) Shutdown(ctx context.Context) bool {
	if err := l.server.Shutdown(ctx); err == nil {
		return true
	}
	_ = l.server.Close() // its errors are those of connections to be closed
	return false
}

// Address returns where the open listener is, with the port that the system chose.
func (l *Listener) Address() string {
	if l.At.Network == "unix" {
		return l.At.String()
	}
	return l.bound.Addr().String()
}
