package dashboard

import (
	"database/sql"
	"net/http"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite" // to fill a store faster than one by one

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// BenchmarkPagesOfMany renders pages with 100,000 connections in the store. Each
// should take less than 50 ms on an idle machine.
func BenchmarkPagesOfMany(b *testing.B) {
	path := filepath.Join(b.TempDir(), "store.db")
	keyset, err := keyset.NewTemporary()
	if err != nil {
		b.Fatal(err)
	}
	store, err := sqlstore.Open(b.Context(), sqlstore.Config{Path: path, Keyset: keyset})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = store.Close() })
	fillStore(b, path)
	h := newTestDashboard(b, nil, func(c *Config) { c.Operator.Store = manage.StoreOf(store.Store) }).handler
	for _, page := range []struct{ name, target string }{
		{"overview", "/"},
		{"list", "/connections"},
		{"by status", "/connections?status=reauthorization_required"},
		{"search", "/connections?q=c-09999"},
		{"search in a status", "/connections?q=c-09999&status=reauthorization_required"},
		{"API", "/api/v1/connections?limit=200"},
	} {
		b.Run(page.name, func(b *testing.B) {
			for b.Loop() {
				if w := (&browser{h: h}).open(page.target); w.Code != http.StatusOK {
					b.Fatalf("GET %s = %d: %s", page.target, w.Code, w.Body)
				}
			}
		})
	}
}

// fillStore creates connections, one in a thousand of which needs
// reauthorization.
func fillStore(b *testing.B, path string) {
	b.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	_, err = db.Exec(`
		WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
		INSERT INTO connections (id, name, folded_name, kind, status, search, company_name, external_tenant, created_at, version)
		SELECT printf('%026d', i), printf('c-%05d', i), printf('c-%05d', i), 'oauth',
			CASE WHEN i % 1000 = 7 THEN 'reauthorization_required' ELSE 'active' END,
			printf('c-%05d company %d tenant %d', i, i, i), printf('Company %d', i), printf('tenant %d', i), 0, 1 FROM n`)
	if err != nil {
		b.Fatal(err)
	}
}
