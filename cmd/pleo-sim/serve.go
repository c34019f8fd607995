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

// shutdownTimeout is how long requests under way may take when the program ends.
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

// listener is one listener and what it serves.
type listener struct {
	listener net.Listener
	server   *http.Server // over TLS if it has a TLSConfig
}

// url is where the site is reached.
func (s listener) url() string {
	if s.server.TLSConfig != nil {
		return "https://" + s.listener.Addr().String()
	}
	return "http://" + s.listener.Addr().String()
}

// ready is the line that tells that the program is ready.
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

// serve runs the simulator until the context ends.
func (o *options) serve(ctx context.Context, sim *simulator.Simulator, out io.Writer) error {
	sites, line, err := o.open(ctx, sim)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range sites {
		g.Go(s.run)
	}
	g.Go(func() error {
		if err := json.NewEncoder(out).Encode(line); err != nil {
			return fmt.Errorf("telling that the simulator is ready: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		sim.Close()
		shutDown(sites)
		return nil
	})
	return g.Wait()
}

func (s listener) run() error {
	serve := func() error { return s.server.Serve(s.listener) }
	if s.server.TLSConfig != nil {
		serve = func() error { return s.server.ServeTLS(s.listener, "", "") }
	}
	if err := serve(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s: %w", s.url(), err)
	}
	return nil
}

// shutDown lets requests under way finish, for a moment.
func shutDown(sites []listener) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout) // the program's own has ended
	defer cancel()
	for _, s := range sites {
		if err := s.server.Shutdown(ctx); err != nil {
			_ = s.server.Close() // what is left is cut off
		}
		_ = s.listener.Close() // it may not have been served yet
	}
}

// open listens on all addresses and tells where the three parts are. What has
// no address of its own is served together.
func (o *options) open(ctx context.Context, sim *simulator.Simulator) ([]listener, ready, error) {
	secure, err := o.tlsConfig()
	if err != nil {
		return nil, ready{}, err
	}
	main, err := listen(ctx, o.listen, sim.Handler(), secure)
	if err != nil {
		return nil, ready{}, err
	}
	sites := []listener{main}
	client := sim.DefaultClient()
	line := ready{
		APIURL: main.url(), AuthURL: main.url(), ControlURL: main.url(),
		ClientID: client.ID, ClientSecret: client.Secret, RedirectURIs: client.RedirectURIs,
		Companies: sim.Companies(), Keys: sim.Keys(),
	}
	for _, own := range []struct {
		address string
		handler http.Handler
		secure  *tls.Config
		url     *string
	}{
		{o.authListen, sim.AuthorizationServer(), secure, &line.AuthURL},
		{o.controlListen, sim.Control(), nil, &line.ControlURL},
	} {
		if own.address == "" {
			continue
		}
		s, err := listen(ctx, own.address, own.handler, own.secure)
		if err != nil {
			shutDown(sites)
			return nil, ready{}, err
		}
		sites, *own.url = append(sites, s), s.url()
	}
	return sites, line, nil
}

// tlsConfig returns nil where no certificate is given.
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

func listen(ctx context.Context, address string, h http.Handler, secure *tls.Config) (listener, error) {
	var config net.ListenConfig
	ln, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return listener{}, fmt.Errorf("opening %s: %w", address, err)
	}
	server := simulator.NewServer(h)
	server.TLSConfig = secure
	return listener{simulator.RecordHeads(ln), server}, nil
}
