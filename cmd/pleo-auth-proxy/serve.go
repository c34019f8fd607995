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
	// From the first moment, so that a signal during the start is not lost.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt, syscall.SIGHUP)
	defer signal.Stop(signals)
	// Else the end of whoever reads the log would end the program at once, and
	// with it the only copy of a token pair that is not saved yet.
	signal.Ignore(syscall.SIGPIPE)

	cfg, err := p.loadConfig()
	if err != nil {
		return err
	}
	log := newLogger(p.stderr, cfg.Log)
	// Before anything is created: a mistake leaves nothing behind.
	in, err := validInputs(cfg, log)
	if err != nil {
		return err
	}
	s := newServer(cfg, log)
	// Before the store is touched: a port that is taken leaves nothing behind.
	if err := s.bind(ctx); err != nil {
		return err
	}
	defer s.closeListeners()
	v, err := openOrCreate(ctx, cfg, log.Named("store"))
	if err != nil {
		return err
	}
	warnAtStartup(p, cfg, v, log)
	if err := s.assemble(in, v); err != nil {
		return errors.Join(err, v.store.Close())
	}
	if err := s.parts.configKeys.Start(ctx); err != nil {
		return errors.Join(err, v.store.Close())
	}
	return errors.Join(s.run(ctx, signals, func(addresses map[string]string) error { return printAddresses(p, addresses) }), v.store.Close())
}

// warnAtStartup logs what an operator should know about this start.
func warnAtStartup(p *program, cfg *config.Config, v *openedStore, log *zap.Logger) {
	if v.createdKeyset {
		log.Warn(keysetBackupNotice, zap.String("file", cfg.Store.KeysetFile))
	}
	if cfg.KeysetBesideStore() {
		log.Warn("the keyset lies beside the store: sealing then protects a copy of the database only; set store.keyset_file to another place",
			zap.String("file", cfg.Store.KeysetFile))
	}
	if info, err := os.Stat(cfg.Store.KeysetFile); err == nil && info.Mode().Perm()&0o007 != 0 {
		log.Warn("other users of this machine can read the keyset; take the permission from them",
			zap.String("file", cfg.Store.KeysetFile), zap.Stringer("mode", info.Mode().Perm()))
	}
	if cfg.Proxy.DangerouslyAllowAnyone && !cfg.Proxy.Listen.Local() && len(cfg.Proxy.Clients) == 0 && len(cfg.Proxy.ClientNetworks) == 0 {
		log.Warn("whoever reaches the proxy listener acts with every connection, as proxy.dangerously_allow_anyone says",
			zap.Stringer("listen", cfg.Proxy.Listen))
	}
	if ignored := ignoredProxyVariables(p.environ); len(ignored) > 0 {
		log.Warn("variables that name a forward proxy are ignored; upstream.proxy_url is the way", zap.Strings("variables", ignored))
	}
}

// printAddresses says on standard output where the server listens, for programs that
// let it choose its ports.
func printAddresses(p *program, addresses map[string]string) error {
	if !p.asJSON {
		return nil
	}
	return json.NewEncoder(p.stdout).Encode(addresses)
}

// server is one run of serve.
type server struct {
	cfg       *config.Config
	log       *zap.Logger
	phase     phase
	listeners []*listener
	parts     *components
}

func newServer(cfg *config.Config, log *zap.Logger) *server {
	return &server{cfg: cfg, log: log, listeners: listenersOf(cfg)}
}

// bind opens all listeners. Clients that come early wait for their answer
// until the server is ready.
func (s *server) bind(ctx context.Context) error {
	for _, l := range s.listeners {
		bound, err := bind(ctx, l.name+".listen", l.at)
		if err != nil {
			s.closeListeners()
			return err
		}
		l.bound = bound
	}
	return nil
}

// closeListeners closes what bind has opened. It does nothing to listeners that
// are closed already.
func (s *server) closeListeners() {
	for _, l := range s.listeners {
		if l.bound != nil {
			_ = l.bound.Close() // a second close is all that can fail
		}
	}
}

// assemble puts handlers behind the listeners.
func (s *server) assemble(in *inputs, v *openedStore) error {
	parts, err := assemble(s.cfg, in, v, s.log, s.phase.ready)
	if err != nil {
		return err
	}
	s.parts = parts
	for _, l := range s.listeners {
		l.serve(parts, s.log)
	}
	return nil
}

// run serves until ctx ends, a signal comes or a listener fails, and then ends
// in order. announce is called once everything is ready.
func (s *server) run(ctx context.Context, signals <-chan os.Signal, announce func(map[string]string) error) error {
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	failed := make(chan error, len(s.listeners)+1)
	background := s.start(work, failed)

	s.phase.set(serving)
	s.log.Info("ready", s.addressFields()...)
	cause := announce(s.addresses())
	if cause == nil {
		cause = s.wait(ctx, signals, failed)
	}
	s.drain(signals)
	stopWork()
	<-background
	s.log.Info("stopped")
	return cause
}

// start runs everything that goes on until the end. The channel that it returns
// is closed once the background work has ended.
func (s *server) start(work context.Context, failed chan<- error) <-chan struct{} {
	for _, l := range s.listeners {
		go l.run(failed)
	}
	var running sync.WaitGroup
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
	background := make(chan struct{})
	go func() {
		running.Wait()
		close(background)
	}()
	return background
}

// wait returns when the server should end: with an error if that is because
// something failed.
func (s *server) wait(ctx context.Context, signals <-chan os.Signal, failed <-chan error) error {
	select {
	case <-ctx.Done():
		s.log.Info("told to stop")
		return nil
	case sig := <-signals:
		s.log.Info("told to stop", zap.Stringer("signal", sig))
		return nil
	case err := <-failed:
		s.log.Error("cannot go on", zap.Error(err))
		return err
	}
}

func (s *server) addresses() map[string]string {
	addresses := map[string]string{}
	for _, l := range s.listeners {
		addresses[l.name] = l.address()
	}
	return addresses
}

func (s *server) addressFields() []zap.Field {
	var fields []zap.Field
	for _, l := range s.listeners {
		fields = append(fields, zap.String(l.name, l.address()))
	}
	return fields
}
