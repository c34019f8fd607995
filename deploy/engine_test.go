package deploy

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// container runs an image as an engine would: with a read-only root, its mounts, and a
// user without privileges.
type container struct {
	name   string
	root   string
	config v1.Config
	mounts []mount
	env    map[string]string
	hosts  string   // the text of /etc/hosts
	args   []string // in place of the image's CMD

	running *exec.Cmd
	log     *buffer
	ended   chan struct{}
}

type mount struct {
	source, target string
	readOnly       bool
}

// buffer is a log that can be read while it is written.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// loadIndex returns the images of all platforms from a layout that make image has
// written: the layout's own index has the image index as its only entry.
func loadIndex(t *testing.T, name string) (v1.ImageIndex, *v1.IndexManifest) {
	t.Helper()
	path := repository("dist", "image", name)
	outer, err := layout.ImageIndexFromPath(path)
	if err != nil {
		missing(t, "there is no image in %s; make image builds it", path)
	}
	entries, err := outer.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(entries.Manifests); n != 1 {
		t.Fatalf("%s has %d entries, want one", path, n)
	}
	index, err := outer.ImageIndex(entries.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	return index, manifest
}

// loadImage returns the image for this machine's platform.
func loadImage(t *testing.T, name string) v1.Image {
	t.Helper()
	index, manifest := loadIndex(t, name)
	for _, d := range manifest.Manifests {
		if d.Platform.OS == "linux" && d.Platform.Architecture == architecture() {
			img, err := index.Image(d.Digest)
			if err != nil {
				t.Fatal(err)
			}
			return img
		}
	}
	t.Fatalf("%s has no image for linux/%s", name, architecture())
	return nil
}

// newContainer unpacks an image into a new container.
func newContainer(t *testing.T, name string, img v1.Image) *container {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "running a container requires root")
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := &container{name: name, root: t.TempDir(), config: file.Config, env: map[string]string{}}
	if err := os.Chmod(c.root, 0o755); err != nil {
		t.Fatal(err)
	}
	r := mutate.Extract(img)
	defer r.Close()
	if err := unpack(r, c.root); err != nil {
		t.Fatal(err)
	}
	return c
}

// unpack extracts a tar archive, with owners and modes.
func unpack(r io.Reader, root string) error {
	content := tar.NewReader(r)
	for {
		h, err := content.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(root, filepath.Clean("/"+h.Name))
		if err := unpackOne(path, h, content); err != nil {
			return err
		}
		if err := errors.Join(os.Chown(path, h.Uid, h.Gid), os.Chmod(path, h.FileInfo().Mode().Perm())); err != nil {
			return err
		}
	}
}

func unpackOne(path string, h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeDir {
		return os.MkdirAll(path, 0o755)
	}
	if h.Typeflag != tar.TypeReg {
		return fmt.Errorf("%s is neither a file nor a directory", h.Name)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

// volume creates a directory that the container's user may write to, and mounts it, as an
// engine does with a new volume.
func (c *container) volume(t *testing.T, target string) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.Chown(dir, 65532, 65532), os.Chmod(dir, 0o770)); err != nil {
		t.Fatal(err)
	}
	c.mounts = append(c.mounts, mount{source: dir, target: target})
	return dir
}

// script mounts the arguments up to --, and executes the rest.
const script = `
root=$1; shift
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
while [ "$1" != -- ]; do
  mount --bind "$1" "$root$2"
  [ "$3" = rw ] || mount -o remount,bind,ro "$root$2"
  shift 3
done
shift
exec setpriv --no-new-privs chroot --userspec=65532:65532 --groups=65532 "$root" "$@"
`

