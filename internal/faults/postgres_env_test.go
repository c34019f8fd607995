package faults

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/postgrestest"
)

// database is the PostgreSQL that the faults share. The first one that needs it starts
// it. It syncs to disk, unlike other tests.
var database = postgrestest.Shared{Settings: []string{"fsync = on"}}

// schema is the store of an env, and the network in front of it.
type schema struct {
	direct string // connection string without the relay
	relay  *postgrestest.Relay
}

// usePostgres creates a schema for the store, behind a relay, and returns its line of
// the configuration. All replicas share one keyset.
func (w *env) usePostgres(own *postgrestest.Server) string {
	w.Helper()
	if own == nil {
		w.database = w.relayTo(database.Schema(w.T))
	} else {
		w.database = w.relayTo(own.DSN())
	}
	return w.storeLine(w.database)
}

// intents counts the second refreshes that have begun.
func (w *env) intents() (n int) {
	w.Helper()
	postgrestest.Scan(w.T, w.database.direct, `SELECT count(*) FROM intents WHERE parent_version = 2`, &n)
	return n
}

// ownCluster starts a server for the run, which it can kill.
func (r *run) ownCluster() {
	r.Helper()
	server, err := postgrestest.Start(context.Background())
	if err != nil {
		r.cannotRun("starting PostgreSQL: " + err.Error())
	}
	r.Cleanup(func() { _ = server.Close() })
	r.cluster = server
}

// relayTo puts a relay in front of the database.
func (w *env) relayTo(dsn string) *schema {
	w.Helper()
	relay, err := postgrestest.NewRelay(context.Background(), postgrestest.Address(w.T, dsn))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = relay.Close() })
	return &schema{dsn, relay}
}

func (w *env) storeLine(s *schema) string {
	return fmt.Sprintf("store: {driver: postgres, dsn: %q, keyset_file: %q}",
		s.relay.DSN(w.T, s.direct), filepath.Join(w.dir, "keyset.json"))
}

// replica starts another proxy on the store, with its own spool.
func (w *env) replica(i int) *process {
	w.Helper()
	return w.startWith(w.configIn(fmt.Sprint("data-", i), w.settings))
}

// replicas starts three proxies.
func (w *env) replicas() []*process {
	w.Helper()
	return []*process{w.serve(), w.replica(1), w.replica(2)}
}

// replicaBehindRelay starts a replica with its own relay to the database, so that it
// can be disconnected separately.
func (w *env) replicaBehindRelay(i int) (*process, *postgrestest.Relay) {
	w.Helper()
	own := w.relayTo(w.database.direct)
	config := w.configIn(fmt.Sprint("data-", i), replaceLine(w.settings, "store:", w.storeLine(own)))
	return w.startWith(config), own.relay
}

func (w *env) startWith(config string) *process {
	w.Helper()
	return w.start(exec.Command(*program, "serve", "--json", "--config", config))
}

// leaseDuration is how long other replicas wait for one that was killed.
const leaseDuration = 12 * time.Second
