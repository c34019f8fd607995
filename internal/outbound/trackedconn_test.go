package outbound

import (
	"errors"
	"net"
	"testing"
)

func TestTrackedConnStaysClosed(t *testing.T) {
	near, far := net.Pipe()
	defer func() { _, _ = near.Close(), far.Close() }()
	conn := &TrackedConn{Conn: near}
	if !conn.CloseIfUnwritten(conn.Written()) {
		t.Fatal("CloseIfUnwritten = false before any write")
	}
	if n, err := conn.Write([]byte("x")); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write after CloseIfUnwritten = %d, %v, want 0, %v", n, err, net.ErrClosed)
	}
}

func TestTrackedConnCountsWriteInProgress(t *testing.T) {
	near, far := net.Pipe()
	conn := &TrackedConn{Conn: near}
	before := conn.Written()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = conn.Write([]byte("xy")) // until far is closed
	}()
	if _, err := far.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if conn.CloseIfUnwritten(before) {
		t.Error("CloseIfUnwritten = true during a write")
	}
	_ = far.Close()
	<-done
	if conn.CloseIfUnwritten(before) {
		t.Error("CloseIfUnwritten = true after half a write")
	}
}
