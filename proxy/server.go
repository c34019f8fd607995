package proxy

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"time"
)

// Limits of the proxy listener. Bodies have none, since they are streams.
const (
	readHeaderTimeout = 15 * time.Second
	idleTimeout       = 3 * time.Minute
	maxHeaderBytes    = 256 << 10
)

// NewServer returns the server of a proxy listener, with limits for slow
// clients. If t is nil it serves HTTP/1.1 in plaintext; otherwise HTTP/1.1 and
// HTTP/2 over TLS, by ServeTLS without files. Its listener should come from
// [TrackConnections]. errorLog gets the errors of clients below HTTP; nil
// discards them.
func NewServer(h http.Handler, t *tls.Config, errorLog *log.Logger) *http.Server {
	if errorLog == nil {
		errorLog = log.New(io.Discard, "", 0)
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
		// OPTIONS * is rejected by the handler.
		DisableGeneralOptionsHandler: true,
	}
}
