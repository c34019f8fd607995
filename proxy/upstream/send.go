package upstream

import (
	"context"
	"errors"
	"math"
	"net/http"
	"os"
	"time"
)

// transfer is one send of a request on a connection, with its response. Its methods
// run on the goroutine that calls Do and reads the response body.
type transfer struct {
	client    *Client
	conn      *conn
	request   *Request
	ctx       context.Context
	stop      func() bool // stops watching ctx; false if ctx has ended already
	body      *bodySender // nil as long as no body is sent
	started   bool        // a byte of a response was read
	interim   int         // 1xx responses read
	keepAlive bool        // the response permits reuse of the connection
}

// send sends a request on a connection and returns the head of its response.
func (c *Client) send(ctx context.Context, cn *conn, r *Request) (*http.Response, error) {
	t := &transfer{client: c, conn: cn, request: r, ctx: ctx, keepAlive: true}
	t.stop = context.AfterFunc(ctx, cn.abort)
	cn.raw.written, cn.headLimit = 0, maxHeadBytes
	t.setDeadline()
	cn.names = r.writeHead(cn.writer, c.url.Host, cn.names)
	if err := cn.writer.Flush(); err != nil {
		if cn.raw.written == 0 {
			return nil, t.fail(NotSent, err)
		}
		return nil, t.fail(NoResponse, err)
	}
	if r.Body != nil {
		if r.expectsContinue() {
			if res, err := t.awaitContinue(); res != nil || err != nil {
				return res, err
			}
		}
		t.body = startBody(c, cn, r)
	}
	return t.receive()
}

// setDeadline starts the response timeout.
func (t *transfer) setDeadline() {
	if limit := t.client.responseTimeout; limit > 0 {
		_ = t.conn.SetDeadline(time.Now().Add(limit)) // if this fails, so does the next operation
	}
}

// awaitContinue waits until the server requests the body. It returns nil if the
// body is to be sent, and the final response if the server has sent that instead.
func (t *transfer) awaitContinue() (*http.Response, error) {
	wait := time.Now().Add(continueTimeout)
	for {
		_ = t.conn.SetReadDeadline(wait)
		_, err := t.conn.reader.Peek(1)
		_ = t.conn.SetReadDeadline(time.Time{})
		t.setDeadline()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil //nolint:nilnil // no response and no error
		}
		if err != nil {
			return nil, t.failReading(err)
		}
		res, err := t.nextHead()
		if err != nil || res.StatusCode == http.StatusContinue {
			return nil, err
		}
		if res.StatusCode >= http.StatusOK {
			t.keepAlive = false // the server may still expect a body
			return t.deliver(res), nil
		}
	}
}

// receive returns the final response.
func (t *transfer) receive() (*http.Response, error) {
	for {
		res, err := t.nextHead()
		if err != nil {
			return nil, err
		}
		if res.StatusCode >= http.StatusOK {
			return t.deliver(res), nil
		}
	}
}

// nextHead reads the head of an interim or final response, and passes interim ones
// on.
func (t *transfer) nextHead() (*http.Response, error) {
	res, err := t.readHead()
	if err != nil {
		return nil, t.failReading(err)
	}
	status := res.StatusCode
	switch {
	case status < http.StatusContinue || status == http.StatusSwitchingProtocols:
		return nil, t.failReading(errBadStatus)
	case status >= http.StatusOK:
		return res, nil
	}
	if t.interim++; t.interim > maxInterimResponses {
		return nil, t.failReading(errTooManyInterim)
	}
	if status != http.StatusContinue && t.request.Interim != nil {
		t.request.Interim(status, res.Header)
	}
	return res, nil
}

// readHead reads a response head. If it is too large to be checked first, the
// connection is not reused, so that nothing can be taken for the next response.
func (t *transfer) readHead() (*http.Response, error) {
	if _, err := t.conn.reader.Peek(1); err != nil {
		return nil, err
	}
	t.started = true
	whole, err := t.conn.peekHead()
	if err != nil {
		return nil, err
	}
	t.keepAlive = t.keepAlive && whole
	t.conn.request.Method = t.request.Method
	res, err := http.ReadResponse(t.conn.reader, &t.conn.request)
	if err != nil && t.conn.headLimit <= 0 {
		err = errHeadTooLarge // and not that a line is malformed because it is cut off
	}
	if err != nil {
		return nil, err
	}
	res.Request = nil // belongs to the connection
	return res, nil
}

// deliver prepares the final response for the caller.
func (t *transfer) deliver(res *http.Response) *http.Response {
	if t.body != nil {
		t.body.stopTimeout()
	} else if t.client.responseTimeout > 0 {
		_ = t.conn.SetDeadline(time.Time{})
	}
	t.conn.headLimit = math.MaxInt64
	t.keepAlive = t.keepAlive && !res.Close
	if res.Body == http.NoBody {
		t.finish()
	} else {
		res.Body = &responseBody{transfer: t, source: res.Body, chunked: len(res.TransferEncoding) > 0}
	}
	return res
}

// finish is called at the end of the response. The connection is reused if the
// request has been sent to its end as well.
func (t *transfer) finish() {
	reusable := t.stop() && t.keepAlive && t.conn.reader.Buffered() == 0
	if t.body != nil {
		t.body.responseEnded(reusable)
	} else {
		t.client.release(t.conn, reusable)
	}
}

// release returns an unused connection to the pool or closes it.
func (c *Client) release(cn *conn, reusable bool) {
	if reusable {
		c.pool.put(cn)
	} else {
		cn.close()
	}
}

// failReading ends the transfer after a read error.
func (t *transfer) failReading(err error) error {
	if !t.started {
		return t.fail(NoResponse, err)
	}
	return t.fail(BrokenResponse, noEOF(err))
}

// fail closes the connection and returns the error for the caller.
func (t *transfer) fail(p Phase, err error) error {
	t.stop()
	t.conn.abort()
	if t.body != nil {
		if bodyErr := t.body.readError(); bodyErr != nil {
			err = bodyErr // which is why the connection was closed
		}
	}
	return &Error{p, causeOf(t.ctx, err)}
}
