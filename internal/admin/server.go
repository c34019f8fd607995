package admin

import (
	"crypto/tls"
	"log"
	"net/http"
	"time"
)

// NewServer returns the server of an admin or health listener, with limits that
// slow readers and writers cannot exceed: HTTP/1.1 in the clear if t is nil, else
// HTTP/1.1 and 2 over TLS, by ServeTLS without files. errorLog gets what goes
// wrong below HTTP.
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
