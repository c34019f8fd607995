package pleo

import (
	"errors"
	"net"
	"testing"
)

func TestTrackedConnStaysClosed(t *testing.T) {
	near, far := net.Pipe()
	defer func() { _, _ = near.Close(), far.Close() }()
	conn := &trackedConn{Conn: near}
	if !conn.closeIfUnwritten(conn.bytesWritten()) {
		t.Fatal("closeIfUnwritten = false before any write")
	}
	if n, err := conn.Write([]byte("x")); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write after closeIfUnwritten = %d, %v, want 0, %v", n, err, net.ErrClosed)
	}
}

func TestTrackedConnCountsWriteInProgress(t *testing.T) {
	near, far := net.Pipe()
	conn := &trackedConn{Conn: near}
	before := conn.bytesWritten()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = conn.Write([]byte("xy")) // until far is closed
	}()
	if _, err := far.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if conn.closeIfUnwritten(before) {
		t.Error("closeIfUnwritten = true during a write")
	}
	_ = far.Close()
	<-done
	if conn.closeIfUnwritten(before) {
		t.Error("closeIfUnwritten = true after half a write")
	}
}
