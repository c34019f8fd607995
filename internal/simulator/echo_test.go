package simulator

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// wire is a connection on which a test writes what it likes.
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

// echo writes a raw request and reads what /echo tells about it.
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

func TestEchoTellsWhatArrived(t *testing.T) {
	b := newEnv(t, Settings{})
	g := b.grant(GrantRequest{})
	got, text := b.wire().echo("PUT /echo/a%2Fb;c//..?q=%zz&x=1&x=2;y HTTP/1.1\r\nhOsT: pleo.example\r\nx-LOWER: 1\r\nAuthorization: Bearer " +
		g.AccessToken + "\r\nAccept: b\r\nACCEPT: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 9\r\n\r\n")
	sum := sha256.Sum256([]byte("hello"))
	want := echoed{
		Method: "PUT", Target: "/echo/a%2Fb;c//..?q=%zz&x=1&x=2;y", Proto: "HTTP/1.1", Host: "pleo.example",
		Headers: []headField{
			{"hOsT", "pleo.example"},
			{"x-LOWER", "1"},
			{"Authorization", "Bearer [hidden]"},
			{"Accept", "b"},
			{"ACCEPT", "a"},
			{"Transfer-Encoding", "chunked"},
			{"Trailer", "X-Sum"},
		},
		AsReceived:    true,
		Authorization: authorizationInfo{1, "Bearer", "OAUTH2", g.ID, "", g.Company, g.Subject},
		Body:          bodyInfo{5, hex.EncodeToString(sum[:])},
		Trailers:      []headField{{"X-Sum", "9"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("echo (-want +got):\n%s", diff)
	}
	if strings.Contains(text, g.AccessToken) {
		t.Error("echo tells the access token")
	}
}

// TestEchoOnAReusedConnection has bodies and refused requests before the one
// that is looked at.
func TestEchoOnAReusedConnection(t *testing.T) {
	b := newEnv(t, Settings{})
	token := b.grant(GrantRequest{}).AccessToken
	w := b.wire()
	for i := range 5 {
		body := strings.Repeat("GET /echo HTTP/1.1\r\n\r\n", 10_000*(i%2))
		got, _ := w.echo(fmt.Sprintf("POST /echo/%d HTTP/1.1\r\nHost: h\r\nn-%d: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", i, i, token, len(body), body))
		if !got.AsReceived || len(got.Headers) != 4 || got.Headers[1].Name != fmt.Sprintf("n-%d", i) {
			t.Errorf("request %d: headers %v, want its own four", i, got.Headers)
		}
	}
}

func TestEchoWithoutRecordedHeads(t *testing.T) {
	sim, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := sim.IssueGrant(GrantRequest{})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/echo", nil)
	r.Header = http.Header{"B": {"2"}, "A": {"1"}, "Authorization": {"Bearer " + g.AccessToken}}
	w := httptest.NewRecorder()
	sim.API().ServeHTTP(w, r)
	var got echoed
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := []headField{{"A", "1"}, {"Authorization", "Bearer [hidden]"}, {"B", "2"}}
	if diff := cmp.Diff(want, got.Headers); diff != "" || got.AsReceived {
		t.Errorf("as received %v, headers (-want +got):\n%s", got.AsReceived, diff)
	}
}

// TestEarlyAnswerReachesTheClient refuses an upload before it has been read.
func TestEarlyAnswerReachesTheClient(t *testing.T) {
	b := newEnv(t, Settings{})
	body := strings.Repeat("x", 8<<20)
	for range 5 {
		b.wantStatus(b.api("POST", "/echo", body, "dead"), http.StatusUnauthorized)
	}
}
