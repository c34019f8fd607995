package connect

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// listen serves h with the limits of the connect listener, and returns its address.
func listen(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(h, nil, log.New(t.Output(), "", 0))
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(LimitConnections(l)) }()
	t.Cleanup(func() {
		_ = srv.Close()
		<-ended
	})
	return l.Addr().String()
}

// get requests the path over a new connection, which stays open.
func get(t *testing.T, address, path string) (net.Conn, *http.Response, error) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
	res, err := http.ReadResponse(bufio.NewReader(conn), httptest.NewRequest(http.MethodGet, path, nil))
	return conn, res, err
}

// TestIdleConnectionsAreClosedWhenFull checks that idle connections do not keep
// customers out.
func TestIdleConnectionsAreClosedWhenFull(t *testing.T) {
	address := listen(t, func(http.ResponseWriter, *http.Request) {})
	var latest net.Conn
	for i := range maxConnections + 100 {
		conn, res, err := get(t, address, "/x")
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("with %d idle connections the response is %v, %v", i, res, err)
		}
		latest = conn
	}
	// The latest connection is still open.
	fmt.Fprint(latest, "GET /again HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if res, err := http.ReadResponse(bufio.NewReader(latest), nil); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("response over the latest connection: %v, %v; want status 200", res, err)
	}
}

// TestBusyConnectionsStayOpenWhenFull checks that pages which wait for Pleo are not
// interrupted by further connections.
func TestBusyConnectionsStayOpenWhenFull(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{}, maxConnections)
	address := listen(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- struct{}{}
			<-release
		}
	})
	done := make(chan error, maxConnections)
	for range maxConnections {
		go func() {
			_, _, err := get(t, address, "/slow")
			done <- err
		}()
	}
	for range maxConnections {
		<-arrived
	}
	go func() {
		_, _, err := get(t, address, "/next")
		done <- err
	}()
	close(release)
	for range maxConnections + 1 {
		if err := <-done; err != nil {
			t.Errorf("a request that waited: %v", err)
		}
	}
}
