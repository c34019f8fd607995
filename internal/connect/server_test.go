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

// listen serves h as the connect listener is served, and returns its address.
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

// get asks for the path by a connection of its own, which stays open.
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

// TestIdleConnectionsAreClosedWhenFull: whoever keeps connections open that nothing happens on
// does not keep customers out.
func TestIdleConnectionsAreClosedWhenFull(t *testing.T) {
	address := listen(t, func(http.ResponseWriter, *http.Request) {})
	var latest net.Conn
	for i := range maxConnections + 100 {
		conn, res, err := get(t, address, "/x")
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("with %d idle connections a page is answered %v, %v", i, res, err)
		}
		latest = conn
	}
	// The latest is the last to go.
	fmt.Fprint(latest, "GET /again HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if res, err := http.ReadResponse(bufio.NewReader(latest), nil); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("the latest connection was answered %v, %v; want it open", res, err)
	}
}

// TestBusyConnectionsStayOpenWhenFull: customers whose pages wait for Pleo are not thrown
// out for another one.
func TestBusyConnectionsStayOpenWhenFull(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{}, maxConnections)
	address := listen(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- struct{}{}
			<-release
		}
	})
	answered := make(chan error, maxConnections)
	for range maxConnections {
		go func() {
			_, _, err := get(t, address, "/slow")
			answered <- err
		}()
	}
	for range maxConnections {
		<-arrived
	}
	go func() {
		_, _, err := get(t, address, "/next")
		answered <- err
	}()
	close(release)
	for range maxConnections + 1 {
		if err := <-answered; err != nil {
			t.Errorf("one of those that waited: %v", err)
		}
	}
}
