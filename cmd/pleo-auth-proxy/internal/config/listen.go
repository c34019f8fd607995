package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

// Listen is the address of a listener: a TCP address or a unix socket. The zero
// Listen means that the listener is off.
type Listen struct {
	Network string      // tcp or unix; empty: off
	Address string      // host:port, or the path of the socket
	Mode    fs.FileMode // of the socket; 0 means 0660
	Group   string      // of the socket; empty means that of the process
}

// off is the text that turns an optional listener off.
const off = "off"

// Off reports whether the listener is off.
func (l Listen) Off() bool { return l.Network == "" }

// Local reports whether only programs on this machine can reach the listener.
func (l Listen) Local() bool {
	if l.Network != "tcp" {
		return true
	}
	host, _, err := net.SplitHostPort(l.Address)
	return err == nil && isLoopback(host)
}

// overlaps reports whether the two cannot be open at the same time.
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

// hostAndPort returns host and port, in the same form for addresses that mean the
// same.
func (l Listen) hostAndPort() (host string, port uint64) {
	host, text, _ := net.SplitHostPort(l.Address) // parseListen has checked it
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

// covers reports whether listening on host includes listening on other. The
// unspecified IPv6 address includes IPv4.
func covers(host, other string) bool {
	if host == netip.IPv6Unspecified().String() {
		return true
	}
	ip, err := netip.ParseAddr(other)
	return host == netip.IPv4Unspecified().String() && (err != nil || ip.Is4())
}

// String returns the address as it is written in the configuration.
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
	invalid := errors.New("must be host:port such as 127.0.0.1:8484, or unix:/path/of/socket")
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Listen{}, invalid
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return Listen{}, invalid
	}
	if host != "" && webguard.CheckHost(host) != nil {
		return Listen{}, invalid
	}
	return Listen{Network: "tcp", Address: s}, nil
}

// maxUnixPathLength is the limit of sockaddr_un on the systems that we support.
const maxUnixPathLength = 103

func parseUnixListen(s string) (Listen, error) {
	path, options, _ := strings.Cut(s, "?")
	if !filepath.IsAbs(path) {
		return Listen{}, errors.New("must have an absolute path, such as unix:/run/pleo.sock")
	}
	if len(path) > maxUnixPathLength {
		return Listen{}, fmt.Errorf("must have a socket path of at most %d bytes", maxUnixPathLength)
	}
	l := Listen{Network: "unix", Address: filepath.Clean(path)}
	return l, l.setOptions(options)
}

// setOptions parses the query after the path of a socket.
func (l *Listen) setOptions(options string) error {
	invalid := errors.New("must be unix:/path?mode=0660&group=NAME; both options may be left out")
	given, err := url.ParseQuery(options)
	if err != nil {
		return invalid
	}
	for name, values := range given {
		switch name {
		case "mode":
			mode, err := strconv.ParseUint(values[0], 8, 32)
			if err != nil || mode == 0 || mode > 0o777 {
				return errors.New("must have a mode of octal digits up to 0777, such as unix:/path?mode=0660")
			}
			l.Mode = fs.FileMode(mode)
		case "group":
			l.Group = values[0]
		default:
			return invalid
		}
	}
	return nil
}

// parseListenOrOff parses the address of an optional listener.
func parseListenOrOff(s string) (Listen, error) {
	if s == off {
		return Listen{}, nil
	}
	return parseListen(s)
}
