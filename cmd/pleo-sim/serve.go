package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/errgroup"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// shutdownTimeout is how long requests in flight may take once the program stops.
const shutdownTimeout = 2 * time.Second

func newLogger(level string, w io.Writer) (*zap.Logger, error) {
	parsed, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("reading --log-level: %w", err)
	}
	encoder := zap.NewProductionEncoderConfig()
	encoder.EncodeTime = zapcore.ISO8601TimeEncoder
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(encoder), zapcore.Lock(zapcore.AddSync(w)), parsed)), nil
}

// listener is a listener with its server, which uses TLS if it has a TLSConfig.
type listener struct {
	net.Listener
	server *http.Server
}

func (l listener) url() string {
	if l.server.TLSConfig != nil {
		return "https://" + l.Addr().String()
	}
	return "http://" + l.Addr().String()
}

// ready is the line that the program prints when it is ready.
type ready struct {
	APIURL       string              `json:"api_url"`
	AuthURL      string              `json:"auth_url"`
	ControlURL   string              `json:"control_url"`
	ClientID     string              `json:"client_id"`
	ClientSecret string              `json:"client_secret"`
	RedirectURIs []string            `json:"redirect_uris"`
	Companies    []simulator.Company `json:"companies"`
	Keys         []simulator.Key     `json:"keys"`
}

// serve serves the simulator until the context ends.
func (o *options) serve(ctx context.Context, sim *simulator.Simulator, out io.Writer) error {
	listeners, line, err := o.open(ctx, sim)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		g.Go(l.serve)
	}
	g.Go(func() error {
		if err := json.NewEncoder(out).Encode(line); err != nil {
			return fmt.Errorf("printing the ready line: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		sim.Close()
		shutDown(listeners)
		return nil
	})
	return g.Wait()
}

func (l listener) serve() error {
	serve := func() error { return l.server.Serve(l.Listener) }
	if l.server.TLSConfig != nil {
		serve = func() error { return l.server.ServeTLS(l.Listener, "", "") }
	}
	if err := serve(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s: %w", l.url(), err)
	}
	return nil
}

// shutDown lets requests in flight finish within shutdownTimeout.
func shutDown(listeners []listener) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout) // the program's own has ended
	defer cancel()
	for _, l := range listeners {
		if err := l.server.Shutdown(ctx); err != nil {
			_ = l.server.Close() // aborts what is left
		}
		_ = l.Close() // it may not have been served yet
	}
}

// open opens all listeners and returns the line to print. Parts without an address
// of their own share the first listener.
func (o *options) open(ctx context.Context, sim *simulator.Simulator) ([]listener, ready, error) {
	tlsConfig, err := o.tlsConfig()
	if err != nil {
		return nil, ready{}, err
	}
	main, err := listen(ctx, o.listen, sim.Handler(), tlsConfig)
	if err != nil {
		return nil, ready{}, err
	}
	listeners := []listener{main}
	client := sim.DefaultClient()
	line := ready{
		APIURL: main.url(), AuthURL: main.url(), ControlURL: main.url(),
		ClientID: client.ID, ClientSecret: client.Secret, RedirectURIs: client.RedirectURIs,
		Companies: sim.Companies(), Keys: sim.Keys(),
	}
	for _, part := range []struct {
		address   string
		handler   http.Handler
		tlsConfig *tls.Config
		url       *string
	}{
		{o.authListen, sim.AuthorizationServer(), tlsConfig, &line.AuthURL},
		{o.controlListen, sim.Control(), nil, &line.ControlURL},
	} {
		if part.address == "" {
			continue
		}
		l, err := listen(ctx, part.address, part.handler, part.tlsConfig)
		if err != nil {
			shutDown(listeners)
			return nil, ready{}, err
		}
		listeners, *part.url = append(listeners, l), l.url()
	}
	return listeners, line, nil
}

// tlsConfig returns nil if no certificate is given.
func (o *options) tlsConfig() (*tls.Config, error) {
	if o.tlsCert == "" && o.tlsKey == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(o.tlsCert, o.tlsKey)
	if err != nil {
		return nil, fmt.Errorf("%w: reading --tls-cert and --tls-key: %w", errUsage, err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

func listen(ctx context.Context, address string, h http.Handler, tlsConfig *tls.Config) (listener, error) {
	var config net.ListenConfig
	ln, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return listener{}, fmt.Errorf("listening on %s: %w", address, err)
	}
	return listener{ln, &http.Server{Handler: h, TLSConfig: tlsConfig, ReadHeaderTimeout: 30 * time.Second}}, nil
}
