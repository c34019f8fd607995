package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Some clients, such as http.client of Python, send the whole body before they read
// the response. A connection that is closed with data in it is reset, which fails
// their write.
func TestEarlyResponseReachesClientThatSendsFirst(t *testing.T) {
	tests := []struct {
		name, path string
		status     int
	}{
		{"rejected before the body is read", "/v1", 400}, // no connection is named
		{"early response of the API", "/@acme/v1", 413},
	}
	for _, tt := range tests {
		for _, size := range []int{5 << 20, 20 << 20} {
			for _, over := range []string{"TCP", "TLS"} {
				t.Run(fmt.Sprintf("%s, %d MiB, %s", tt.name, size>>20, over), func(t *testing.T) {
					api := newTCPUpstream(t, func(r *bufio.Reader, w net.Conn) {
						readHead(r)
						_, _ = io.WriteString(w, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
					})
					r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
					conn := dialOver(t, r, over)
					_, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", tt.path, size, strings.Repeat("x", size))
					if err != nil {
						t.Fatalf("sending the body: %v", err)
					}
					res, err := http.ReadResponse(bufio.NewReader(conn), nil)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadAll(res.Body); res.StatusCode != tt.status || err != nil {
						t.Errorf("response = %d, %v, want %d", res.StatusCode, err, tt.status)
					}
				})
			}
		}
	}
}

// dialOver connects to the proxy over TCP or TLS.
func dialOver(t *testing.T, r *testProxy, over string) net.Conn {
	t.Helper()
	if over == "TCP" {
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	client := r.listenTLS(false)
	conn, err := tls.Dial("tcp", r.addr, client.Transport.(*http.Transport).TLSClientConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestLingeringIsBounded(t *testing.T) {
	tests := []struct {
		name  string
		pause time.Duration // between writes of the client; 0: it sends without end
		want  time.Duration
	}{
		{"silent client", time.Hour, lingerIdleTimeout},
		{"slow client", time.Second, lingerTimeout},
		{"endless body", 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				sent := make(chan int, 1)
				go func() {
					total := 0
					for {
						time.Sleep(tt.pause)
						n, err := client.Write(make([]byte, 16<<10))
						total += n
						if err != nil {
							sent <- total
							return
						}
					}
				}()
				began := time.Now()
				(&clientConn{Conn: server}).linger()
				if took := time.Since(began); took != tt.want {
					t.Errorf("linger took %v, want %v", took, tt.want)
				}
				if total := <-sent; total > maxLingerBytes {
					t.Errorf("linger read %d bytes, want at most %d", total, maxLingerBytes)
				}
			})
		})
	}
}
