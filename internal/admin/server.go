package admin

import (
	"log"
	"net/http"
	"time"
)

// NewServer returns the server of an admin or health listener, with limits that
// slow readers and writers cannot exceed. errorLog gets what goes wrong below
// HTTP.
func NewServer(h http.Handler, errorLog *log.Logger) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       3 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          errorLog,
		Protocols:         &protocols,
	}
}
