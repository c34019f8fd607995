package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// fill imports n connections of kind oauth.
func (w *env) fill(n int) {
	w.t.Helper()
	lines := make([]string, 0, n)
	for i := range n {
		_, line := w.grant(fmt.Sprintf("c%03d", i), simulator.GrantRequest{})
		lines = append(lines, line)
	}
	w.importLines(lines...)
}

// keyset runs a keyset command, which must succeed.
func (w *env) keyset(args ...string) string {
	w.t.Helper()
	code, stdout, stderr := w.run("", append([]string{"keyset"}, args...)...)
	if code != exitDone {
		w.t.Fatalf("keyset %v exits %d, want 0:\n%s", args, code, stderr)
	}
	return strings.TrimSpace(stdout)
}

func (w *env) keysetStatus() (s setup.KeysetStatus) {
	w.t.Helper()
	if err := json.Unmarshal([]byte(w.keyset("status", "--json")), &s); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// keysetFile returns the path of the keyset file.
func (w *env) keysetFile() string { return filepath.Join(w.dir, "data", config.KeysetFileName) }

// openStore opens the store, also beside a server, until the test ends.
func (w *env) openStore() *setup.OpenedStore {
	w.t.Helper()
	cfg, err := config.Load(config.Source{Path: w.config, Environ: []string{"HOME=" + w.dir}})
	if err != nil {
		w.t.Fatal(err)
	}
	v, err := setup.OpenOrCreate(w.t.Context(), cfg, zap.NewNop())
	if err != nil {
		w.t.Fatalf("opening the store: %v", err)
	}
	w.t.Cleanup(func() {
		if err := v.Store.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return v
}

// wantAllOpen fails the test unless the keyset file decrypts the store and each of n
// connections in it.
func (w *env) wantAllOpen(n int) {
	w.t.Helper()
	v := w.openStore()
	page, err := v.Store.Connections.List(w.t.Context(), credstore.Query{Limit: maxPageSize})
	if err != nil || len(page.Connections) != n {
		w.t.Fatalf("List = %d connections, %v, want %d", len(page.Connections), err, n)
	}
	for _, c := range page.Connections {
		if _, err := v.Store.Connections.Read(w.t.Context(), c.ID); err != nil {
			w.t.Errorf("connection %q does not open: %v", c.Name, err)
		}
	}
}

// waitUntilRetirable waits until nothing needs the key.
func (w *env) waitUntilRetirable(fingerprint string) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for _, key := range w.keysetStatus().Keys {
			if key.Fingerprint == fingerprint && key.CanRetire {
				return
			}
		}
	}
	w.t.Fatalf("the key %s is still in use: %+v", fingerprint, w.keysetStatus())
}

// TestServerFollowsTheKeyset changes only the keyset file, and checks that the server
// re-encrypts the store.
func TestServerFollowsTheKeyset(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	w.fill(100)
	p := w.serve()
	old := w.keysetStatus().Primary
	key, err := keyset.Add(w.keysetFile())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyset.Promote(w.keysetFile(), key.Fingerprint); err != nil {
		t.Fatal(err)
	}
	w.waitUntilRetirable(old)
	w.keyset("retire")
	w.wantAllOpen(100)
	if a, err := p.get(client(t), "c000", "/v2/employees"); err != nil || a.status != http.StatusOK {
		t.Errorf("a request after the rotation = %d, %v, want 200", a.status, err)
	}
	if code := p.stop(); code != exitDone {
		t.Errorf("the server exits %d, want 0:\n%s", code, p.log)
	}
	for _, want := range []string{"the keyset has changed", "encrypting under another key from now on", "re-encrypted records"} {
		if !strings.Contains(p.log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, p.log)
		}
	}
	w.wantAllOpen(100)
}

// TestServerSurvivesEarlyRetire does a whole rotation between two checks of the file
// by the server.
func TestServerSurvivesEarlyRetire(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	w.fill(10)
	p := w.serve()
	for range 3 {
		w.keyset("add")
		w.keyset("promote")
		w.keyset("retire")
		if a, err := p.get(client(t), "c000", "/v2/employees"); err != nil || a.status != http.StatusOK {
			t.Fatalf("a request after a rotation = %d, %v, want 200:\n%s", a.status, err, p.log)
		}
	}
	if code := p.stop(); code != exitDone {
		t.Errorf("the server exits %d, want 0:\n%s", code, p.log)
	}
	w.wantAllOpen(10)
}

// TestServerReportsMissingKeyset checks that the server continues with the keys that
// it has read.
func TestServerReportsMissingKeyset(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	w.fill(1)
	p := w.serve()
	whole, err := os.ReadFile(w.keysetFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(w.keysetFile()); err != nil {
		t.Fatal(err)
	}
	p.waitForLog("cannot follow the keyset")
	if a, err := p.get(client(t), "c000", "/v2/employees"); err != nil || a.status != http.StatusOK {
		t.Errorf("a request without the keyset file = %d, %v, want 200", a.status, err)
	}
	w.write(filepath.Join("data", config.KeysetFileName), string(whole))
	p.waitForLog("following the keyset again")
}

// waitForLog waits until the process has logged the words.
func (p *process) waitForLog(words string) {
	p.t.Helper()
	waitForText(p.t, p.log, words)
}

func waitForText(t testing.TB, log *output, words string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(log.String(), words) {
			return
		}
	}
	t.Fatalf("the log does not say %q:\n%s", words, log)
}

