package main

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/listen"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

var idleFor = flag.Duration("idle", 0, "how long to count the queries of idle replicas; 0: not at all")

// TestPostgresIdleReplicas checks that idle replicas hardly use the database: a
// hundred of them send fewer than ten queries a second together.
func TestPostgresIdleReplicas(t *testing.T) {
	if *idleFor == 0 {
		t.Skip("counting takes minutes: make postgres")
	}
	const replicas, most = 100, 10.0
	dsn, name := database.Database(t)
	w := newEnv(t, simulator.Settings{}, fmt.Sprintf("store: {driver: postgres, dsn: %q}", dsn))
	cfg := w.load()
	keyset, err := keyset.Create(filepath.Join(w.dir, "keyset.json"))
	if err != nil {
		t.Fatalf("CreateKeyset: %v, %v", keyset, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	for i := range replicas {
		begin(ctx, t, &running, w.replica(cfg, i))
	}
	const settle = 20 * time.Second // for the work of a start; and the server counts late
	time.Sleep(settle)
	before, began := transactions(t, name), time.Now()
	time.Sleep(*idleFor)
	rate := float64(transactions(t, name)-before) / time.Since(began).Seconds()
	t.Logf("%d idle replicas: %.1f queries/s", replicas, rate)
	if rate >= most {
		t.Errorf("%d idle replicas put %.1f queries/s on the database, want fewer than %v", replicas, rate, most)
	}
	if rate == 0 {
		t.Error("nothing was counted")
	}
}

func (w *env) load() *config.Config {
	w.t.Helper()
	cfg, err := config.Load(config.Source{Path: w.config, Environ: []string{"HOME=" + w.dir}})
	if err != nil {
		w.t.Fatal(err)
	}
	return cfg
}

// replica returns the configuration of one of several replicas that share keyset and
// store.
func (w *env) replica(cfg *config.Config, i int) *config.Config {
	c := *cfg
	c.Store.KeysetFile = filepath.Join(w.dir, "keyset.json")
	c.DataDir = filepath.Join(w.dir, fmt.Sprint("replica-", i))
	c.Store.SpoolDir = filepath.Join(c.DataDir, config.SpoolDirName)
	c.Admin.TokenFile = filepath.Join(c.DataDir, config.AdminTokenFileName)
	return &c
}

// begin starts a server in this process, which ends with ctx.
func begin(ctx context.Context, t *testing.T, running *sync.WaitGroup, cfg *config.Config) {
	t.Helper()
	s := &server{cfg: cfg, log: zap.NewNop(), listeners: listen.New(cfg)}
	if err := s.bind(ctx); err != nil {
		t.Fatal(err)
	}
	in, err := setup.OpenInputs(cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	v, err := setup.OpenOrCreate(ctx, cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.assemble(ctx, in, v); err != nil {
		t.Fatal(err)
	}
	running.Go(func() {
		if err := s.run(ctx, nil, func() error { return nil }); err != nil {
			t.Errorf("running a replica: %v", err)
		}
		if err := v.Store.Close(); err != nil {
			t.Errorf("closing a store: %v", err)
		}
	})
}

// transactions returns how many transactions there were in the database.
func transactions(t *testing.T, name string) (n int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, database.DSN(t))
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	err = conn.QueryRow(ctx, `SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1`,
		name).Scan(&n)
	if err != nil {
		t.Fatalf("counting: %v", err)
	}
	return n
}
