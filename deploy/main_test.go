package deploy

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"
)

var (
	update  = flag.Bool("update", false, "rewrite the golden files")
	require = flag.Bool("require", false, "fail if the requirements of a test are missing")
)

// insideVariable is set while the tests run in a separate network.
const insideVariable = "DEPLOY_TEST_INSIDE"

// TestMain runs the tests in separate network and mount namespaces, if it may: there the
// documented ports are free, nothing else can be reached, and mounts disappear at the end.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Geteuid() != 0 {
		os.Exit(m.Run()) // tests that run containers skip
	}
	if os.Getenv(insideVariable) == "" {
		os.Exit(runInside())
	}
	if err := loopbackUp(); err != nil {
		fmt.Fprintln(os.Stderr, "setting up the network of the tests:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// runInside runs this program again in new namespaces.
func runInside() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "creating namespaces for the tests:", err)
		return 1
	}
	return 0
}

// loopbackUp enables the only interface of a new network.
func loopbackUp() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(fd) }()
	request := struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}{flags: syscall.IFF_UP | syscall.IFF_RUNNING}
	copy(request.name[:], "lo")
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}

// missing skips a test whose requirements are missing, or fails it with -require.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if *require {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// repository returns a path of the repository.
func repository(path ...string) string {
	root, err := filepath.Abs("..")
	if err != nil {
		panic(err)
	}
	return filepath.Join(append([]string{root}, path...)...)
}

// tool returns the path of a program that the Makefile builds.
func tool(t *testing.T, name string) string {
	t.Helper()
	for _, path := range []string{repository("bin", "tools", name), repository("bin", name)} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	missing(t, "%s is not in bin/tools; make deploy-check builds it", name)
	return ""
}

// output runs a command that must succeed, and returns its output.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, problems(err))
	}
	return string(out)
}

// problems returns the error output of a failed command.
func problems(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(exit.Stderr)
	}
	return ""
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