// TestRetireFailsForSpooledPair checks that the key of a token pair in the spool cannot
// be retired: the pair may be the only copy.
func TestRetireFailsForSpooledPair(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	w.fill(1)
	old := w.keysetStatus().Primary
	keys, err := keyset.Open(w.keysetFile())
	if err != nil {
		t.Fatal(err)
	}
	record := w.spoolPair(keys)
	w.keyset("add")
	w.keyset("promote")
	code, _, stderr := w.run("", "keyset", "retire", old)
	if code != exitFailed || !strings.Contains(stderr, "1 token pair in the spool") {
		t.Errorf("keyset retire exits %d, want 1 and why:\n%s", code, stderr)
	}
	if s := w.keysetStatus(); s.Keys[0].SpoolRecords != 1 || s.Keys[0].CanRetire {
		t.Errorf("keyset status = %+v, want a record in the spool and no retirement", s.Keys[0])
	}

	// Without the key, the server must not treat the pair as never received.
	whole, err := os.ReadFile(w.keysetFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := keyset.Retire(w.keysetFile(), old, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	code, _, stderr = w.run("", "serve")
	if code != exitUsage || !strings.Contains(stderr, "encrypted under a key that is not in the keyset") {
		t.Errorf("serve without the key of a spooled pair exits %d, want 2 and why:\n%s", code, stderr)
	}
	w.write(filepath.Join("data", config.KeysetFileName), string(whole))
	if err := os.Remove(record); err != nil {
		t.Fatal(err)
	}
	w.keyset("retire", old)
}

// spoolPair writes a record with an encrypted pair to the spool.
func (w *env) spoolPair(keyset *keyset.Keyset) (path string) {
	w.t.Helper()
	encrypted, err := keyset.Encrypt("label", []byte("pair"))
	if err != nil {
		w.t.Fatal(err)
	}
	const headerSize, recordSize = 512, 64 << 10
	record := make([]byte, recordSize)
	copy(record, `{}`)
	record[headerSize+3] = byte(len(encrypted))
	copy(record[headerSize+4:], encrypted)
	if err := os.MkdirAll(filepath.Join(w.dir, "data", config.SpoolDirName), 0o700); err != nil {
		w.t.Fatal(err)
	}
	return w.write(filepath.Join("data", config.SpoolDirName, "x-1-0.pair"), string(record))
}

// TestKeysetOnReadOnlyMount checks that commands work with a keyset on a read-only
// mount, except for those that change it.
func TestKeysetOnReadOnlyMount(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	keys := filepath.Join(w.dir, "keys")
	w.write("config.yaml", configFor(w.sim, w.url, filepath.Join(w.dir, "data"))+
		fmt.Sprintf("store: {keyset_file: %q}\n", filepath.Join(keys, config.KeysetFileName)))
	if err := os.Mkdir(keys, 0o700); err != nil {
		t.Fatal(err)
	}
	w.fill(1)
	readOnly := func(args ...string) ([]byte, error) {
		script := `mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"`
		cmd := exec.CommandContext(t.Context(), "unshare", append([]string{"-rm", "sh", "-c", script, keys, os.Args[0], "--config", w.config}, args...)...)
		cmd.Env = append(os.Environ(), asProgram+"=1", quickExit)
		return cmd.CombinedOutput()
	}
	if out, err := exec.CommandContext(t.Context(), "unshare", "-rm", "mount", "--bind", keys, keys).CombinedOutput(); err != nil {
		t.Skipf("this user may not mount: %v: %s", err, out)
	}
	if out, err := readOnly("keyset", "status"); err != nil {
		t.Errorf("keyset status = %v, want nil:\n%s", err, out)
	}
	if out, err := readOnly("keyset", "promote"); err != nil || !strings.Contains(string(out), "already the primary one") {
		t.Errorf("keyset promote of the primary key = %v, want nil:\n%s", err, out)
	}
	if out, err := readOnly("connections", "add", "new", "--kind", "oauth"); err != nil {
		t.Errorf("connections add = %v, want nil:\n%s", err, out)
	}
	out, err := readOnly("keyset", "add")
	if err == nil || !strings.Contains(string(out), "read-only file system; the keyset is on a read-only mount: edit the original") {
		t.Errorf("keyset add = %v, want what to do instead:\n%s", err, out)
	}
}

// killedAt returns at which of its writes, counted per thread, a command is killed.
func killedAt() []int {
	if raceDetector {
		return []int{2, 5, 12, 28}
	}
	return []int{1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 28, 36}
}

// writes are the system calls that change something on disk.
const writes = "write,pwrite64,fsync,fdatasync,ftruncate,fchmod,chmod,fchmodat,lchown,fchown,fchownat,rename,renameat,renameat2,unlink,unlinkat"

// TestKeysetRotationKilledAtAnyWrite checks that all records can be decrypted after a
// kill at any write of any step, and that the step can be repeated (F24).
func TestKeysetRotationKilledAtAnyWrite(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed")
	}
	const connections = 70 // three transactions
	w := newEnv(t, simulator.Settings{})
	w.fill(connections)
	kills := 0
	for _, step := range []string{"add", "promote", "retire"} {
		for _, n := range killedAt() {
			again := w.copyOf(fmt.Sprintf("%s-%d", step, n))
			if again.killed(n, "keyset", step) {
				kills++
			}
			again.wantAllOpen(connections)
			again.finish(step)
			again.wantAllOpen(connections)
		}
		w.keyset(step)
	}
	if kills < len(killedAt()) {
		t.Errorf("%d commands were killed, want more: too little was tried", kills)
	}
}

// copyOf returns an env with a copy of all files.
func (w *env) copyOf(name string) *env {
	w.t.Helper()
	c := *w
	c.dir = filepath.Join(w.t.TempDir(), name)
	if err := os.CopyFS(c.dir, os.DirFS(w.dir)); err != nil {
		w.t.Fatal(err)
	}
	err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600) // CopyFS gives more
	})
	if err != nil {
		w.t.Fatal(err)
	}
	c.config = filepath.Join(c.dir, "config.yaml")
	c.write("config.yaml", configFor(w.sim, w.url, filepath.Join(c.dir, "data")))
	return &c
}

