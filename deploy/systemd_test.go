package deploy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const unitFile = "usr/lib/systemd/system/pleo-auth-proxy.service"

// installed returns a temporary root in which dpkg has installed the package for this
// machine's architecture.
func installed(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "installing a package requires root")
	}
	found, err := filepath.Glob(repository("dist", "release", "pleo-auth-proxy_*_"+architecture()+".deb"))
	if err != nil || len(found) != 1 {
		missing(t, "make release-snapshot builds the package: %v %v", found, err)
	}
	root := t.TempDir()
	// Files of the base system.
	for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "etc", "usr/bin", "usr/lib/systemd/system"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "var/lib/dpkg/status"), "")
	write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")
	write(t, filepath.Join(root, "etc/group"), "root:x:0:\n")
	// The package's scripts run on this machine, with the root in a variable.
	cmd := exec.Command("dpkg", "--root", root, "--force-script-chrootless", "--force-depends", "--install", found[0])
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("dpkg: %v\n%s", err, out)
	}
	return root
}

// setting returns the values of a setting in the unit.
func setting(unit, name string) []string {
	var values []string
	for _, m := range regexp.MustCompile(`(?m)^`+name+`=(.*)$`).FindAllStringSubmatch(unit, -1) {
		values = append(values, m[1])
	}
	return values
}

func TestPackageInstalls(t *testing.T) {
	root := installed(t)
	for path, mode := range map[string]fs.FileMode{
		"usr/bin/pleo-auth-proxy":                                  0o755,
		unitFile:                                                   0o644,
		"etc/pleo-auth-proxy/config.yaml":                          0o644,
		"usr/share/man/man1/pleo-auth-proxy.1.gz":                  0o644,
		"usr/share/man/man1/pleo-auth-proxy-serve.1.gz":            0o644,
		"usr/share/bash-completion/completions/pleo-auth-proxy":    0o644,
		"usr/share/zsh/vendor-completions/_pleo-auth-proxy":        0o644,
		"usr/share/fish/vendor_completions.d/pleo-auth-proxy.fish": 0o644,
		"usr/share/doc/pleo-auth-proxy/copyright":                  0o644,
	} {
		info, err := os.Stat(filepath.Join(root, path))
		if err != nil || info.Mode() != mode || info.Size() == 0 {
			t.Errorf("%s: %v %v, want mode %v and content", path, info, err, mode)
		}
	}
	if passwd := read(t, filepath.Join(root, "etc/passwd")); !strings.Contains(passwd, "pleo-auth-proxy:") {
		t.Errorf("there is no user pleo-auth-proxy:\n%s", passwd)
	}
	out := output(t, "dpkg", "--root", root, "--status", "pleo-auth-proxy")
	if !strings.Contains(out, "Status: install ok installed") || !strings.Contains(out, " /etc/pleo-auth-proxy/config.yaml ") {
		t.Errorf("want it installed, with the configuration as a conffile:\n%s", out)
	}
	output(t, "dpkg", "--root", root, "--force-script-chrootless", "--remove", "pleo-auth-proxy")
	if _, err := os.Stat(filepath.Join(root, "etc/pleo-auth-proxy/config.yaml")); err != nil {
		t.Errorf("after a removal: %v, want the configuration to be kept", err)
	}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/pleo-auth-proxy")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after a removal the program still exists: %v", err)
	}
}

// TestUnitIsConfined checks the unit with systemd-analyze security, and that
// systemd-analyze verify reports nothing.
func TestUnitIsConfined(t *testing.T) {
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager",
		repository("deploy", "systemd", "pleo-auth-proxy.service")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Overall exposure level") {
		t.Errorf("systemd-analyze security: %v, want an exposure of at most 1.5:\n%s", err, out)
	}
	root := installed(t)
	for _, unit := range []string{"sysinit.target", "basic.target", "shutdown.target", "network-online.target", "nss-lookup.target", "multi-user.target"} {
		write(t, filepath.Join(root, "usr/lib/systemd/system", unit), "[Unit]\nDescription=of the base system\nDefaultDependencies=no\n")
	}
	out, err = exec.Command("systemd-analyze", "verify", "--man=no", "--root="+root, "pleo-auth-proxy.service").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v, want no output:\n%s", err, out)
	}
}

