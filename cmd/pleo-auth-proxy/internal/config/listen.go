package config

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// Listen is where a listener waits: a TCP address or a unix socket. The zero
// Listen is a listener that is off.
type Listen struct {
	Network string      // tcp or unix; empty: off
	Address string      // host:port, or the path of the socket
	Mode    fs.FileMode // of the socket; 0: 0660
	Group   string      // of the socket; empty: that of the process
}

// off is what a listener that may be left out is set to.
const off = "off"

// Off reports whether there is to be no listener.
func (l Listen) Off() bool { return l.Network == "" }

// Local reports whether only programs of this machine can reach the listener.
func (l Listen) Local() bool {
	if l.Network != "tcp" {
		return true
	}
	host, _, err := net.SplitHostPort(l.Address)
	return err == nil && isLoopback(host)
}

// overlaps reports whether the two cannot be open at once.
func (l Listen) overlaps(with Listen) bool {
	if l.Network != with.Network {
		return false
	}
	if l.Network != "tcp" {
		return l.Address == with.Address
	}
	host, port := l.hostAndPort()
	otherHost, otherPort := with.hostAndPort()
	return port == otherPort && (host == otherHost || covers(host, otherHost) || covers(otherHost, host))
}

// hostAndPort returns them in one form of those that mean the same.
func (l Listen) hostAndPort() (host string, port uint64) {
	host, text, _ := net.SplitHostPort(l.Address) // parseListen has seen to it
	port, _ = strconv.ParseUint(text, 10, 16)
	switch host = strings.ToLower(host); host {
	case "":
		host = netip.IPv6Unspecified().String()
	case "localhost":
		host = "127.0.0.1"
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
	}
	return host, port
}

// covers reports whether listening on host is listening on other too. That on the
// unspecified IPv6 address takes IPv4 as well.
func covers(host, other string) bool {
	if host == netip.IPv6Unspecified().String() {
		return true
	}
	ip, err := netip.ParseAddr(other)
	return host == netip.IPv4Unspecified().String() && (err != nil || ip.Is4())
}

// String returns the listener as it stands in the configuration.
func (l Listen) String() string {
	switch l.Network {
	case "":
		return off
	case "unix":
		return unixPrefix + l.Address
	}
	return l.Address
}

const unixPrefix = "unix:"

func parseListen(s string) (Listen, error) {
	if path, ok := strings.CutPrefix(s, unixPrefix); ok {
		return parseUnixListen(path)
	}
	wants := errors.New("wants host:port such as 127.0.0.1:8484, or unix:/path/of/socket")
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Listen{}, wants
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return Listen{}, wants
	}
	if _, err := parseHost(host); err != nil && host != "" {
		return Listen{}, wants
	}
	return Listen{Network: "tcp", Address: s}, nil
}

// maxUnixPathLength is what fits into a sockaddr_un on every system we run on.
const maxUnixPathLength = 103

func parseUnixListen(s string) (Listen, error) {
	path, options, _ := strings.Cut(s, "?")
	if !filepath.IsAbs(path) {
		return Listen{}, errors.New("wants a path after unix: that begins with /")
	}
	if len(path) > maxUnixPathLength {
		return Listen{}, errors.New("has a socket path of more than 103 bytes, which systems refuse; use a shorter one")
	}
	l := Listen{Network: "unix", Address: filepath.Clean(path)}
	return l, l.setOptions(options)
}

// setOptions reads what follows the question mark behind a socket's path.
func (l *Listen) setOptions(options string) error {
	wants := errors.New("wants unix:/path?mode=0660&group=NAME; either may be left out")
	given, err := url.ParseQuery(options)
	if err != nil {
		return wants
	}
	for name, values := range given {
		switch name {
		case "mode":
			mode, err := strconv.ParseUint(values[0], 8, 32)
			if err != nil || mode == 0 || mode > 0o777 {
				return errors.New("wants a mode of three octal digits, such as unix:/path?mode=0660")
			}
			l.Mode = fs.FileMode(mode)
		case "group":
			l.Group = values[0]
		default:
			return wants
		}
	}
	return nil
}

// parseListenOrOff reads a listener that may be left out.
func parseListenOrOff(s string) (Listen, error) {
	if s == off {
		return Listen{}, nil
	}
	return parseListen(s)
}
