package proxy

import (
	"crypto/tls"
	"log"
	"net/http"
	"time"
)

// Limits of the proxy listener. There is none on the time that a body or an
// answer takes: both are streams.
const (
	readHeaderTimeout = 15 * time.Second
	idleTimeout       = 3 * time.Minute
	maxHeaderBytes    = 256 << 10
)

// NewServer returns the server of a proxy listener, with limits that slow
// clients cannot exceed: HTTP/1.1 in the clear if t is nil, else HTTP/1.1 and 2
// over TLS, by ServeTLS without files. What it serves should come from
// [TrackConnections]. errorLog gets what clients do wrong below HTTP; nil
// discards it.
func NewServer(h http.Handler, t *tls.Config, errorLog *log.Logger) *http.Server {
	if errorLog == nil {
		errorLog = log.New(discardWriter{}, "", 0)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(t != nil)
	return &http.Server{
		Handler:           h,
		TLSConfig:         t,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          errorLog,
		Protocols:         &protocols,
		ConnContext:       connContext,
		ConnState:         connState,
		// OPTIONS * is for the handler to refuse.
		DisableGeneralOptionsHandler: true,
	}
}

type discardWriter struct{}

func (discardWriter) Write(p []byte) (int, error) { return len(p), nil }