// TestUnitNeverGivesUp checks that systemd restarts the program without limit: it exits if
// its database is unavailable at the start, and by default systemd gives up after five
// starts within ten seconds.
func TestUnitNeverGivesUp(t *testing.T) {
	unit := read(t, repository("deploy", "systemd", "pleo-auth-proxy.service"))
	before, _, _ := strings.Cut(unit, "[Service]") // systemd reads it there
	if got := setting(before, "StartLimitIntervalSec"); !slices.Equal(got, []string{"0"}) {
		t.Errorf("StartLimitIntervalSec of [Unit] = %q, want 0", got)
	}
	if got := setting(unit, "Restart"); !slices.Equal(got, []string{"on-failure"}) {
		t.Errorf("Restart = %q, want on-failure", got)
	}
}

// TestCredentialsAreLoaded checks that the unit loads the credentials that the page and the
// package's configuration name.
func TestCredentialsAreLoaded(t *testing.T) {
	loaded := setting(read(t, repository("deploy", "systemd", "pleo-auth-proxy.service")), "LoadCredential")
	text := read(t, repository("docs", "systemd.md")) + read(t, repository("deploy", "deb", "config.yaml"))
	named := regexp.MustCompile(`/(?:run/credentials/pleo-auth-proxy\.service|etc/credstore)/([a-z-]+)`).FindAllStringSubmatch(text, -1)
	if len(named) < 4 {
		t.Errorf("found %d credentials, want at least 4", len(named))
	}
	for _, m := range named {
		if !slices.Contains(loaded, m[1]) {
			t.Errorf("%s is used, but the unit does not load %s", m[0], m[1])
		}
	}
}

