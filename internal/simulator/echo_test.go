package simulator

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// wire is a TCP connection on which a test writes arbitrary bytes.
type wire struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func (b *env) wire() *wire {
	b.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	return &wire{b.t, conn, bufio.NewReader(conn)}
}

// echo writes a raw request and reads the response of /echo.
func (w *wire) echo(raw string) (echoed, string) {
	w.t.Helper()
	if _, err := io.WriteString(w.conn, raw); err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.ReadResponse(w.in, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	var e echoed
	if err := json.Unmarshal(body, &e); err != nil {
		w.t.Fatalf("reading %d %s: %v", resp.StatusCode, body, err)
	}
	return e, string(body)
}

func TestEchoShowsTheRequest(t *testing.T) {
	b := newEnv(t, Settings{})
	g := b.grant(GrantRequest{})
	got, text := b.wire().echo("PUT /echo/a%2Fb;c//..?q=%zz&x=1&x=2;y HTTP/1.1\r\nhOsT: pleo.example\r\nx-LOWER: 1\r\nAuthorization: Bearer " +
		g.AccessToken + "\r\nAccept: b\r\nACCEPT: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 9\r\n\r\n")
	sum := sha256.Sum256([]byte("hello"))
	want := echoed{
		Method: "PUT", Target: "/echo/a%2Fb;c//..?q=%zz&x=1&x=2;y", Proto: "HTTP/1.1", Host: "pleo.example",
		Headers: []headerField{
			{"Accept", "b"},
			{"Accept", "a"},
			{"Authorization", "Bearer [hidden]"},
			{"X-Lower", "1"},
		},
		Authorization: authorizationInfo{1, "Bearer", "OAUTH2", g.ID, "", g.Company, g.Subject},
		Body:          bodyInfo{5, hex.EncodeToString(sum[:])},
		Trailers:      []headerField{{"X-Sum", "9"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("echo (-want +got):\n%s", diff)
	}
	if strings.Contains(text, g.AccessToken) {
		t.Error("the response contains the access token")
	}
}

// TestEarlyResponseReachesTheClient rejects an upload before it has been read.
func TestEarlyResponseReachesTheClient(t *testing.T) {
	b := newEnv(t, Settings{})
	body := strings.Repeat("x", 8<<20)
	for range 5 {
		b.wantStatus(b.api("POST", "/echo", body, "unknown"), http.StatusUnauthorized)
	}
}
