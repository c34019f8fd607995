package proxy

import (
	"bytes"
	"crypto/rand"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// A body that does not fit into memory is replayed from a file.
func TestLargeBodiesAreReplayedFromFiles(t *testing.T) {
	const memory = 64 << 10
	payload := make([]byte, 3<<20+17)
	_, _ = rand.Read(payload)
	tests := []struct {
		name string
		body func() io.Reader
		conf func(*Config)
	}{
		{"known length", func() io.Reader { return bytes.NewReader(payload) }, nil},
		{"chunked", func() io.Reader { return io.MultiReader(bytes.NewReader(payload)) }, nil},
		{"in odd pieces", func() io.Reader { return iotest.HalfReader(io.MultiReader(bytes.NewReader(payload))) }, nil},
		{"no memory left", func() io.Reader { return bytes.NewReader(payload) }, func(c *Config) { c.Replay.MemoryTotal = 1 }},
		{"no memory at all", func() io.Reader { return io.MultiReader(bytes.NewReader(payload)) }, func(c *Config) { c.Replay.Memory = 0 }},
		{"exactly the limit", func() io.Reader { return bytes.NewReader(payload) }, func(c *Config) { c.Replay.MaxBody = int64(len(payload)) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			v := newFakeCredentials("acme")
			var names []string
			r := newTestProxy(t, v, func(w http.ResponseWriter, req *http.Request) {
				body, _ := io.ReadAll(req.Body)
				found, _ := filepath.Glob(filepath.Join(dir, "*"))
				names = append(names, found...)
				req.Body = io.NopCloser(bytes.NewReader(body))
				v.requireToken(echo)(w, req)
			}, func(c *Config) {
				c.Replay.Memory, c.Replay.Dir = memory, dir
				if tt.conf != nil {
					tt.conf(c)
				}
			})
			v.expire("acme")
			got := r.do("POST", "/", tt.body())
			if got.StatusCode != 200 || got.body != string(payload) {
				t.Errorf("response = %d with %d bytes, want 200 with the %d that were sent", got.StatusCode, len(got.body), len(payload))
			}
			if len(names) > 0 {
				t.Errorf("files with names: %q, want none", names)
			}
			r.logEntry()
			k := r.proxy.replayBuffers
			if m, f := k.memory.used.Load(), k.files.used.Load(); m != 0 || f != 0 {
				t.Errorf("in use afterwards = %d in memory, %d in files, want nothing", m, f)
			}
			if open := openFilesIn(dir); open != 0 {
				t.Errorf("%d files are open afterwards, want none", open)
			}
		})
	}
}

// openFilesIn counts the open files of this process in dir, unlinked ones included.
// On systems without /proc it returns 0.
func openFilesIn(dir string) int {
	links, _ := filepath.Glob("/proc/self/fd/*")
	open := 0
	for _, l := range links {
		if target, err := os.Readlink(l); err == nil && strings.HasPrefix(target, dir) {
			open++
		}
	}
	return open
}

// Without a writable directory large requests are forwarded, and a warning that
// they are not replayed is logged once.
func TestUnwritableReplayDirIsLoggedOnce(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	v := newFakeCredentials("acme")
	r := newTestProxy(t, v, v.requireToken(echo), func(c *Config) {
		c.Replay.Memory, c.Replay.Dir, c.Logger = 4, filepath.Join(t.TempDir(), "missing"), zap.New(core)
	})
	for range 3 {
		if got := r.do("POST", "/", strings.NewReader("0123456789")); got.StatusCode != 200 || got.body != "0123456789" {
			t.Errorf("response = %d %q, want 200 with the body", got.StatusCode, got.body)
		}
	}
	if n := logs.Len(); n != 1 || !strings.Contains(logs.All()[0].Message, "replay.dir") {
		t.Errorf("warnings = %v, want 1 that names replay.dir", logs.All())
	}
}

func TestReplayFilesAreBounded(t *testing.T) {
	k := newReplayBuffers(ReplayConfig{MaxBody: 1 << 20, FilesTotal: 10 << 10, Dir: t.TempDir()}, zap.NewNop())
	whole := 0
	var all []*replayBuffer
	for range 10 {
		b := k.newBuffer(-1)
		if b.append(make([]byte, 3<<10)) {
			whole++
		}
		all = append(all, b)
	}
	if used := k.files.used.Load(); used > k.files.limit || whole != 3 {
		t.Errorf("kept %d bodies in %d bytes, want 3 in at most %d", whole, used, k.files.limit)
	}
	for _, b := range all {
		b.release()
	}
	if used := k.files.used.Load(); used != 0 {
		t.Errorf("in use afterwards = %d, want 0", used)
	}
}

// A client may disconnect while its body is written to a file.
func TestReplayBufferReleaseWhileAppending(t *testing.T) {
	dir := t.TempDir()
	k := newReplayBuffers(ReplayConfig{MaxBody: 1 << 20, FilesTotal: 1 << 20, Dir: dir}, zap.NewNop())
	var running sync.WaitGroup
	for range 50 {
		b := k.newBuffer(-1)
		running.Go(func() {
			for b.append(make([]byte, 100)) {
			}
		})
		running.Go(b.release)
	}
	running.Wait()
	if used, open := k.files.used.Load(), openFilesIn(dir); used != 0 || open != 0 {
		t.Errorf("afterwards %d bytes in use and %d files open, want none", used, open)
	}
}
