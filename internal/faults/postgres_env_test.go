package faults

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/postgrestest"
)

// database is the PostgreSQL of the faults, started by the first that needs it.
// Its disk is as slow as this machine's.
var database = postgrestest.Shared{Settings: []string{"fsync = on"}}

// schema is where a world keeps its store, and the network before it.
type schema struct {
	direct string // connection string of the way without a relay
	relay  *postgrestest.Relay
}

// usePostgres makes a schema for the world's store, behind a relay, and returns
// the line of configuration that says so. All replicas have one keyset.
func (w *env) usePostgres(own *postgrestest.Server) string {
	w.Helper()
	if own == nil {
		w.database = w.relayTo(database.Schema(w.T))
	} else {
		w.database = w.relayTo(own.DSN())
	}
	return w.storeLine(w.database)
}

// intents counts the refreshes of what was refreshed once that have begun.
func (w *env) intents() (n int) {
	w.Helper()
	postgrestest.Scan(w.T, w.database.direct, `SELECT count(*) FROM intents WHERE parent_version = 2`, &n)
	return n
}

// ownCluster gives the run a server that it can kill.
func (r *run) ownCluster() {
	r.Helper()
	server, err := postgrestest.Start(context.Background())
	if err != nil {
		r.cannotRun("starting PostgreSQL: " + err.Error())
	}
	r.Cleanup(func() { _ = server.Close() })
	r.cluster = server
}

// relayTo puts a relay before the database.
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

// replica starts one more proxy on the world's store, with a spool of its own.
func (w *env) replica(i int) *process {
	w.Helper()
	return w.startWith(w.configIn(fmt.Sprint("data-", i), w.settings))
}

// replicas starts three.
func (w *env) replicas() []*process {
	w.Helper()
	return []*process{w.serve(), w.replica(1), w.replica(2)}
}

// replicaBehindRelay starts a replica that has a network of its own to the database, which can
// be cut off without the others.
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

// leaseLife is how long others wait for a replica that has died.
const leaseLife = 12 * time.Second
