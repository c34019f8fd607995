package sqlstore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
)

// Set for the children that tests start of the test binary: what to do, and
// where the store is.
const (
	taskVariable = "SQLSTORE_TEST_TASK"
	pathVariable = "SQLSTORE_TEST_PATH"
)

func TestMain(m *testing.M) {
	task := os.Getenv(taskVariable)
	if task == "" {
		os.Exit(closeServer(m.Run()))
	}
	if err := perform(task, os.Getenv(pathVariable)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// perform is what a child does. It prints one line for each thing done.
func perform(task, path string) error {
	if task == "open unprivileged" {
		if err := dropPrivileges(); err != nil {
			return err
		}
	}
	keys, _, err := keyset.OpenOrCreate(filepath.Join(filepath.Dir(filepath.Dir(path)), "keyset.json"))
	if err != nil {
		return err
	}
	d := directory{path: path, keys: keys}
	s, err := sqlstore.Open(context.Background(), d.config())
	if err != nil {
		return err
	}
	switch task {
	case "hold":
		return holdLease(s.Store)
	case "refresh":
		return refreshForever(s.Store)
	case "replace":
		return replaceForever(s.Store)
	}
	fmt.Println(keys.Fingerprint())
	return s.Close()
}

// dropPrivileges changes to an unprivileged user if this process runs as root, which can
// write everywhere.
func dropPrivileges() error {
	if os.Geteuid() != 0 {
		return nil
	}
	const unprivileged = 65534
	return errors.Join(unix.Setgroups(nil), unix.Setgid(unprivileged), unix.Setuid(unprivileged))
}

func holdLease(s credstore.Store) error {
	c, err := s.Connections.Find(context.Background(), "acme")
	if err != nil {
		return err
	}
	if _, err := s.Credentials.Acquire(context.Background(), c.ID, "child"); err != nil {
		return err
	}
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin) // until the parent ends us
	return err
}

func refreshForever(s credstore.Store) error {
	c, err := s.Connections.Find(context.Background(), "acme")
	if err != nil {
		return err
	}
	for {
		state, err := s.Connections.Read(context.Background(), c.ID)
		if err != nil {
			return err
		}
		l, err := s.Credentials.Acquire(context.Background(), c.ID, "child")
		if err != nil {
			return err
		}
		parent := state.Credential.Parent()
		if _, err := s.Credentials.RecordIntent(context.Background(), l, parent, time.Now()); err != nil {
			return err
		}
		saved, err := s.Credentials.Save(context.Background(), successor(parent))
		if err != nil {
			return err
		}
		fmt.Println(saved.Version)
		if err := l.Release(); err != nil {
			return err
		}
	}
}

// replaceForever gives the connection new grants by links.
func replaceForever(s credstore.Store) error {
	c, err := s.Connections.Find(context.Background(), "acme")
	if err != nil {
		return err
	}
	for {
		link, _, err := s.Links.OpenLink(context.Background(), c.ID, credstore.LinkRequest{TTL: time.Hour})
		if err != nil {
			return err
		}
		state, err := s.Connections.Read(context.Background(), c.ID)
		if err != nil {
			return err
		}
		l, err := s.Credentials.Acquire(context.Background(), c.ID, "child")
		if err != nil {
			return err
		}
		n := successor(state.Parent())
		replaced, err := s.Connections.Replace(context.Background(), l, credstore.Replacement{
			Credential: credstore.NewCredential{AccessToken: n.AccessToken, RefreshToken: n.RefreshToken}, LinkToken: link,
		})
		if err != nil {
			return err
		}
		fmt.Println(replaced.Version)
		if err := l.Release(); err != nil {
			return err
		}
	}
}

// successor names the version in its tokens, so that a torn record shows.
func successor(parent credstore.Parent) credstore.Successor {
	version := strconv.FormatInt(parent.Version+1, 10)
	return credstore.Successor{
		Parent:       parent,
		AccessToken:  credstore.NewSecret("access-" + version),
		RefreshToken: credstore.NewSecret("refresh-" + version),
		ObtainedAt:   time.Now(),
	}
}

// child is a process of its own that works on a store.
type child struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func start(t *testing.T, task, path string) *child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatalf("finding the test binary: %v", err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), taskVariable+"="+task, pathVariable+"="+path)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatalf("piping: %v", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("piping: %v", err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting a child: %v", err)
	}
	c := &child{cmd: cmd, lines: bufio.NewScanner(out)}
	t.Cleanup(c.kill)
	return c
}

// line returns the next line that the child prints, or "" once it has ended.
func (c *child) line() string {
	if c.lines.Scan() {
		return c.lines.Text()
	}
	return ""
}

// kill ends the child as kill -9 does, and waits for its end.
func (c *child) kill() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	}
}

func TestLeaseEndsWithItsProcess(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	c := create(t, s.Store, "acme")
	holder := start(t, "hold", d.path)
	if line := holder.line(); line != "held" {
		t.Fatalf("the child said %q, want held", line)
	}
	acquire := func() error {
		l, err := s.Credentials.Acquire(t.Context(), c.ID, "me")
		if err == nil {
			err = l.Release()
		}
		return err
	}
	if err := acquire(); !errors.Is(err, credstore.ErrBusy) {
		t.Errorf("Acquire while a process holds the lease = %v, want %v", err, credstore.ErrBusy)
	}
	stop(t, holder)
	if err := acquire(); !errors.Is(err, credstore.ErrBusy) {
		t.Errorf("Acquire while a stopped process holds the lease = %v, want %v", err, credstore.ErrBusy)
	}
	holder.kill()
	if err := acquire(); err != nil {
		t.Errorf("Acquire after the holder was killed = %v, want nil", err)
	}
}

