package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipeDialer dials in-memory connections, so that time can be simulated. handle
// serves the other ends.
func pipeDialer(t *testing.T, handle func(net.Conn)) func(*Config) {
	t.Cleanup(func() { time.Sleep(48 * time.Hour) }) // by then, everything has ended
	return func(c *Config) {
		c.Dial = func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				defer func() { _ = server.Close() }()
				handle(server)
			}()
			return client, nil
		}
	}
}

// slowReader returns a byte each minute.
type slowReader struct{ n int }

func (r *slowReader) Read(p []byte) (int, error) {
	if r.n == 0 {
		return 0, io.EOF
	}
	time.Sleep(time.Minute)
	r.n--
	p[0] = 'x'
	return 1, nil
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestResponseTimeout(t *testing.T) {
	tests := []struct {
		name    string
		request func() *Request
		handle  func(net.Conn)
		want    time.Duration // 0: there is a response
	}{
		{"no response", func() *Request { return get("/") }, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, time.Minute},
		{"part of a head", func() *Request { return get("/") }, func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			_, _ = io.Copy(io.Discard, c)
		}, time.Minute},
		{"nothing is read", func() *Request { return get("/") }, func(net.Conn) { time.Sleep(time.Hour) }, time.Minute},
		{"no response to a body", func() *Request { return post("hi") }, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, time.Minute},
		{"the body is not read", func() *Request { return post("hi") }, func(c net.Conn) {
			readHead(bufio.NewReaderSize(c, 16))
			time.Sleep(time.Hour)
		}, time.Minute},
		{"the body is slow", func() *Request {
			return &Request{Method: "POST", Target: "/", Body: &slowReader{10}, ContentLength: -1}
		}, func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			time.Sleep(59 * time.Second)
			_, _ = io.WriteString(c, okResponse)
		}, 0},
		{"the body is slow, then no response", func() *Request {
			return &Request{Method: "POST", Target: "/", Body: &slowReader{10}, ContentLength: 10}
		}, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, 11 * time.Minute},
		{"a response body is slow", func() *Request { return get("/") }, func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
			time.Sleep(time.Hour)
			_, _ = io.WriteString(c, "k")
		}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClient(t, "api.test", pipeDialer(t, tt.handle), func(c *Config) { c.ResponseTimeout = time.Minute })
				began := time.Now()
				got := do(t, c, tt.request())
				if tt.want == 0 {
					got.check(t, 200, "ok")
					return
				}
				if took := time.Since(began); !errors.Is(got.err, ErrTimeout) || took != tt.want {
					t.Errorf("error = %v after %v, want ErrTimeout after %v", got.err, took, tt.want)
				}
			})
		})
	}
}

func TestNoResponseTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, "api.test", pipeDialer(t, func(c net.Conn) {
			r := bufio.NewReader(c)
			readRequest(r)
			time.Sleep(24 * time.Hour)
			_, _ = io.WriteString(c, okResponse)
		}), func(c *Config) { c.ResponseTimeout = 0 })
		do(t, c, post("hi")).check(t, 200, "ok")
	})
}

func TestBodyTimeout(t *testing.T) {
	for stall, ok := range map[time.Duration]bool{59 * time.Second: true, 61 * time.Second: false} {
		synctest.Test(t, func(t *testing.T) {
			c := newClient(t, "api.test", pipeDialer(t, func(c net.Conn) {
				r := bufio.NewReader(c)
				for readRequest(r) {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
					for _, piece := range strings.SplitAfter("h e llo", " ")[:2] {
						_, _ = io.WriteString(c, piece)
						time.Sleep(stall)
					}
					_, _ = io.WriteString(c, "l")
				}
			}), func(c *Config) { c.BodyTimeout = time.Minute })
			got := do(t, c, get("/"))
			if ok {
				got.check(t, 200, "h e l")
				do(t, c, get("/")).check(t, 200, "h e l") // the connection has no deadline
				return
			}
			if got.checkPhase(t, BrokenResponse); !errors.Is(got.err, ErrTimeout) {
				t.Errorf("error = %v, want ErrTimeout", got.err)
			}
		})
	}
}

// The end of the context ends a request in every phase.
func TestContextEnds(t *testing.T) {
	cause := errors.New("the caller left")
	hang := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	tests := []struct {
		name    string
		request *Request
		handle  func(net.Conn)
		want    Phase
	}{
		{"waiting for a response", get("/"), hang, NoResponse},
		{"writing", get("/"), func(net.Conn) { time.Sleep(time.Hour) }, NotSent},
		{"sending a body", &Request{Method: "POST", Target: "/", Body: &slowReader{1000}, ContentLength: -1}, hang, NoResponse},
		{"reading a body", get("/"), func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
			hang(c)
		}, BrokenResponse},
		{"waiting for 100", &Request{Method: "POST", Target: "/", Body: strings.NewReader("hi"), ContentLength: 2, Header: http.Header{"Expect": {"100-continue"}}}, hang, NoResponse},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan struct{})
				c := newClient(t, "api.test", pipeDialer(t, func(c net.Conn) {
					tt.handle(c)
					close(ended)
				}), func(c *Config) { c.ResponseTimeout = 0 })
				ctx, cancel := context.WithCancelCause(t.Context())
				wait := 30 * time.Second
				if tt.name == "waiting for 100" {
					wait = 500 * time.Millisecond
				}
				time.AfterFunc(wait, func() { cancel(cause) })
				got := doContext(ctx, c, tt.request)
				if got.checkPhase(t, tt.want); !errors.Is(got.err, cause) {
					t.Errorf("error = %v, want the cause", got.err)
				}
				<-ended
			})
		})
	}
}