// serviceOf prepares the unit's process: the package's files as a read-only root, its
// directories, its credentials and its command.
func serviceOf(t *testing.T, root string, credentials map[string]string) *container {
	t.Helper()
	unit := read(t, filepath.Join(root, unitFile))
	c := &container{name: "the service", root: root, env: map[string]string{}}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	c.config.Entrypoint = strings.Fields(setting(unit, "ExecStart")[0])
	var state []string
	for name := range strings.FieldsSeq(setting(unit, "StateDirectory")[0]) {
		state = append(state, "/var/lib/"+name)
		c.volume(t, "/var/lib/"+name)
	}
	c.env["STATE_DIRECTORY"] = strings.Join(state, ":")
	c.volume(t, "/run/"+setting(unit, "RuntimeDirectory")[0])
	c.env["CREDENTIALS_DIRECTORY"] = "/run/credentials/pleo-auth-proxy.service"
	dir := t.TempDir()
	for name, secret := range credentials {
		if !slices.Contains(setting(unit, "LoadCredential"), name) {
			t.Fatalf("the unit does not load the credential %s", name)
		}
		path := write(t, filepath.Join(dir, name), secret)
		if err := errors.Join(os.Chown(path, 65532, 65532), os.Chmod(path, 0o400)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c.mounts = append(c.mounts, mount{source: dir, target: c.env["CREDENTIALS_DIRECTORY"], readOnly: true})
	return c
}

// configured uncomments the lines about OAuth in the package's configuration, and returns
// the credentials that it then needs.
func configured(t *testing.T, root string) map[string]string {
	t.Helper()
	path := filepath.Join(root, "etc/pleo-auth-proxy/config.yaml")
	write(t, path, strings.NewReplacer("#oauth:", "oauth:", "#  client", "  client",
		"the id of your OAuth client at Pleo", "5d5f3a80-0f4b-4c5e-9a51-0b5f0c1a7e11").Replace(read(t, path)))
	return map[string]string{"pleo-client-secret": simulatedSecret}
}

// TestServiceRuns starts the package's program with the unit's ExecStart and the package's
// configuration, with OAuth enabled.
func TestServiceRuns(t *testing.T) {
	startSimulator(t)
	root := installed(t)
	c := serviceOf(t, root, configured(t, root))
	c.simulated()
	c.start(t)
	c.await(t, healthy("http://127.0.0.1:8485/readyz"))
	importGrantBy(t, c, "/usr/bin/pleo-auth-proxy", "acme")
	if status, body, err := get("http://127.0.0.1:8484/@acme/v2/employees"); err != nil || status != 200 {
		t.Errorf("the service responds with %d %s %v, want 200", status, body, err)
	}
	for _, warning := range []string{"the keyset is in the same directory as the store", "other users of this machine"} {
		if strings.Contains(c.log.String(), warning) {
			t.Errorf("the service warns that %s", warning)
		}
	}
	if code := c.stop(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestUnitAllowsWhatTheProgramCalls checks that the unit permits every system call of the
// program.
func TestUnitAllowsWhatTheProgramCalls(t *testing.T) {
	root := installed(t)
	unit := read(t, filepath.Join(root, unitFile))
	allowed := map[string]bool{}
	for _, filter := range setting(unit, "SystemCallFilter") {
		names, deny := strings.CutPrefix(filter, "~")
		for set := range strings.FieldsSeq(names) {
			for _, call := range callsOf(t, set) {
				allowed[call] = !deny
			}
		}
	}
	// The program tries to raise its limit of open files, and continues if that fails: the
	// unit's LimitNOFILE has set the limit already.
	allowed["prlimit64"] = true

	startSimulator(t)
	c := serviceOf(t, root, configured(t, root))
	c.simulated()
	log := filepath.Join(t.TempDir(), "calls")
	traced := c.command(t.Context(), t, c.entry()...)
	traced.Args = append([]string{"strace", "--daemonize", "--follow-forks", "--quiet=all", "--output", log}, traced.Args...)
	traced.Path = lookPath(t, "strace")
	out := &buffer{}
	traced.Stdout, traced.Stderr = out, out
	if err := traced.Start(); err != nil {
		t.Fatal(err)
	}
	c.running, c.log, c.ended = traced, out, make(chan struct{})
	go func() {
		_ = traced.Wait() // stop looks at how it ended
		close(c.ended)
	}()
	t.Cleanup(func() { _ = traced.Process.Kill() })
	c.await(t, healthy("http://127.0.0.1:8485/readyz"))
	importGrantBy(t, c, "/usr/bin/pleo-auth-proxy", "acme")
	if status, body, err := get("http://127.0.0.1:8484/@acme/v2/employees"); err != nil || status != 200 {
		t.Errorf("the service responds with %d %s %v, want 200", status, body, err)
	}
	if code := c.stop(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	used := callsAfterExec(read(t, log), "/usr/bin/pleo-auth-proxy")
	if len(used) < 20 {
		t.Fatalf("saw only %d system calls: %v", len(used), used)
	}
	for _, call := range used {
		if !allowed[call] {
			t.Errorf("the unit forbids the system call %s", call)
		}
	}
}

// callsOf returns the system calls of one of systemd's sets.
func callsOf(t *testing.T, set string) []string {
	t.Helper()
	var calls []string
	for line := range strings.Lines(output(t, "systemd-analyze", "syscall-filter", "--no-pager", set)) {
		name := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(name, "#"), name == "", name == set:
		case strings.HasPrefix(name, "@"):
			calls = append(calls, callsOf(t, name)...)
		default:
			calls = append(calls, name)
		}
	}
	return calls
}

// callsAfterExec returns the names of the system calls in strace's output after the start
// of the program.
func callsAfterExec(log, program string) []string {
	_, log, _ = strings.Cut(log, fmt.Sprintf("execve(%q", program))
	seen := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\d+ +([a-z0-9_]+)\(`).FindAllStringSubmatch(log, -1) {
		seen[m[1]] = true
	}
	var calls []string
	for call := range seen {
		calls = append(calls, call)
	}
	slices.Sort(calls)
	return calls
}

func lookPath(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, "%s is needed", name)
	}
	return path
}