// stop sends SIGSTOP and waits until it has taken effect.
func stop(t *testing.T, c *child) {
	t.Helper()
	if err := c.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatalf("stopping the child: %v", err)
	}
	var status unix.WaitStatus
	pid, err := unix.Wait4(c.cmd.Process.Pid, &status, unix.WUNTRACED, nil)
	if err != nil || pid != c.cmd.Process.Pid || !status.Stopped() {
		t.Fatalf("waiting for the child to stop = %v, %v", status, err)
	}
}

func TestCrashLeavesWholeRecords(t *testing.T) {
	d := newDirectory(t)
	c := create(t, d.open(t).Store, "acme")
	for range 8 {
		worker := start(t, "refresh", d.path)
		var seen int64
		for range 1 + rand.IntN(4) {
			line := worker.line()
			v, err := strconv.ParseInt(line, 10, 64)
			if err != nil {
				t.Fatalf("the child said %q, want a version", line)
			}
			seen = v
		}
		time.Sleep(rand.N(3 * time.Millisecond)) // lands somewhere in the next refresh
		worker.kill()
		checkWhole(t, d, c.ID, seen)
	}
}

// TestCrashLeavesWholeReplacements: the grant, the event and the spending of the
// link happen together or not at all.
func TestCrashLeavesWholeReplacements(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	c := create(t, s.Store, "acme")
	for range 8 {
		worker := start(t, "replace", d.path)
		var seen int64
		for range 1 + rand.IntN(3) {
			line := worker.line()
			v, err := strconv.ParseInt(line, 10, 64)
			if err != nil {
				t.Fatalf("the child said %q, want a version", line)
			}
			seen = v
		}
		time.Sleep(rand.N(5 * time.Millisecond)) // lands somewhere in the next replacement
		worker.kill()
		checkWhole(t, d, c.ID, seen)
		page, err := s.History.Events(t.Context(), c.ID, "", 2)
		if err != nil {
			t.Fatalf("History after a crash: %v", err)
		}
		// Between the links, there is one replacement each; a link that was opened
		// last is used if and only if its replacement is there.
		types := []credstore.EventType{page.Events[0].Type, page.Events[1].Type}
		version := parentOf(t, s.Store, c.ID).Version
		if !slices.Contains(types, credstore.EventConnected) || page.Events[0].Version != version {
			t.Errorf("after a crash at version %d: the latest events are %+v", version, page.Events)
		}
		_, l, err := s.Links.OpenLink(t.Context(), c.ID, credstore.LinkRequest{TTL: time.Hour})
		if err != nil || !l.UsedAt.IsZero() {
			t.Errorf("OpenLink after a crash = %+v, %v, want one that can be used", l, err)
		}
	}
}

// checkWhole fails the test unless the credential is complete, and of a version no
// older than seen, which the child has reported as durable.
func checkWhole(t *testing.T, d *directory, id string, seen int64) {
	t.Helper()
	state, err := d.open(t).Connections.Read(t.Context(), id)
	if err != nil {
		t.Fatalf("Read after a crash: %v", err)
	}
	got := state.Credential
	want := strconv.FormatInt(got.Version, 10)
	if got.Version < seen || got.AccessToken.Reveal() != "access-"+want || got.RefreshToken.Reveal() != "refresh-"+want {
		t.Errorf("after a crash: version %d with %q, %q, want a whole one of at least %d",
			got.Version, got.AccessToken.Reveal(), got.RefreshToken.Reveal(), seen)
	}
	if i := state.Intent; i != nil && i.Parent != got.Parent() {
		t.Errorf("after a crash: intent for %v, want none or one for %v", i.Parent.Version, got.Version)
	}
}

// TestProcessesStartTogether: on an empty directory all end up with one keyset
// and one store.
func TestProcessesStartTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "store.db")
	var children []*child
	for range 4 {
		children = append(children, start(t, "open", path))
	}
	first := children[0].line()
	for _, c := range children[1:] {
		if line := c.line(); line != first || len(line) != 32 {
			t.Errorf("a process said %q, another %q, want one fingerprint", line, first)
		}
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(path)), "*keyset*"))
	if err != nil || len(left) != 1 {
		t.Errorf("keysets = %v, %v, want one", left, err)
	}
}

func TestReadOnlyDirectoryIsRejected(t *testing.T) {
	// Not t.TempDir, which no other user may enter.
	dir, err := os.MkdirTemp("", "sqlstore")
	if err != nil {
		t.Fatalf("MkdirTemp: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	state := filepath.Join(dir, "state")
	if err := errors.Join(os.Mkdir(state, 0o700), os.Chmod(dir, 0o755)); err != nil {
		t.Fatalf("making directories: %v", err)
	}
	openKeyset(t, filepath.Join(dir, "keyset.json"))
	if err := errors.Join(os.Chmod(filepath.Join(dir, "keyset.json"), 0o644), os.Chmod(state, 0o555)); err != nil {
		t.Fatalf("Chmod: %v", err)
	}
	got := start(t, "open unprivileged", filepath.Join(state, "store.db")).line()
	if !strings.Contains(got, "permission denied; the store needs a directory that this user can write to") {
		t.Errorf("Open in a read-only directory = %q, want it to say what to do", got)
	}
	left, err := os.ReadDir(state)
	if err != nil || len(left) > 0 {
		t.Errorf("files left behind = %v, %v, want none", left, err)
	}
}
