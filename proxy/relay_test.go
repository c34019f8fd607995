package proxy

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// bufferingWriter is the response writer of a client that has disconnected. What is
// written stays in the buffer, and only flushing fails.
type bufferingWriter struct{ *httptest.ResponseRecorder }

var errBrokenPipe = errors.New("broken pipe")

func (w bufferingWriter) FlushError() error { return errBrokenPipe }

// readyBody is a response body of which everything has arrived.
type readyBody struct {
	io.Reader
	err error // after the data
}

func (b *readyBody) Ready() bool { return true }

func (b *readyBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = b.err
	}
	return n, err
}

// The access log shows which side broke off. If reading and writing both fail, it is
// the client, so that operators do not look for a fault of the API.
func TestFailedWriteIsTheClients(t *testing.T) {
	broken := errors.New("connection reset")
	tests := []struct {
		name string
		w    http.ResponseWriter
		code code
		err  error
	}{
		{"the client is there", httptest.NewRecorder(), codeUpstreamProtocolError, broken},
		{"the client has disconnected", bufferingWriter{httptest.NewRecorder()}, codeClientClosed, errBrokenPipe},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			config := testConfig(newUpstream(t, "http://api.test"))
			config.Credentials = newFakeCredentials("acme")
			p, err := New(config)
			if err != nil {
				t.Fatal(err)
			}
			x := &exchange{proxy: p, w: tt.w, in: httptest.NewRequest("GET", "/", nil), ctx: t.Context()}
			c, err := x.copyBody(&readyBody{Reader: strings.NewReader("half"), err: broken})
			if c != tt.code || !errors.Is(err, tt.err) {
				t.Errorf("copyBody = %q, %v, want %q, %v", c, err, tt.code, tt.err)
			}
		})
	}
}
