package proxy

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

// Client is a program that may use the proxy after it has authenticated by
// "Authorization: Bearer TOKEN" or "Basic NAME:TOKEN". If there is at least one,
// all other programs are rejected.
type Client struct {
	// Name is the user name for Basic. It is also written to the access log.
	Name string

	// TokenHash returns the SHA-256 of the client's token. It is called for
	// each request, so that tokens can change, and should return from memory.
	TokenHash func() [sha256.Size]byte

	// Connections are patterns in the syntax of [path.Match] for the names of the
	// connections that the client may use. Nil means all of them; an empty list
	// that is not nil, none.
	Connections []string

	// Allow lists the requests that the client may send: those that at least one
	// rule allows. Nil means all; an empty list that is not nil, none.
	Allow []Rule
}

// clientAccess decides which clients may connect. Its zero value admits all.
type clientAccess struct {
	clients  []Client
	networks []netip.Prefix
}

// authenticate returns the client that sent the request, nil if clients need not
// authenticate.
func (a *clientAccess) authenticate(r *http.Request) (*Client, error) {
	if len(a.networks) > 0 && !webguard.OnUnixSocket(r) && !a.inNetworks(r.RemoteAddr) {
		return nil, networkNotAllowed()
	}
	if len(a.clients) == 0 {
		return nil, nil
	}
	c := a.findClient(r.Header["Authorization"])
	if c == nil {
		return nil, clientUnauthenticated()
	}
	return c, nil
}

// inNetworks reports whether peer is in one of the networks. It is the address
// of the connection, because header fields about it can be forged.
func (a *clientAccess) inNetworks(peer string) bool {
	at, err := netip.ParseAddrPort(peer)
	if err != nil {
		return false
	}
	addr := at.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(a.networks, func(n netip.Prefix) bool { return n.Contains(addr) })
}

// findClient returns the client to which the values of an Authorization field
// belong. It compares with every client, so that the time it takes does not show
// which one matched. A token that two clients share belongs to neither.
func (a *clientAccess) findClient(values []string) *Client {
	p, ok := parseClientToken(values)
	if !ok {
		return nil
	}
	sum := sha256.Sum256([]byte(p.token))
	var found *Client
	for i := range a.clients {
		c := &a.clients[i]
		want := c.TokenHash()
		if subtle.ConstantTimeCompare(want[:], sum[:]) != 1 || p.named && p.name != c.Name {
			continue
		}
		if found != nil {
			return nil
		}
		found = c
	}
	return found
}

// clientToken is the content of a client's Authorization field.
type clientToken struct {
	token string
	name  string
	named bool // the scheme is Basic; Bearer has no name
}

// parseClientToken parses the values of an Authorization field (RFC 6750 section
// 2.1, RFC 7617 section 2).
func parseClientToken(values []string) (clientToken, bool) {
	if len(values) != 1 {
		return clientToken{}, false
	}
	scheme, rest, _ := strings.Cut(values[0], " ")
	rest = strings.TrimLeft(rest, " ")
	if strings.EqualFold(scheme, "Bearer") {
		return clientToken{token: rest}, rest != ""
	}
	if !strings.EqualFold(scheme, "Basic") {
		return clientToken{}, false
	}
	pair, err := base64.StdEncoding.DecodeString(rest)
	if err != nil {
		return clientToken{}, false
	}
	name, token, _ := strings.Cut(string(pair), ":")
	return clientToken{token: token, name: name, named: true}, token != ""
}
