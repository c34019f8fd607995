package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// The parsers below read one value from its text, as it stands in the
// environment or in a YAML scalar. Their errors say what would be right and
// leave out what was written: the caller knows whether it may be shown.

func parseText(s string) (string, error) { return s, nil }

func parsePath(s string) (string, error) {
	// A shell would have put something else there. We are none, and the directory
	// of that name would be made.
	if s == "~" || strings.HasPrefix(s, "~/") || strings.HasPrefix(s, "$") {
		return "", errors.New("wants a path as it is; ~ and variables are not replaced here")
	}
	path, err := filepath.Abs(s)
	if err != nil {
		return "", fmt.Errorf("finding the working directory: %w", err)
	}
	return path, nil
}

// parseSecret reads a secret that stands in the configuration itself.
func parseSecret(s string) (SecretSource, error) {
	secret, err := ReadSecret(strings.NewReader(s))
	return SecretSource{value: secret}, err
}

// parseSecretFile only notes the path: [SecretSource.Open] reads the file.
func parseSecretFile(s string) (SecretSource, error) {
	path, err := parsePath(s)
	return SecretSource{path: path}, err
}

// parseHash reads a SHA-256 in hex.
func parseHash(s string) (TokenHash, error) {
	var h TokenHash
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(h) {
		return h, errors.New("wants 64 hex digits, as sha256sum prints them")
	}
	copy(h[:], raw)
	return h, nil
}

// parseNetwork reads a network, or an address as the network of itself.
func parseNetwork(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return p, errors.New("wants a network such as 10.0.0.0/8 or fd00::/8")
	}
	if p != p.Masked() {
		return p, fmt.Errorf("has bits behind its length; the network is %v", p.Masked())
	}
	return p, nil
}

func parseBool(s string) (bool, error) {
	switch s {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errors.New("wants true or false")
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, errors.New("wants a duration above zero such as 20s, 2m or 1m30s")
	}
	return d, nil
}

var sizePattern = regexp.MustCompile(`^([0-9]{1,18})(B|KiB|MiB|GiB)?$`)

// parseSize reads a number of bytes, with or without a unit of 1024s.
func parseSize(s string) (int64, error) {
	wants := errors.New("wants a size such as 512KiB or 64MiB")
	m := sizePattern.FindStringSubmatch(s)
	if m == nil {
		return 0, wants
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return 0, wants
	}
	unit := map[string]int64{"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[m[2]]
	if n > math.MaxInt64/unit {
		return 0, wants
	}
	return n * unit, nil
}

// oneOf returns a parser that accepts the given words only.
func oneOf(words ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		for _, w := range words {
			if s == w {
				return s, nil
			}
		}
		last := len(words) - 1
		return "", fmt.Errorf("wants %s or %s%s", strings.Join(words[:last], ", "), words[last], suggest(s, words))
	}
}

func parseClientAuth(s string) (pleo.ClientAuth, error) {
	auth, err := pleo.ParseClientAuth(s)
	if err != nil {
		return "", errors.New("wants basic, post or basic_plain")
	}
	return auth, nil
}

func parseConnectionName(s string) (string, error) {
	if !credstore.ValidName(s) {
		return "", errors.New("wants the name of a connection: 1 to 128 letters, digits and . _ ~ : -, the first a letter or a digit")
	}
	return s, nil
}

// parseKeyKind takes the kinds whose credential does not rotate.
func parseKeyKind(s string) (credstore.Kind, error) {
	kind, err := credstore.ParseKind(s)
	if err != nil || !kind.IsKey() {
		return "", errors.New("wants standalone_key or integrated_key")
	}
	return kind, nil
}

func parseTenant(s string) (string, error) { return s, credstore.ValidateTenant(s) }

// RFC 9110 section 5.6.2.
var fieldNamePattern = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

func parseFieldName(s string) (string, error) {
	if !fieldNamePattern.MatchString(s) {
		return "", errors.New("wants the name of a header field such as Pleo-Connection")
	}
	return s, nil
}

var hostPattern = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)

func parseHost(s string) (string, error) {
	if _, err := netip.ParseAddr(s); err != nil && !hostPattern.MatchString(s) {
		return "", errors.New("wants a host name without scheme and port, such as proxy.example.com")
	}
	return s, nil
}

// parseUpstreamURL accepts https, and http for hosts of this machine: a
// credential must not cross a network in the clear.
func parseUpstreamURL(s string) (*url.URL, error) {
	u, err := parseOrigin(s, "http", "https")
	if err != nil {
		return nil, fmt.Errorf("%w such as https://api.example.com", err)
	}
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		return nil, errors.New("is plain http to another machine, which would show every credential; use https")
	}
	return u, nil
}

// parseProxyURL accepts a user name and a password too, so its errors and its
// value must not be shown.
func parseProxyURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("wants a URL such as http://proxy.example.com:3128")
	}
	user := u.User
	u.User = nil
	if u, err = parseOrigin(u.String(), "http", "https", "socks5"); err != nil {
		return nil, fmt.Errorf("%w such as http://proxy.example.com:3128", err)
	}
	u.User = user
	return u, nil
}

// parseOrigin reads a URL that is scheme, host and port, and nothing more.
func parseOrigin(s string, schemes ...string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Opaque != "" {
		return nil, errors.New("wants a URL")
	}
	if !slices.Contains(schemes, u.Scheme) {
		return nil, fmt.Errorf("wants a URL that begins with %s://", strings.Join(schemes, ":// or "))
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	bare := url.URL{Scheme: u.Scheme, Host: u.Host}
	if u.String() != bare.String() {
		return nil, errors.New("wants a URL without user, path, query and fragment")
	}
	return &bare, nil
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
