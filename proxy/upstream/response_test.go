package upstream

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The response that the caller gets, and whether the connection is used again.
func TestResponses(t *testing.T) {
	tests := []struct {
		name, method, raw string
		status            int
		body              string
		trailer           http.Header
		reused            bool
	}{
		{"length", "GET", okResponse, 200, "ok", nil, true},
		{"empty", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", nil, true},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, "ok", nil, true},
		{"trailers", "GET", "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 42\r\nX-Any: 1\r\n\r\n", 200, "ok", http.Header{"X-Sum": {"42"}, "X-Any": {"1"}}, true},
		{"head", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", 200, "", nil, true},
		{"head, chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, "", nil, true},
		{"204", "DELETE", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", nil, true},
		{"304 with a length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, "", nil, true},
		{"the same length twice", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, "ok", nil, true},
		{"bare line feeds", "GET", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200, "ok", nil, true},
		{"no reason", "GET", "HTTP/1.1 299 \r\nContent-Length: 2\r\n\r\nok", 299, "ok", nil, true},
		{"close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, "ok", nil, false},
		{"until close", "GET", "HTTP/1.1 200 OK\r\n\r\nok", 200, "ok", nil, false},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", nil, false},
		{"HTTP/1.0 until close", "GET", "HTTP/1.0 200 OK\r\n\r\nok", 200, "ok", nil, false},
		{"HTTP/1.0 keep-alive", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", 200, "ok", nil, true},
		{"data after the response", "GET", okResponse + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", 200, "ok", nil, false},
		{"body of a 204", "GET", "HTTP/1.1 204 No Content\r\n\r\nevil", 204, "", nil, false},
		{"body of a head response", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", 200, "", nil, false},
		{"head larger than the buffer", "GET", "HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("x", 100_000) + "\r\nContent-Length: 2\r\n\r\nok", 200, "ok", nil, false},
		{"408 is for the caller", "GET", "HTTP/1.1 408 Request Timeout\r\nContent-Length: 2\r\n\r\nok", 408, "ok", nil, true},
	}
	for _, tt := range tests {
		pieces := []int{1 << 20, 1}
		if len(tt.raw) > 1000 || strings.Contains(tt.raw, "evil") { // must arrive together with the response
			pieces = pieces[:1]
		}
		for _, piece := range pieces {
			t.Run(fmt.Sprintf("%s, %d bytes at a time", tt.name, piece), func(t *testing.T) {
				served := false
				s := serveRaw(t, func(r *bufio.Reader, c net.Conn, _ int) {
					for readRequest(r) {
						if served {
							_, _ = io.WriteString(c, okResponse)
							continue
						}
						served = true
						for p := tt.raw; p != ""; p = p[min(piece, len(p)):] {
							_, _ = io.WriteString(c, p[:min(piece, len(p))])
						}
						if !tt.reused {
							time.Sleep(time.Millisecond)
							return
						}
					}
				})
				c := newClient(t, s.address)
				got := do(t, c, &Request{Method: tt.method, Target: "/"})
				got.check(t, tt.status, tt.body)
				if diff := cmp.Diff(tt.trailer, got.trailer); diff != "" {
					t.Errorf("trailer (-want +got):\n%s", diff)
				}
				do(t, c, get("/")).check(t, 200, "ok")
				if reused := s.connections() == 1; reused != tt.reused {
					t.Errorf("connection reused = %v, want %v", reused, tt.reused)
				}
			})
		}
	}
}

// The error contains nothing of the response, and the connection is not reused.
func TestBrokenResponses(t *testing.T) {
	tests := []struct {
		name, raw string
		want      Phase
	}{
		{"nothing", "", NoResponse},
		{"not HTTP", "SSH-2.0-evil\r\n", BrokenResponse},
		{"HTTP/2", "HTTP/2.0 200 evil\r\n\r\n", BrokenResponse},
		{"part of the status line", "HTTP/1.1 200 ev", BrokenResponse},
		{"part of the head", "HTTP/1.1 200 OK\r\nX-Evil: evil\r\n", BrokenResponse},
		{"101", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: evil\r\nConnection: Upgrade\r\n\r\nevil", BrokenResponse},
		{"status below 100", "HTTP/1.1 042 evil\r\nContent-Length: 0\r\n\r\n", BrokenResponse},
		{"status of two digits", "HTTP/1.1 20 evil\r\nContent-Length: 0\r\n\r\n", BrokenResponse},
		{"status that is no number", "HTTP/1.1 evl OK\r\nContent-Length: 0\r\n\r\n", BrokenResponse},
		{"line without a colon", "HTTP/1.1 200 OK\r\nevil\r\nContent-Length: 0\r\n\r\n", BrokenResponse},
		{"space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", BrokenResponse},
		{"CR in a value", "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n", BrokenResponse},
		{"NUL in a value", "HTTP/1.1 200 OK\r\nX: evil\x00\r\nContent-Length: 0\r\n\r\n", BrokenResponse},
		{"folded first line", "HTTP/1.1 200 OK\r\n X: evil\r\nContent-Length: 0\r\n\r\n", BrokenResponse},
		{"negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", BrokenResponse},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", BrokenResponse},
		{"length and coding", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", BrokenResponse},
		{"coding of HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", BrokenResponse},
		{"unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: evil\r\n\r\n", BrokenResponse},
		{"two codings", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", BrokenResponse},
		{"huge head", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("evil", 1<<19) + "\r\n\r\n", BrokenResponse},
		{"head of many lines", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: evil\r\n", 1<<18) + "\r\n", BrokenResponse},
		{"too many interim responses", strings.Repeat("HTTP/1.1 103 evil\r\n\r\n", maxInterimResponses+1), BrokenResponse},
		{"huge interim responses", strings.Repeat("HTTP/1.1 103 evil\r\nX: "+strings.Repeat("x", 100_000)+"\r\n\r\n", 20), BrokenResponse},
		{"an interim response only", "HTTP/1.1 103 evil\r\n\r\n", BrokenResponse},

		{"body shorter than its length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nevil", BrokenResponse},
		{"chunked body without an end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n", BrokenResponse},
		{"part of a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nevil", BrokenResponse},
		{"chunk without a size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nevil\r\n", BrokenResponse},
		{"chunk longer than its size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nevil\r\n0\r\n\r\n", BrokenResponse},
		{"part of a trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: evil\r\n", BrokenResponse},
		{"huge trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + strings.Repeat("evil", 1<<16) + "\r\n\r\n", BrokenResponse},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serveRaw(t, func(r *bufio.Reader, c net.Conn, n int) {
				readRequest(r)
				if n == 1 {
					_, _ = io.WriteString(c, tt.raw)
					_ = c.(*net.TCPConn).CloseWrite()
					_, _ = io.Copy(io.Discard, r)
				} else {
					_, _ = io.WriteString(c, okResponse)
				}
			})
			c := newClient(t, s.address)
			got := do(t, c, get("/"))
			got.checkPhase(t, tt.want)
			if got.err == nil || strings.Contains(strings.ToLower(got.err.Error()), "evil") {
				t.Errorf("error = %v, want one without anything of the response", got.err)
			}
			do(t, c, get("/")).check(t, 200, "ok")
			if n := s.connections(); n != 2 {
				t.Errorf("connections = %d, want that the second request has a new one", n)
			}
		})
	}
}

// The limit may cut a line where the rest looks malformed.
func TestHeadLimit(t *testing.T) {
	line := strings.Repeat("X", 30) + ": of 41 \r\n"
	s := serveRaw(t, respond("HTTP/1.1 200 OK\r\n"+strings.Repeat(line, maxHeadBytes/len(line)+1)+"\r\n"))
	if got := do(t, newClient(t, s.address), get("/")); !errors.Is(got.err, errHeadTooLarge) {
		t.Errorf("error = %v, want errHeadTooLarge", got.err)
	}
}

func TestInterimResponses(t *testing.T) {
	s := serveRaw(t, respond("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"+okResponse, okResponse))
	c := newClient(t, s.address)
	var seen []string
	r := get("/")
	r.Interim = func(status int, h http.Header) { seen = append(seen, fmt.Sprint(status, h)) }
	do(t, c, r).check(t, 200, "ok")
	if diff := cmp.Diff([]string{"103 map[Link:[</a>]]", "102 map[]"}, seen); diff != "" {
		t.Errorf("interim responses (-want +got):\n%s", diff)
	}
	do(t, c, get("/")).check(t, 200, "ok")
	if n := s.connections(); n != 1 {
		t.Errorf("connections = %d, want 1", n)
	}
}

func TestExpectContinue(t *testing.T) {
	const early = "HTTP/1.1 103 Early Hints\r\n\r\n"
	tests := []struct {
		name, before string // sent before the body is read
		bodyRead     bool
		after        string
		status       int
		reused       bool
	}{
		{"100", "HTTP/1.1 100 Continue\r\n\r\n", true, okResponse, 200, true},
		{"103 and 100", early + "HTTP/1.1 100 Continue\r\n\r\n", true, early + okResponse, 200, true},
		{"nothing", "", true, okResponse, 200, true},
		{"103 and nothing", early, true, okResponse, 200, true},
		{"417", "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n", false, "", 417, false},
		{"200 at once", okResponse, false, "", 200, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // two of them wait for a second
			s := serveRaw(t, func(r *bufio.Reader, c net.Conn, n int) {
				if n > 1 {
					respondForever(r, c, n)
					return
				}
				readHead(r)
				_, _ = io.WriteString(c, tt.before)
				if tt.bodyRead {
					_, _ = io.CopyN(io.Discard, r, 2)
					_, _ = io.WriteString(c, tt.after)
				}
				respondForever(r, c, n)
			})
			c := newClient(t, s.address)
			r := post("hi")
			r.Header = http.Header{"Expect": {"100-Continue"}}
			if got := do(t, c, r); got.status != tt.status || got.err != nil {
				t.Errorf("response = %d, %v, want %d", got.status, got.err, tt.status)
			}
			if tt.reused {
				waitIdle(t, c)
			}
			do(t, c, get("/")).check(t, 200, "ok")
			if reused := s.connections() == 1; reused != tt.reused {
				t.Errorf("connection reused = %v, want %v", reused, tt.reused)
			}
			if sent := strings.Contains(s.received(), "hi"); sent != tt.bodyRead {
				t.Errorf("body sent = %v, want %v", sent, tt.bodyRead)
			}
		})
	}
}

func readHead(r *bufio.Reader) {
	for {
		line, err := r.ReadString('\n')
		if err != nil || line == "\r\n" {
			return
		}
	}
}

// A response arrives while the request body is being sent. The caller gets it, the
// connection is closed, and the sending goroutine ends when the body's Read returns.
func TestEarlyResponse(t *testing.T) {
	closed := make(chan error, 1)
	s := serveRaw(t, func(r *bufio.Reader, c net.Conn, n int) {
		if n > 1 {
			respondForever(r, c, n)
			return
		}
		readHead(r)
		_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
		_, err := io.Copy(io.Discard, r)
		closed <- err
	})
	c := newClient(t, s.address)
	reader, writer := io.Pipe()
	do(t, c, &Request{Method: "POST", Target: "/", Body: reader, ContentLength: 1000}).check(t, 413, "big")
	<-closed
	_, _ = io.WriteString(writer, "too late") // is read and dropped
	_ = writer.Close()
	do(t, c, post("hi")).check(t, 200, "ok")
	if n := s.connections(); n != 2 {
		t.Errorf("connections = %d, want 2: the first cannot be used again", n)
	}
}

// Request and response body are streamed at the same time.
func TestFullDuplex(t *testing.T) {
	s := serveRaw(t, func(r *bufio.Reader, c net.Conn, _ int) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		buf := make([]byte, 1)
		for {
			if _, err := io.ReadFull(req.Body, buf); err != nil {
				break
			}
			_, _ = fmt.Fprintf(c, "1\r\n%s\r\n", buf)
		}
		_, _ = io.WriteString(c, "0\r\n\r\n")
		respondForever(r, c, 1)
	})
	c := newClient(t, s.address)
	reader, writer := io.Pipe()
	res, err := c.Do(t.Context(), &Request{Method: "POST", Target: "/", Body: reader, ContentLength: -1})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []string{"a", "b", "c"} {
		_, _ = io.WriteString(writer, b)
		got := make([]byte, 1)
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != b {
			t.Fatalf("read %q, %v, want %q", got, err, b)
		}
	}
	_ = writer.Close()
	if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
		t.Errorf("rest = %q, %v, want none", rest, err)
	}
	waitIdle(t, c)
	do(t, c, get("/")).check(t, 200, "ok")
	if n := s.connections(); n != 1 {
		t.Errorf("connections = %d, want 1: both messages were complete", n)
	}
}

// The server must not take a truncated body for a complete one.
func TestRequestBodyFails(t *testing.T) {
	broken := errors.New("broken")
	tests := []struct {
		name   string
		body   io.Reader
		length int64
	}{
		{"error", io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken)), 8},
		{"chunked, error", io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken)), -1},
		{"shorter than its length", strings.NewReader("half"), 8},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			whole := make(chan bool, 1)
			s := serveRaw(t, func(r *bufio.Reader, _ net.Conn, _ int) { whole <- readRequest(r) })
			got := do(t, newClient(t, s.address), &Request{Method: "POST", Target: "/", Body: tt.body, ContentLength: tt.length})
			got.checkPhase(t, NoResponse)
			if !errors.Is(got.err, ErrRequestBody) {
				t.Errorf("error = %v, want ErrRequestBody", got.err)
			}
			if <-whole {
				t.Error("the server got half a body as a complete one")
			}
		})
	}
}

func TestInvalidTrailerNameIsNotSent(t *testing.T) {
	s := serveRaw(t, respondForever)
	r := &Request{Method: "POST", Target: "/", Body: strings.NewReader("hi"), ContentLength: -1, Trailer: http.Header{"A b": nil}}
	got := do(t, newClient(t, s.address), r)
	got.checkPhase(t, NotSent)
	if s.received() != "" {
		t.Errorf("the server got %q, want nothing", s.received())
	}
}

func TestInvalidTrailerIsNotSent(t *testing.T) {
	whole := make(chan bool, 1)
	s := serveRaw(t, func(r *bufio.Reader, _ net.Conn, _ int) { whole <- readRequest(r) })
	trailer := http.Header{"X": nil}
	end := readerFunc(func([]byte) (int, error) {
		trailer["X"] = []string{"a\r\nY: b"}
		return 0, io.EOF
	})
	r := &Request{Method: "POST", Target: "/", Body: io.MultiReader(strings.NewReader("hi"), end), ContentLength: -1, Trailer: trailer}
	if got := do(t, newClient(t, s.address), r); !errors.Is(got.err, ErrRequestBody) {
		t.Errorf("error = %v, want ErrRequestBody", got.err)
	}
	if <-whole || strings.Contains(s.received(), "Y: b") {
		t.Errorf("the server got %q, want a truncated body", s.received())
	}
}

func TestDiscard(t *testing.T) {
	tests := []struct {
		name   string
		body   string
		stalls bool
		reused bool
	}{
		{"small", strings.Repeat("x", 10_000), false, true},
		{"large", strings.Repeat("x", 1<<20), false, false},
		{"slow", "x", true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serveRaw(t, func(r *bufio.Reader, c net.Conn, n int) {
				if n == 1 {
					readRequest(r)
					length := len(tt.body)
					if tt.stalls {
						length++
					}
					_, _ = fmt.Fprintf(c, "HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n%s", length, tt.body)
				}
				respondForever(r, c, n)
			})
			c := newClient(t, s.address)
			res, err := c.Do(t.Context(), get("/"))
			if err != nil {
				t.Fatal(err)
			}
			Discard(res.Body)
			do(t, c, post("hi")).check(t, 200, "ok")
			if reused := s.connections() == 1; reused != tt.reused {
				t.Errorf("connection reused = %v, want %v", reused, tt.reused)
			}
		})
	}
}

func TestClosedBody(t *testing.T) {
	s := serveRaw(t, respond("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"))
	res, err := newClient(t, s.address).Do(t.Context(), get("/"))
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if _, err := res.Body.Read(make([]byte, 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("Read = %v, want ErrClosed", err)
	}
}

func TestReady(t *testing.T) {
	for _, secure := range []bool{false, true} {
		l, adjust := listen(t), func(*Config) {}
		if secure {
			l, adjust = listenTLS(t)
		}
		more := make(chan struct{})
		s := serveRawOn(t, l, func(r *bufio.Reader, c net.Conn, _ int) {
			readRequest(r)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n"+strings.Repeat("x", 15_000))
			<-more
			_, _ = io.WriteString(c, strings.Repeat("x", 4_999))
			<-more
		})
		res, err := newClient(t, s.address, adjust).Do(t.Context(), get("/"))
		if err != nil {
			t.Fatal(err)
		}
		body := res.Body.(interface{ Ready() bool })
		for _, n := range []int{15_000, 4_999} {
			waitFor(t, body.Ready)
			if _, err := io.ReadFull(res.Body, make([]byte, n)); err != nil {
				t.Fatal(err)
			}
			if body.Ready() {
				t.Errorf("Ready = true after what was sent, want false")
			}
			more <- struct{}{}
		}
		waitFor(t, body.Ready) // for the end of the connection
		if _, err := res.Body.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Read = %v, want io.ErrUnexpectedEOF", err)
		}
		if !body.Ready() {
			t.Error("Ready = false after an error, want true")
		}
	}
}

// What is between two chunks is not data: Read would wait for that.
func TestReadyBetweenChunks(t *testing.T) {
	for _, between := range []string{"\r", "\r\n", "\r\n1", "\r\n2;a=b", "\r\n2\r", "\r\n2\r\n"} {
		more := make(chan struct{})
		s := serveRaw(t, func(r *bufio.Reader, c net.Conn, _ int) {
			readRequest(r)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello")
			<-more
			_, _ = io.WriteString(c, between)
			<-more
		})
		res, err := newClient(t, s.address).Do(t.Context(), get("/"))
		if err != nil {
			t.Fatal(err)
		}
		b := res.Body.(*responseBody)
		if _, err := io.ReadFull(b, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		more <- struct{}{}
		waitFor(t, b.transfer.conn.ready)
		if b.Ready() {
			t.Errorf("Ready = true after %q, want false", between)
		}
		_ = b.Close()
		more <- struct{}{}
	}
}

func TestReadyWithinChunks(t *testing.T) {
	for _, rest := range []string{"\r\n64\r\n" + strings.Repeat("x", 100), "\r\n0\r\n\r\n"} {
		s := serveRaw(t, respond("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello"+rest))
		res, err := newClient(t, s.address).Do(t.Context(), get("/"))
		if err != nil {
			t.Fatal(err)
		}
		b := res.Body.(*responseBody)
		waitFor(t, b.Ready)
		if _, err := io.ReadFull(b, make([]byte, 5)); err != nil || !b.Ready() {
			t.Errorf("Ready = false before %q (%v), want true", rest, err)
		}
		_ = b.Close()
	}
}

// Read returns the error that Ready has seen, and not io.EOF.
func TestReadyKeepsErrors(t *testing.T) {
	s := serveRaw(t, func(r *bufio.Reader, c net.Conn, _ int) {
		readRequest(r)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nhalf")
		_, _ = r.ReadByte() // until the client has read it
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	res, err := newClient(t, s.address).Do(t.Context(), get("/"))
	if err != nil {
		t.Fatal(err)
	}
	b := res.Body.(*responseBody)
	if _, err := io.ReadFull(b, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(b.transfer.conn, "x")
	waitFor(t, b.Ready)
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read = %v, want ECONNRESET", err)
	}
}
