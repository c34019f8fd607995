package config

import (
	"errors"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// checkConnect reports pages that nobody could reach.
func (l *loader) checkConnect() {
	c := l.config.Connect
	if c.PublicURL != nil && c.Listen.Off() {
		l.mistake(l.places["connect.public_url"], "connect.public_url", "leads nowhere, since connect.listen is off")
	}
}

// parsePublicURL accepts https, and http for browsers on this machine: pages take
// keys and set cookies.
func parsePublicURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Opaque != "" {
		return nil, errors.New("wants a URL such as https://connect.example.com")
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	bare := &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, "/")}
	if strings.TrimSuffix(u.String(), "/") != bare.String() || !publicPathPattern.MatchString(path) {
		return nil, errors.New("wants a URL of scheme, host and perhaps a plain path, and nothing more")
	}
	if err := browsable(u); err != nil {
		return nil, err
	}
	return bare, nil
}

var publicPathPattern = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)*$`)

// browsable accepts what a browser may be sent to with something to keep.
func browsable(u *url.URL) error {
	if u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()) {
		return nil
	}
	return errors.New("wants a URL that begins with https://, or with http:// on this machine")
}

func parseLinkTTL(s string) (time.Duration, error) {
	d, err := parseDuration(s)
	if err == nil && d > credstore.MaxLinkTTL {
		err = errors.New("is longer than 2160h (90 days), which is too long for a link that lets whoever has it connect a company")
	}
	return d, err
}

func parseReturnURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Opaque != "" || u.User != nil || u.Fragment != "" {
		return "", errors.New("wants URLs such as https://app.example.com/pleo/done, without user and fragment")
	}
	return s, browsable(u)
}

// RFC 6749 section 3.3.
var scopePattern = regexp.MustCompile(`^[!#-\[\]-~]+$`)

func parseScope(s string) (string, error) {
	if !scopePattern.MatchString(s) {
		return "", errors.New("wants a list of scopes such as [users:read, export-jobs:read]")
	}
	return s, nil
}