// A deadline of the context limits the whole exchange.
// A server may respond early, and read nothing more while it leaves the connection
// open. Sending the rest of the body must end nevertheless.
func TestServerStopsReadingAfterResponse(t *testing.T) {
	endless := readerFunc(func(p []byte) (int, error) { return len(p), nil })
	for _, length := range []int64{-1, 1 << 40} {
		synctest.Test(t, func(t *testing.T) {
			closed := make(chan error, 1)
			c := newClient(t, "api.test", pipeDialer(t, func(conn net.Conn) {
				readHead(bufio.NewReader(conn))
				_, _ = io.WriteString(conn, okResponse)
				time.Sleep(time.Hour)
				_ = conn.SetDeadline(time.Now().Add(time.Second))
				_, err := io.WriteString(conn, "x")
				closed <- err
			}))
			do(t, c, &Request{Method: "POST", Target: "/", Body: endless, ContentLength: length}).check(t, 200, "ok")
			if err := <-closed; !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("the server's connection after an hour: %v, want io.ErrClosedPipe", err)
			}
		})
	}
}

func TestTotalTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, "api.test", pipeDialer(t, func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			for {
				if _, err := io.WriteString(c, "x"); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if got := doContext(ctx, c, get("/")); !errors.Is(got.err, context.DeadlineExceeded) {
			t.Errorf("error = %v, want the context's", got.err)
		}
	})
}

// The end of a context after its response does not close the connection, which
// another request may be using.
func TestContextEndsAfterResponse(t *testing.T) {
	s := serveRaw(t, respondForever)
	c := newClient(t, s.address)
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		got := doContext(ctx, c, get("/"))
		cancel()
		got.check(t, 200, "ok")
	}
	if n := s.connections(); n != 1 {
		t.Errorf("connections = %d, want 1", n)
	}
}

func TestConnectTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, "api.test", pipeDialer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }), func(c *Config) { c.URL.Scheme = "https" })
		began := time.Now()
		got := do(t, c, get("/"))
		got.checkPhase(t, NotSent)
		if took := time.Since(began); took != connectTimeout || !errors.Is(got.err, context.DeadlineExceeded) {
			t.Errorf("error = %v after %v, want one after %v", got.err, took, connectTimeout)
		}
	})
}

func TestPool(t *testing.T) {
	dials := 0
	count := func(c *Config) {
		dial := c.Dial
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			dials++
			return dial(ctx, network, address)
		}
	}
	serve := func(c net.Conn) { respondForever(bufio.NewReader(c), c, 1) }
	synctest.Test(t, func(t *testing.T) {
		dials = 0
		c := newClient(t, "api.test", pipeDialer(t, serve), count)
		for range 10 * 60 { // ten minutes of steady traffic
			do(t, c, get("/")).check(t, 200, "ok")
			time.Sleep(time.Second)
		}
		if dials < 10 || dials > 15 {
			t.Errorf("dials in ten minutes = %d, want a new connection about once a minute", dials)
		}
		time.Sleep(idleConnTimeout)
		synctest.Wait()
		if n := len(c.pool.conns); n != 0 {
			t.Errorf("idle connections after %v = %d, want none", idleConnTimeout, n)
		}
		c.Close()
		do(t, c, get("/")).check(t, 200, "ok") // is possible, but the connection is not kept
		if n := len(c.pool.conns); n != 0 {
			t.Errorf("idle connections after Close = %d, want none", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, "api.test", pipeDialer(t, serve), count)
		var responses []*http.Response
		for range maxIdleConns + 10 {
			res, err := c.Do(t.Context(), get("/"))
			if err != nil {
				t.Fatal(err)
			}
			responses = append(responses, res)
		}
		for _, res := range responses {
			_, _ = io.Copy(io.Discard, res.Body)
		}
		if n := len(c.pool.conns); n != maxIdleConns {
			t.Errorf("idle connections = %d, want %d", n, maxIdleConns)
		}
	})
}

func TestNoGoroutineIsLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	s := serveRaw(t, func(r *bufio.Reader, c net.Conn, n int) {
		if n%2 == 0 {
			respondForever(r, c, n)
		} else {
			readHead(r) // and close
		}
	})
	c := newClient(t, s.address)
	for range 50 {
		do(t, c, post(strings.Repeat("x", 100_000)))
		do(t, c, get("/"))
	}
	c.Close()
	for range 100 {
		if runtime.NumGoroutine() <= before+1 { // the server's
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	buf := make([]byte, 1<<16)
	t.Errorf("goroutines = %d, were %d:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
}
