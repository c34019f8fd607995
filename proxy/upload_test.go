package proxy

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

func newTestUpload(t *testing.T, body io.Reader, length int64, k *replayBuffers) *upload {
	t.Helper()
	in := &http.Request{Body: io.NopCloser(body), ContentLength: length}
	return newUpload(t.Context(), in, k, func(h http.Header, _ []string) http.Header { return h.Clone() })
}

// attempt attaches a new attempt.
func attempt(t *testing.T, u *upload) *attemptBody {
	t.Helper()
	b, ok := u.attach()
	if !ok {
		t.Fatal("attach = false, want a body")
	}
	return b
}

// The replay gets the bytes that a late read of the first attempt returns.
func TestReplayGetsLateRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader, writer := io.Pipe()
		// The late read exceeds the limit, which no longer matters for the replay.
		u := newTestUpload(t, reader, -1, newReplayBuffers(ReplayConfig{Memory: 4, MemoryTotal: 4}, zap.NewNop()))
		first := attempt(t, u)
		go func() { _, _ = io.WriteString(writer, "one ") }()
		if _, err := io.ReadFull(first, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		late := make(chan error)
		go func() {
			_, err := first.Read(make([]byte, 100))
			late <- err
		}()
		synctest.Wait() // the late read is blocked
		second := attempt(t, u)
		go func() {
			_, _ = io.WriteString(writer, "two three")
			_ = writer.Close()
		}()
		got, err := io.ReadAll(second)
		if string(got) != "one two three" || err != nil {
			t.Errorf("the replay read %q, %v, want everything", got, err)
		}
		if err := <-late; !errors.Is(err, errDetached) {
			t.Errorf("late read = %v, want errDetached", err)
		}
		u.finish()
		if used := u.buffer.shared.memory.used.Load(); used != 0 {
			t.Errorf("memory in use afterwards = %d, want 0", used)
		}
	})
}

func TestReplayMemoryIsBounded(t *testing.T) {
	k := newReplayBuffers(ReplayConfig{Memory: 4 << 10, MemoryTotal: 10 << 10}, zap.NewNop())
	var uploads []*upload
	kept := 0
	for range 10 {
		u := newTestUpload(t, strings.NewReader(strings.Repeat("x", 3<<10)), -1, k)
		if _, err := io.Copy(io.Discard, attempt(t, u)); err != nil {
			t.Fatal(err)
		}
		if _, ok := u.attach(); ok {
			kept++
		}
		uploads = append(uploads, u)
	}
	if used := k.memory.used.Load(); used > k.memory.limit || kept == 0 || kept > 3 {
		t.Errorf("kept %d bodies in %d bytes, want 1 to 3 in at most %d", kept, used, k.memory.limit)
	}
	for _, u := range uploads {
		u.finish()
	}
	if used := k.memory.used.Load(); used != 0 {
		t.Errorf("memory in use afterwards = %d, want 0", used)
	}
}

func TestNoReadAfterFinish(t *testing.T) {
	source := strings.NewReader("body")
	u := newTestUpload(t, source, 4, newReplayBuffers(ReplayConfig{Memory: 10, MemoryTotal: 10}, zap.NewNop()))
	b := attempt(t, u)
	u.finish()
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, errDetached) || source.Len() != 4 {
		t.Errorf("Read = %v with %d bytes left, want errDetached with 4", err, source.Len())
	}
}

// deadlineRecorder is a response writer that records its read deadline.
type deadlineRecorder struct {
	http.ResponseWriter
	read time.Time
}

func (d *deadlineRecorder) SetReadDeadline(t time.Time) error {
	d.read = t
	return nil
}

// When a handler panics, the server drains the body first. A client that sends no
// more of it would never learn that its response broke off, so reading from it
// must be ended, also if no attempt is reading at that moment.
func TestAbortDoesNotWaitForClient(t *testing.T) {
	u := newTestUpload(t, strings.NewReader("body"), 4, newReplayBuffers(ReplayConfig{Memory: 10, MemoryTotal: 10}, zap.NewNop()))
	w := &deadlineRecorder{}
	u.stopReading(w)
	if w.read.IsZero() || w.read.After(time.Now()) {
		t.Errorf("read deadline = %v, want one that has passed", w.read)
	}
}
