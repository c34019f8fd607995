package setup

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/durable"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
)

// TLSFiles is the TLS configuration of a listener whose certificates come from
// files, which are read again when they change. Its methods may be called by
// several goroutines at once.
type TLSFiles struct {
	section string // of the configuration, such as proxy.TLS
	paths   config.TLS
	log     *zap.Logger
	now     func() time.Time

	mu      sync.Mutex      // guards the fields below
	checked time.Time       // when the stamps were last compared
	stamps  []durable.Stamp // of the files when they were last read
	current *tls.Config     // nil while all clients are rejected
}

// ListenerTLS is the TLS of the listeners; nil for those with plain HTTP.
type ListenerTLS struct{ Proxy, Admin, Connect *TLSFiles }

// openListenerTLS reads the files for the first time. Its error is a *config.Error
// with every file that cannot be used.
func openListenerTLS(cfg *config.Config, log *zap.Logger) (ListenerTLS, error) {
	var (
		files ListenerTLS
		wrong config.Error
	)
	for _, of := range []struct {
		section string
		paths   config.TLS
		into    **TLSFiles
	}{
		{"proxy.tls", cfg.Proxy.TLS, &files.Proxy},
		{"admin.tls", cfg.Admin.TLS, &files.Admin},
		{"connect.tls", cfg.Connect.TLS, &files.Connect},
	} {
		opened, err := openTLS(cfg, of.section, of.paths, log)
		if err := wrong.Add(err); err != nil {
			return ListenerTLS{}, err
		}
		*of.into = opened
	}
	return files, wrong.AsError()
}

// openTLS reads the files of one section of the configuration for the first time.
// It returns nil for plain HTTP, and a *config.Error for files that cannot be used.
func openTLS(cfg *config.Config, section string, paths config.TLS, log *zap.Logger) (*TLSFiles, error) {
	if paths.Off() {
		return nil, nil
	}
	t := &TLSFiles{section: section, paths: paths, log: log, now: time.Now, stamps: stampsOf(paths)}
	current, certErr, caErr := readTLS(paths)
	var wrong config.Error
	if certErr != nil {
		wrong.Mistakes = append(wrong.Mistakes, cfg.MistakeAt(section+".cert_file", certErr))
	}
	if caErr != nil {
		wrong.Mistakes = append(wrong.Mistakes, cfg.MistakeAt(section+".client_ca_file", caErr))
	}
	t.current = current
	return t, wrong.AsError()
}

// Config returns a configuration that follows the files: each handshake uses their
// current content. Open connections are not affected by a change.
func (t *TLSFiles) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.now().Sub(t.checked) >= fileCheckInterval {
				t.reload()
			}
			if t.current == nil {
				return nil, errNoClientCAs
			}
			return t.current, nil
		},
	}
}

var errNoClientCAs = errors.New("client certificates cannot be verified: client_ca_file cannot be read")

// reload reads the files if they have changed. t.mu is locked.
//
// A certificate that cannot be read leaves the previous one in use. Client
// certificates fail closed instead: the CA file may have changed to revoke access.
func (t *TLSFiles) reload() {
	t.checked = t.now()
	stamps := stampsOf(t.paths)
	changed := !slices.EqualFunc(stamps, t.stamps, durable.Stamp.Equal)
	if t.current != nil && !changed {
		return
	}
	next, certErr, caErr := readTLS(t.paths)
	switch {
	case caErr != nil:
		t.current = nil
		t.log.Error("rejecting all TLS clients: cannot load client_ca_file", zap.String("key", t.section+".client_ca_file"), zap.Error(caErr))
	case certErr == nil:
		t.current, t.stamps = next, stamps
	case changed: // logged once for each change
		t.stamps = stamps
		t.log.Warn("cannot load the certificate; the previous one stays in use", zap.String("key", t.section+".cert_file"), zap.Error(certErr))
	}
}

// stampsOf returns the stamps of the files. A file that does not exist has the zero
// Stamp, so that its removal is a change too.
func stampsOf(paths config.TLS) []durable.Stamp {
	var stamps []durable.Stamp
	for _, path := range []string{paths.CertFile, paths.KeyFile, paths.ClientCAFile} {
		stamp, _ := durable.StampOf(path)
		stamps = append(stamps, stamp)
	}
	return stamps
}

// readTLS returns the configuration in the files, or what is wrong with the
// certificate and its key and with the CA certificates.
func readTLS(paths config.TLS) (c *tls.Config, certErr, caErr error) {
	pair, certErr := tls.LoadX509KeyPair(paths.CertFile, paths.KeyFile)
	if certErr != nil {
		certErr = fmt.Errorf("reading the certificate: %w", certErr)
	}
	clientCAs, caErr := outbound.ReadRoots(paths.ClientCAFile) // nil without a file
	if certErr != nil || caErr != nil {
		return nil, certErr, caErr
	}
	c = &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
	}
	if clientCAs != nil {
		c.ClientCAs, c.ClientAuth = clientCAs, tls.RequireAndVerifyClientCert
		// A resumed session is not verified again, so it would outlive a change of
		// the CA certificates.
		c.SessionTicketsDisabled = true
	}
	return c, nil, nil
}
