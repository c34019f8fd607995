package sqlstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/postgrestest"
)

// TestPostgresListOfMany: a page of many connections takes a few blocks for each
// one that it shows, which an index has found. A search for what is not there
// goes through the connections, or through the index of their texts, once. Blocks are what the server
// counts; how long a page takes is for the benchmarks.
func TestPostgresListOfMany(t *testing.T) {
	const many, each, few = 50_000, 4, 50
	dsn, _ := Server.Database(t)
	keys := newKeyset(t)
	s := openPostgresStore(t, dsn, keys)
	mustCreate(t, s, newOAuth("first"))
	postgrestest.Exec(t, dsn, multiply(many))
	postgrestest.Exec(t, dsn, `VACUUM ANALYZE`)
	var all int64
	postgrestest.Scan(t, dsn, `SELECT (pg_relation_size('connections') + pg_relation_size('connections_search'))
		/ current_setting('block_size')::int`, &all)

	// blocks is how many f takes, and a start.
	blocks := func(f func(*Store)) int64 {
		before := blocksRead(t, dsn)
		s := openPostgresStore(t, dsn, keys)
		f(s)
		if err := s.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		return blocksRead(t, dsn) - before
	}
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	start := blocks(func(*Store) {})
	for _, test := range []struct {
		query       credstore.Query
		connections int
		most        int64
	}{
		{credstore.Query{}, defaultPageSize, defaultPageSize * each},
		{credstore.Query{Limit: maxPageSize}, maxPageSize, maxPageSize * each},
		{credstore.Query{Cursor: cursorAfter("c049000")}, defaultPageSize, defaultPageSize * each},
		{credstore.Query{Status: credstore.Active}, defaultPageSize, defaultPageSize * each},
		{credstore.Query{Status: credstore.Degraded}, 0, few},
		{credstore.Query{Kind: credstore.IntegratedKey}, 0, few},
		{credstore.Query{Kind: credstore.IntegratedKey, Status: credstore.Active}, 0, few},
		{credstore.Query{Reason: credstore.ReasonCompanyConflict, Status: credstore.Disabled}, 0, few},
		{credstore.Query{KeyExpiresBefore: time.Now()}, 0, 2 * few}, // the planner looks at the indexes twice
		{credstore.Query{Search: "nowhere"}, 0, all + few},
	} {
		took := blocks(func(s *Store) {
			page, err := s.Connections.List(t.Context(), test.query)
			if err != nil || len(page.Connections) != test.connections {
				t.Errorf("List(%+v) = %d connections, %v, want %d", test.query, len(page.Connections), err, test.connections)
			}
		}) - start
		if took > test.most {
			t.Errorf("List(%+v) takes %d blocks, want %d at most", test.query, took, test.most)
		}
	}
}

// blocksRead is how many blocks of tables and indexes have been read in the
// database. The server knows that of connections which have ended.
func blocksRead(t *testing.T, dsn string) (n int64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		var others int
		postgrestest.Scan(t, dsn, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()`, &others)
		if others == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections to the database do not end", others)
		}
	}
	postgrestest.Scan(t, dsn, `SELECT (SELECT sum(heap_blks_read + heap_blks_hit) FROM pg_statio_user_tables)::bigint
		+ (SELECT sum(idx_blks_read + idx_blks_hit) FROM pg_statio_user_indexes)::bigint`, &n)
	return n
}

// multiply makes many connections of the one that there is.
func multiply(n int) string {
	return fmt.Sprintf(`
		INSERT INTO connections (id, name, folded_name, kind, status, own_status, search, created_at, version, refresh_hash, refreshed_at, expires_at)
			SELECT 'id-' || g, 'c' || lpad(g::text, 6, '0'), 'c' || lpad(g::text, 6, '0'), kind, status, own_status, 'c' || lpad(g::text, 6, '0'),
				created_at, version, sha256(g::text::bytea), refreshed_at, expires_at
			FROM connections, generate_series(1, %d) AS g;
		INSERT INTO credentials (connection, access_token, refresh_token)
			SELECT c.number, k.access_token, k.refresh_token FROM connections AS c, credentials AS k WHERE c.id LIKE 'id-%%';
		INSERT INTO changes (connection_id, at, removed) SELECT id, created_at, 0 FROM connections WHERE id LIKE 'id-%%'`, n)
}
