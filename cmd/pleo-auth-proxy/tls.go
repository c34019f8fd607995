package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/durable"
)

// tlsFiles is the TLS of a listener by files, which are read again when they
// change. Its methods may be called by several goroutines at once.
type tlsFiles struct {
	section string // of the configuration, such as proxy.tls
	paths   config.TLS
	log     *zap.Logger
	now     func() time.Time

	mu      sync.Mutex      // guards the fields below
	checked time.Time       // when the files were looked at
	seen    []durable.Stamp // of the files when they were read
	current *tls.Config     // nil while nobody can be let in
}

// listenerTLS are the certificate files of the listeners, nil for those without.
type listenerTLS struct{ proxy, admin, connect *tlsFiles }

// openListenerTLS reads them for the first time, and returns a *config.Error with
// all that cannot be used.
func openListenerTLS(cfg *config.Config, log *zap.Logger) (files listenerTLS, err error) {
	var wrong config.Error
	for _, of := range []struct {
		section string
		paths   config.TLS
		into    **tlsFiles
	}{
		{"proxy.tls", cfg.Proxy.TLS, &files.proxy},
		{"admin.tls", cfg.Admin.TLS, &files.admin},
		{"connect.tls", cfg.Connect.TLS, &files.connect},
	} {
		var mistakes *config.Error
		if *of.into, err = openTLS(cfg, of.section, of.paths, log); errors.As(err, &mistakes) {
			wrong.Mistakes = append(wrong.Mistakes, mistakes.Mistakes...)
		}
	}
	if len(wrong.Mistakes) > 0 {
		return listenerTLS{}, &wrong
	}
	return files, nil
}

// openTLS reads the files of a section of the configuration for the first time.
// It returns nil without TLS, and a *config.Error for files that cannot be used.
func openTLS(cfg *config.Config, section string, paths config.TLS, log *zap.Logger) (*tlsFiles, error) {
	if paths.Off() {
		return nil, nil
	}
	t := &tlsFiles{section: section, paths: paths, log: log, now: time.Now}
	var wrong config.Error
	if _, err := tls.LoadX509KeyPair(paths.CertFile, paths.KeyFile); err != nil {
		wrong.Mistakes = append(wrong.Mistakes, cfg.MistakeAt(section+".cert_file", err))
	}
	if _, err := readCertPool(paths.ClientCAFile); err != nil {
		wrong.Mistakes = append(wrong.Mistakes, cfg.MistakeAt(section+".client_ca_file", err))
	}
	if len(wrong.Mistakes) > 0 {
		return nil, &wrong
	}
	t.reload()
	return t, nil
}

// config returns a configuration that follows the files, handshake by
// handshake. Connections that are open stay so.
func (t *tlsFiles) config() *tls.Config {
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

var errNoClientCAs = errors.New("the authorities of client certificates cannot be read, so nobody is let in")

// reload reads the files if they have changed. t.mu is held, or nobody else has t.
func (t *tlsFiles) reload() {
	t.checked = t.now()
	seen := t.stamps()
	if t.current != nil && slices.EqualFunc(seen, t.seen, durable.Stamp.Equal) {
		return
	}
	next, err := t.read()
	if err == nil {
		t.current, t.seen = next, seen
		return
	}
	if _, unknown := readCertPool(t.paths.ClientCAFile); unknown != nil {
		t.current = nil
		t.log.Error("nobody is let in: the file of client authorities cannot be used", zap.String("key", t.section+".client_ca_file"), zap.Error(unknown))
		return
	}
	if !slices.EqualFunc(seen, t.seen, durable.Stamp.Equal) {
		t.seen = seen // said once for each change
		t.log.Warn("the certificate cannot be used; going on with the one before", zap.String("key", t.section), zap.Error(err))
	}
}

// stamps returns the zero Stamp for a file that does not exist: its removal is a
// change too.
func (t *tlsFiles) stamps() []durable.Stamp {
	var stamps []durable.Stamp
	for _, path := range []string{t.paths.CertFile, t.paths.KeyFile, t.paths.ClientCAFile} {
		stamp, _ := durable.StampOf(path)
		stamps = append(stamps, stamp)
	}
	return stamps
}

func (t *tlsFiles) read() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(t.paths.CertFile, t.paths.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	authorities, err := readCertPool(t.paths.ClientCAFile)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
	}
	if authorities != nil {
		c.ClientCAs, c.ClientAuth = authorities, tls.RequireAndVerifyClientCert
		// A session that is resumed would be let in by authorities of the past.
		c.SessionTicketsDisabled = true
	}
	return c, nil
}

// readCertPool returns nil without a file.
func readCertPool(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("reading authorities: there is no certificate in %s", path)
	}
	return pool, nil
}
