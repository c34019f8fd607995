package config

import (
	"errors"
	"net"
	"net/url"
	"regexp"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
)

// errInsecureURL: keys, tokens and cookies must not cross a network in the clear.
var errInsecureURL = errors.New("must begin with https://; plain http is accepted for loopback addresses only")

// parseSecureURL parses an absolute URL without user and fragment: https, or http
// to this machine. Its error says that the URL must be like the example.
func parseSecureURL(s, example string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Opaque != "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("must be a URL without user and fragment, such as " + example)
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		return nil, errInsecureURL
	}
	return u, nil
}

// isLoopback reports whether a host name or address can only mean this machine.
func isLoopback(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// parseOrigin parses a URL of scheme, host and port only.
func parseOrigin(s string) (*url.URL, error) {
	const example = "https://api.example.com"
	u, err := parseSecureURL(s, example)
	if err != nil {
		return nil, err
	}
	origin := &url.URL{Scheme: u.Scheme, Host: u.Host}
	if strings.TrimSuffix(u.String(), "/") != origin.String() {
		return nil, errors.New("must be a URL without path and query, such as " + example)
	}
	return origin, nil
}

var plainPathPattern = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)*$`)

// parsePublicURL parses a URL that other paths are appended to.
func parsePublicURL(s string) (*url.URL, error) {
	u, err := parseSecureURL(s, "https://connect.example.com")
	if err != nil {
		return nil, err
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	base := &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, "/")}
	if strings.TrimSuffix(u.String(), "/") != base.String() || !plainPathPattern.MatchString(path) {
		return nil, errors.New("must be a URL without query and without escaped characters in its path")
	}
	return base, nil
}

func checkReturnURL(s string) error {
	_, err := parseSecureURL(s, "https://app.example.com/pleo/done")
	return err
}

// parseWebhookURL parses a URL that may hold a secret: do not show it.
func parseWebhookURL(s string) (*url.URL, error) {
	return parseSecureURL(s, "https://app.example.com/hooks/pleo")
}

func parseDirectoryURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return nil, errors.New("must be a URL such as https://acme.example.com/directory")
	}
	return u, nil
}

// parseProxyURL parses a URL that may hold a password: do not show it.
func parseProxyURL(s string) (*url.URL, error) {
	invalid := errors.New("must be a URL of a forward proxy such as http://proxy.example.com:3128, with scheme http, https or socks5")
	u, err := url.Parse(s)
	if err != nil || outbound.CheckForwardProxy(u) != nil {
		return nil, invalid
	}
	proxy := &url.URL{Scheme: u.Scheme, User: u.User, Host: u.Host}
	if strings.TrimSuffix(u.String(), "/") != proxy.String() {
		return nil, invalid
	}
	return proxy, nil
}
