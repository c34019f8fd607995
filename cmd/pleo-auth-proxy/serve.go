package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/listen"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func newServeCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the proxy until it is stopped",
		Long: `Run the proxy until SIGTERM, SIGINT or SIGHUP. It then stops accepting requests,
finishes those in flight within shutdown.drain, waits for refreshes until every
new token is saved, and exits 0.

Logs go to standard error. With --json, one line of JSON with the addresses goes to
standard output once everything is ready.`,
		Example: `  pleo-auth-proxy serve
  pleo-auth-proxy serve --config /etc/pleo-auth-proxy/config.yaml`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(credstore.WithActor(cmd.Context(), credstore.ActorProxy), p)
		},
	}
}

func serve(ctx context.Context, p *program) error {
	// First of all, so that a signal during the start is not lost.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt, syscall.SIGHUP)
	defer signal.Stop(signals)
	// Otherwise a log reader that ends would end the program at once, and with it the
	// only copy of a token pair that is not saved yet.
	signal.Ignore(syscall.SIGPIPE)

	cfg, err := p.loadConfig()
	if err != nil {
		return err
	}
	log := newLogger(p.stderr, cfg.Log)
	// Before anything is created: a mistake leaves nothing behind.
	in, err := setup.ValidInputs(cfg, log)
	if err != nil {
		return err
	}
	s := &server{cfg: cfg, log: log, listeners: listen.New(cfg)}
	// Before the store is opened: a port that is taken leaves nothing behind.
	defer s.closeListeners()
	if err := s.bind(ctx); err != nil {
		return err
	}
	v, err := setup.OpenOrCreate(ctx, cfg, log.Named("store"))
	if err != nil {
		return err
	}
	warnAtStartup(cfg, v.CreatedKeyset, p.environ, log)
	err = s.assemble(ctx, in, v)
	if err == nil {
		err = s.run(ctx, signals, func() error { return printAddresses(p, s.listeners) })
	}
	return errors.Join(err, v.Store.Close())
}

// warnAtStartup logs what an operator should know about this start.
func warnAtStartup(cfg *config.Config, createdKeyset bool, environ []string, log *zap.Logger) {
	file := zap.String("file", cfg.Store.KeysetFile)
	if createdKeyset {
		log.Warn(setup.KeysetBackupNotice, file)
	}
	if cfg.KeysetBesideStore() {
		log.Warn("the keyset is beside the store, so encryption only protects copies of the database; set store.keyset_file to another place", file)
	}
	if info, err := os.Stat(cfg.Store.KeysetFile); err == nil && info.Mode().Perm()&0o007 != 0 {
		log.Warn("other users of this machine can access the keyset; remove their permission", file, zap.Stringer("mode", info.Mode().Perm()))
	}
	if cfg.Proxy.DangerouslyAllowAnyone && !cfg.Proxy.Listen.Local() && len(cfg.Proxy.Clients) == 0 && len(cfg.Proxy.ClientNetworks) == 0 {
		log.Warn("every program that reaches the proxy listener can use every connection, as proxy.dangerously_allow_anyone is set",
			zap.Stringer("listen", cfg.Proxy.Listen))
	}
	if len(cfg.UnknownVariables) > 0 {
		log.Warn(config.UnknownVariablesNotice, zap.Strings("variables", cfg.UnknownVariables))
	}
	if ignored := setup.IgnoredProxyVariables(environ); len(ignored) > 0 {
		log.Warn("ignoring environment variables for a forward proxy; set upstream.proxy_url instead", zap.Strings("variables", ignored))
	}
}

// printAddresses prints where the server listens, for programs that let it choose
// its ports.
func printAddresses(p *program, listeners []*listen.Listener) error {
	if !p.asJSON {
		return nil
	}
	addresses := map[string]string{}
	for _, l := range listeners {
		addresses[l.Name] = l.Address()
	}
	return json.NewEncoder(p.stdout).Encode(addresses)
}

// server is one run of serve.
type server struct {
	cfg       *config.Config
	log       *zap.Logger
	phase     phase
	listeners []*listen.Listener
	parts     *components
}

func (s *server) bind(ctx context.Context) error {
	for _, l := range s.listeners {
		if err := l.Bind(ctx); err != nil {
			return err
		}
	}
	return nil
}

// closeListeners closes what bind has opened, unless it is closed already.
func (s *server) closeListeners() {
	for _, l := range s.listeners {
		l.Close()
	}
}

// assemble creates the components and sets what the listeners serve.
func (s *server) assemble(ctx context.Context, in *setup.Inputs, v *setup.OpenedStore) (err error) {
	if s.parts, err = newComponents(s.cfg, in, v, s.log, s.phase.ready); err != nil {
		return err
	}
	for _, l := range s.listeners {
		s.parts.attach(l, s.log)
	}
	return s.parts.configKeys.Start(ctx)
}

// run serves until ctx ends, a signal arrives or a listener fails, and then shuts
// down. It calls announce once everything is ready.
func (s *server) run(ctx context.Context, signals <-chan os.Signal, announce func() error) error {
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	failed := make(chan error, len(s.listeners)+1)
	background := s.start(work, failed)

	s.phase.set(serving)
	var addresses []zap.Field
	for _, l := range s.listeners {
		addresses = append(addresses, zap.String(l.Name, l.Address()))
	}
	s.log.Info("ready", addresses...)
	cause := announce()
	if cause == nil {
		cause = s.wait(ctx, signals, failed)
	}
	s.drain(signals)
	stopWork()
	background.Wait()
	s.log.Info("stopped")
	return cause
}

// start starts all listeners and background work, and returns what waits for the
// work to end.
func (s *server) start(work context.Context, failed chan<- error) *sync.WaitGroup {
	for _, l := range s.listeners {
		go func() {
			if err := l.Serve(); err != nil {
				failed <- err
			}
		}()
	}
	running := new(sync.WaitGroup)
	running.Go(func() {
		if err := s.parts.manager.Run(work); err != nil && work.Err() == nil {
			failed <- fmt.Errorf("running background work: %w", err)
		}
	})
	running.Go(func() { s.parts.keysetRotation.run(work) })
	running.Go(func() { s.parts.notifier.Run(work) })
	if c := s.parts.certificates; c != nil {
		running.Go(func() { c.Run(work) })
	}
	running.Go(func() { s.parts.dashboard.Run(work) })
	running.Go(func() { s.parts.configKeys.Run(work) })
	return running
}

// wait returns when the server is to shut down, with an error if something failed.
func (s *server) wait(ctx context.Context, signals <-chan os.Signal, failed <-chan error) error {
	select {
	case <-ctx.Done():
		s.log.Info("shutting down")
		return nil
	case sig := <-signals:
		s.log.Info("shutting down", zap.Stringer("signal", sig))
		return nil
	case err := <-failed:
		s.log.Error("shutting down after a failure", zap.Error(err))
		return err
	}
}