// command returns a command in the container, without starting it.
func (c *container) command(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	unshared := []string{"--mount", "--propagation", "private", "sh", "-euc", script, "sh", c.root}
	for _, m := range c.standardMounts(t) {
		mode := "rw"
		if m.readOnly {
			mode = "ro"
		}
		unshared = append(unshared, m.source, m.target, mode)
	}
	cmd := exec.CommandContext(ctx, "unshare", append(append(unshared, "--"), args...)...)
	cmd.Env = append(slices.Clone(c.config.Env), "PATH="+os.Getenv("PATH"))
	for _, name := range slices.Sorted(maps.Keys(c.env)) {
		cmd.Env = append(cmd.Env, name+"="+c.env[name])
	}
	return cmd
}

// standardMounts returns the mounts together with those of every container, the outer ones
// first, and creates the mount points.
func (c *container) standardMounts(t *testing.T) []mount {
	t.Helper()
	hosts := write(t, filepath.Join(t.TempDir(), "hosts"), "127.0.0.1 localhost\n"+c.hosts)
	all := append([]mount{
		{source: "/dev", target: "/dev"}, {source: "/proc", target: "/proc"}, {source: hosts, target: "/etc/hosts", readOnly: true},
	}, c.mounts...)
	slices.SortStableFunc(all, func(a, b mount) int { return strings.Count(a.target, "/") - strings.Count(b.target, "/") })
	for _, m := range all {
		info, err := os.Stat(m.source)
		if err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(c.root, m.target)
		if _, err := os.Stat(at); err == nil {
			continue
		}
		if info.IsDir() {
			err = os.MkdirAll(at, 0o755)
		} else {
			write(t, at, "")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// entry returns the command of the image, with other arguments if there are any.
func (c *container) entry(args ...string) []string {
	if len(args) == 0 {
		args = c.config.Cmd
	}
	return append(slices.Clone(c.config.Entrypoint), args...)
}

// start starts the container. It is killed at the end of the test if it still runs.
func (c *container) start(t *testing.T) {
	t.Helper()
	c.log = &buffer{}
	cmd := c.command(context.Background(), t, c.entry(c.args...)...)
	cmd.Stdout, cmd.Stderr = c.log, c.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.running, c.ended = cmd, make(chan struct{})
	ended := c.ended
	go func() {
		_ = cmd.Wait() // stop looks at how it ended
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("log of %s:\n%s", c.name, c.log)
		}
	})
}

// exec runs a command of the program in the container, as "docker exec" and
// "kubectl exec" do, and returns its output.
func (c *container) exec(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := c.command(t.Context(), t, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// grace is how long engines wait between SIGTERM and SIGKILL.
const grace = 90 * time.Second

// stop sends SIGTERM to the container, and returns its exit code.
func (c *container) stop(t *testing.T) int {
	t.Helper()
	if err := c.running.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.ended:
	case <-time.After(grace):
		t.Fatalf("%s did not end within %v", c.name, grace)
	}
	return c.running.ProcessState.ExitCode()
}

// await calls ask until it returns no error.
func (c *container) await(t *testing.T, ask func() error) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-c.ended:
			t.Fatalf("%s has ended: %v\n%s", c.name, c.running.ProcessState, c.log)
		case <-deadline:
			t.Fatalf("waiting for %s: %v\n%s", c.name, err, c.log)
		}
	}
}

// get sends a request directly to an HTTP server, from the given address.
func get(url string, header ...string) (status int, body string, err error) {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	resp, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// healthy checks an HTTP server, as probes do.
func healthy(url string) func() error {
	return func() error {
		status, body, err := get(url)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%s responds with %d %s", url, status, body)
		}
		return err
	}
}

// addAddress adds an address in the network of the tests.
func addAddress(t *testing.T, cidr string) {
	t.Helper()
	if out, err := exec.Command("ip", "address", "replace", cidr, "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("adding %s: %v %s", cidr, err, out)
	}
}

// The simulator in the network of the tests, as the docs start it.
const simulatorURL = "http://127.0.0.1:8490"

// startSimulator runs the simulated Pleo until the end of the test.
func startSimulator(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command(tool(t, "pleo-sim"), args...)
	log := &buffer{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	awaitPort(t, "127.0.0.1:8490")
}

func awaitPort(t *testing.T, address string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
