// Package postgrestest runs PostgreSQL for tests.
package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/freeport"
)

// Password is the password of the superuser. Tests check that it does not leak.
const Password = "canary-of-the-database"

// ErrMissing means that PostgreSQL is not installed.
var ErrMissing = errors.New("PostgreSQL is not installed: neither is initdb in PATH nor in /usr/lib/postgresql")

// startTimeout limits a start, including recovery after a kill.
const startTimeout = time.Minute

// Server is a database cluster. It is not safe for concurrent use.
type Server struct {
	bin  string // directory of the programs
	dir  string // of the cluster, its log and its password
	port int
	as   *syscall.Credential // user that it runs as; nil: that of this process
}

// Start creates a cluster and starts it. Settings are lines of postgresql.conf, such as
// "fsync = off". The error is ErrMissing if PostgreSQL is not installed.
func Start(ctx context.Context, settings ...string) (*Server, error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin}
	if s.dir, err = os.MkdirTemp("", "postgrestest"); err != nil {
		return nil, fmt.Errorf("creating a directory for the cluster: %w", err)
	}
	err = s.make(ctx, settings)
	if err == nil {
		err = s.Start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// programs returns the directory of the newest release where Debian installs them, or of
// the one in PATH.
func programs() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err == nil && len(found) > 0 {
		slices.Sort(found)
		return filepath.Dir(found[len(found)-1]), nil
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return "", ErrMissing
	}
	return filepath.Dir(path), nil
}

func (s *Server) make(ctx context.Context, settings []string) error {
	if err := s.dropRoot(); err != nil {
		return err
	}
	if err := s.choosePort(); err != nil {
		return err
	}
	secret := filepath.Join(s.dir, "password")
	if err := os.WriteFile(secret, []byte(Password+"\n"), 0o644); err != nil { //nolint:gosec // its directory is private
		return fmt.Errorf("writing the password: %w", err)
	}
	err := s.run(ctx, "initdb", "--pgdata", s.data(), "--username", "postgres", "--pwfile", secret,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	if err != nil {
		return err
	}
	return s.configure(append([]string{
		"listen_addresses = '127.0.0.1'", "unix_socket_directories = ''", fmt.Sprint("port = ", s.port),
		"max_connections = 500", "log_line_prefix = '%m %p '",
	}, settings...)...)
}

// dropRoot makes the server run as the unprivileged user 65534, if this process runs as
// root, which PostgreSQL does not accept.
func (s *Server) dropRoot() error {
	if os.Geteuid() != 0 {
		return nil
	}
	account, err := user.LookupId("65534")
	if err != nil {
		return fmt.Errorf("finding a user for the cluster: %w", err)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return fmt.Errorf("finding a user for the cluster: %w", err)
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return fmt.Errorf("finding a user for the cluster: %w", err)
	}
	s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if err := os.Chown(s.dir, int(uid), int(gid)); err != nil {
		return fmt.Errorf("changing the owner of the cluster: %w", err)
	}
	return nil
}

// choosePort chooses a free port.
func (s *Server) choosePort() error {
	address, err := freeport.Address()
	if err != nil {
		return err
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("reading a free port: %w", err)
	}
	s.port = int(at.Port())
	return nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// Log returns the path of the server's log.
func (s *Server) Log() string { return filepath.Join(s.dir, "log") }

// run runs a program of PostgreSQL.
func (s *Server) run(ctx context.Context, program string, args ...string) error {
	cmd := s.Command(ctx, program, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("running %s: %w: %s", program, err, out)
	}
	return nil
}

// Command returns a command for a program of PostgreSQL, such as pg_dump, with the
// password of this server.
func (s *Server) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, program), args...) //nolint:gosec // programs of PostgreSQL, named by our tests
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "PGPASSWORD="+Password, "LC_ALL=C")
	if s.as != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	}
	return cmd
}

// Start starts the cluster and returns when it accepts connections.
func (s *Server) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := s.run(ctx, "pg_ctl", "start", "--pgdata", s.data(), "--log", s.Log(), "--wait", "--silent")
	if err == nil {
		return nil
	}
	log, _ := os.ReadFile(s.Log()) // only for the message
	return fmt.Errorf("%w\n%s", err, log)
}

// Stop stops the cluster: mode "fast" is a normal shutdown, "immediate" is like a crash.
func (s *Server) Stop(ctx context.Context, mode string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return s.run(ctx, "pg_ctl", "stop", "--pgdata", s.data(), "--mode", mode, "--wait", "--silent")
}

// Signal sends a signal to every process of the cluster, such as SIGSTOP.
func (s *Server) Signal(sig syscall.Signal) error {
	pid, err := s.pid()
	if err != nil {
		return err
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return fmt.Errorf("finding the processes of the cluster: %w", err)
	}
	errs := []error{syscall.Kill(pid, sig)}
	for field := range strings.FieldsSeq(string(children)) {
		child, err := strconv.Atoi(field)
		if err != nil {
			return fmt.Errorf("finding the processes of the cluster: %w", err)
		}
		if err := syscall.Kill(child, sig); !errors.Is(err, syscall.ESRCH) { // it may just have exited
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *Server) pid() (int, error) {
	text, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	if err != nil {
		return 0, fmt.Errorf("finding the cluster's process: %w", err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return 0, fmt.Errorf("finding the cluster's process: %w", err)
	}
	return pid, nil
}

// Address returns the host:port of the server.
func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// DSN returns the connection string of the superuser for the database postgres.
func (s *Server) DSN() string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", Password), Host: s.Address(),
		Path: "/postgres", RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Close stops the cluster and removes it.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	var err error
	if _, running := s.pid(); running == nil {
		err = errors.Join(s.Signal(syscall.SIGCONT), s.Stop(ctx, "immediate"))
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}