// killed runs the program and kills it at its n-th write. It returns false if there
// were fewer.
func (w *env) killed(n int, args ...string) bool {
	w.t.Helper()
	inject := fmt.Sprintf("inject=%s:signal=KILL:when=%d", writes, n)
	cmd := exec.CommandContext(w.t.Context(), "strace", append([]string{
		"-f", "-qqq", "-e", "trace=" + writes, "-e", inject, "-o", filepath.Join(w.dir, "strace"),
		os.Args[0], "--config", w.config,
	}, args...)...)
	// One thread at a time, so that more of the writes are one thread's.
	cmd.Env = append(os.Environ(), asProgram+"=1", quickExit, "GOMAXPROCS=1")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if state, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !state.Signaled() || state.Signal() != syscall.SIGKILL {
		w.t.Fatalf("%v under strace: %v\n%s", args, err, out)
	}
	return true
}

// finish repeats a step that was killed, unless it was already done.
func (w *env) finish(step string) {
	w.t.Helper()
	if step == "retire" && len(w.keysetStatus().Keys) == 1 {
		return
	}
	w.keyset(step)
}

// TestServerKilledDuringReencryption kills the server at a random moment of its work.
func TestServerKilledDuringReencryption(t *testing.T) {
	const connections = 150
	w := newEnv(t, simulator.Settings{})
	w.fill(connections)
	for range 3 {
		p := w.serve()
		key, err := keyset.Add(w.keysetFile())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := keyset.Promote(w.keysetFile(), key.Fingerprint); err != nil {
			t.Fatal(err)
		}
		p.waitForLog("encrypting under another key from now on")
		time.Sleep(rand.N(100 * time.Millisecond)) // somewhere during the work
		p.kill()
		w.wantAllOpen(connections)
	}
	w.keyset("promote")
	for _, key := range w.keysetStatus().Keys {
		if !key.Primary {
			w.keyset("retire", key.Fingerprint)
		}
	}
	w.wantAllOpen(connections)
}

// TestProcessesStartTogetherWithoutStore checks that commands and servers that start
// together without a keyset and a store end up with one of each (F29).
func TestProcessesStartTogetherWithoutStore(t *testing.T) {
	const adders = 6
	for range 3 {
		w := newEnv(t, simulator.Settings{})
		key := w.write("key", "secret-key\n")
		servers := []*exec.Cmd{w.command("serve"), w.command("serve")}
		var logs [2]output
		for i, s := range servers {
			s.Stderr = &logs[i]
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Process.Kill() })
		}
		added := make(chan error, adders)
		for i := range adders {
			cmd := w.command("connections", "add", fmt.Sprintf("k%d", i), "--kind", "standalone_key", "--offline", "--key-file", key)
			go func() {
				if out, err := cmd.CombinedOutput(); err != nil {
					added <- fmt.Errorf("%w: %s", err, out)
					return
				}
				added <- nil
			}()
		}
		for range adders {
			if err := <-added; err != nil {
				t.Errorf("connections add beside others: %v", err)
			}
		}
		for i, s := range servers {
			waitForText(t, &logs[i], "ready")
			if err := errors.Join(s.Process.Signal(syscall.SIGTERM), s.Wait()); err != nil {
				t.Errorf("a server ends with %v:\n%s", err, &logs[i])
			}
		}
		w.wantAllOpen(adders)
	}
}

// command returns a command that runs the program in another process.
func (w *env) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(w.t.Context(), os.Args[0], append([]string{"--config", w.config}, args...)...)
	cmd.Env = append(os.Environ(), asProgram+"=1", quickExit)
	return cmd
}
