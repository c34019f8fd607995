package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// target is the destination and form of requests.
type target struct {
	address string
	tls     *tls.Config // nil: without TLS
	request []byte      // complete
}

// loadConn sends requests on one connection.
type loadConn struct {
	conn   net.Conn
	in     *bufio.Reader
	target target
}

func (t target) dial(ctx context.Context) (*loadConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", t.address)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	if t.tls != nil {
		conn = tls.Client(conn, t.tls)
	}
	return &loadConn{conn: conn, in: bufio.NewReader(conn), target: t}, nil
}

func (c *loadConn) close() { _ = c.conn.Close() }

var errBadResponse = errors.New("a response is not 200 with a length")

// roundTrip sends the request and reads its response.
func (c *loadConn) roundTrip() error {
	if _, err := c.conn.Write(c.target.request); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	length := int64(-1)
	for first := true; ; first = false {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("%w: %q", errBadResponse, line)
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		if bytes.EqualFold(name, []byte("Content-Length")) {
			length, err = strconv.ParseInt(string(value), 10, 64)
			if err != nil {
				return errBadResponse
			}
		}
	}
	if length < 0 {
		return errBadResponse
	}
	if _, err := io.CopyN(io.Discard, c.in, length); err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	return nil
}

// sendAll sends n requests from several connections, each as fast as it can.
func sendAll(ctx context.Context, t target, n, concurrency int) (time.Duration, error) {
	began := time.Now()
	err := runConcurrently(concurrency, func(int) error {
		c, err := t.dial(ctx)
		if err != nil {
			return err
		}
		defer c.close()
		for range n / concurrency {
			if err := c.roundTrip(); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
	return time.Since(began), err
}

// sendAtRate sends requests at a fixed rate, and returns how long each took since it was
// due, so that a slow response also counts against those that wait behind it.
func sendAtRate(ctx context.Context, t target, perSecond float64, how time.Duration, concurrency int) ([]time.Duration, error) {
	gap := time.Duration(float64(time.Second) * float64(concurrency) / perSecond)
	began := time.Now().Add(10 * time.Millisecond)
	took := make([][]time.Duration, concurrency)
	err := runConcurrently(concurrency, func(i int) error {
		c, err := t.dial(ctx)
		if err != nil {
			return err
		}
		defer c.close()
		offset := gap * time.Duration(i) / time.Duration(concurrency)
		for due := began.Add(offset); due.Before(began.Add(how)) && ctx.Err() == nil; due = due.Add(gap) {
			waitFor(due)
			if err := c.roundTrip(); err != nil {
				return err
			}
			took[i] = append(took[i], time.Since(due))
		}
		return ctx.Err()
	})
	return slices.Concat(took...), err
}

// waitFor waits for a moment in the near future.
func waitFor(due time.Time) {
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	<-timer.C
}

// sendReconnecting counts the requests of clients that connect for each of them.
func sendReconnecting(ctx context.Context, t target, how time.Duration, concurrency int) (perSecond float64, err error) {
	var (
		mu    sync.Mutex // guards total
		total int
	)
	began := time.Now()
	err = runConcurrently(concurrency, func(int) error {
		n := 0
		for time.Since(began) < how && ctx.Err() == nil {
			c, err := t.dial(ctx)
			if err != nil {
				return err
			}
			err = c.roundTrip()
			c.close()
			if err != nil {
				return err
			}
			n++
		}
		mu.Lock()
		defer mu.Unlock()
		total += n
		return ctx.Err()
	})
	return float64(total) / time.Since(began).Seconds(), err
}

// runConcurrently runs f n times concurrently and joins the errors.
func runConcurrently(n int, f func(i int) error) error {
	errs := make([]error, n)
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() { errs[i] = f(i) })
	}
	running.Wait()
	return errors.Join(errs...)
}

// quantile returns the value that a share of the sorted values does not exceed.
func quantile(sorted []time.Duration, share float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}
