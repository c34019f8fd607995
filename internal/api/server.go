package api

import (
	"crypto/tls"
	"log"
	"net/http"
	"time"
)

// NewServer returns the server of an admin or health listener, with timeouts and
// limits for slow clients. It serves HTTP/1.1 without TLS if t is nil, and otherwise
// HTTP/1.1 and HTTP/2 by ServeTLS without files. Errors below HTTP go to errorLog.
func NewServer(h http.Handler, t *tls.Config, errorLog *log.Logger) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(t != nil)
	return &http.Server{
		Handler:           h,
		TLSConfig:         t,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       3 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          errorLog,
		Protocols:         &protocols,
	}
}
