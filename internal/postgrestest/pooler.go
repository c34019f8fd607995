package postgrestest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// StartPooler runs PgBouncer in transaction mode in front of the database until the test
// ends, and returns its connection string. The schema is that of dsn. It skips the test if
// PgBouncer is not installed.
func StartPooler(t testing.TB, dsn string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer"
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("PgBouncer is not installed")
	}
	s := &Server{}
	if s.dir, err = os.MkdirTemp("", "pgbouncer"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.dir) })
	if err := s.dropRoot(); err != nil {
		t.Fatal(err)
	}
	if err := s.choosePort(); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal("parsing the connection string: it must be a URL")
	}
	config := filepath.Join(s.dir, "pgbouncer.ini")
	if err := os.WriteFile(config, []byte(poolerConfig(s.port, u)), 0o644); err != nil { //nolint:gosec // its directory is private
		t.Fatal(err)
	}
	s.bin = filepath.Dir(program)
	cmd := s.Command(context.Background(), "pgbouncer", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	u.Host, u.User, u.RawQuery = s.Address(), url.User("pooled"), "sslmode=disable"
	awaitServer(t, u.String())
	return u.String()
}

// poolerConfig accepts every user. The pooler does not forward the search path, so it is
// set on the connections to the server.
func poolerConfig(port int, server *url.URL) string {
	host, serverPort, _ := net.SplitHostPort(server.Host)
	password, _ := server.User.Password()
	return fmt.Sprintf(`[databases]
%s = host=%s port=%s user=%s password=%s connect_query='SET search_path = %s'
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 5
`, strings.Trim(server.Path, "/"), host, serverPort, server.User.Username(), password, server.Query().Get("search_path"), port)
}

func awaitServer(t testing.TB, dsn string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, dsn)
		if err == nil {
			_ = conn.Close(ctx)
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for the pooler: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
