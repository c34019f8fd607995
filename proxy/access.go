package proxy

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

// Client is a program that may use the proxy once it has proven itself, by
// "Authorization: Bearer TOKEN" or "Basic NAME:TOKEN". As soon as there is one,
// nobody else may.
type Client struct {
	// Name is the user name for Basic, and stands in the access log.
	Name string

	// TokenHash returns the SHA-256 of the client's token. It is called for
	// each request, so that tokens can change, and should answer from memory.
	TokenHash func() [sha256.Size]byte

	// Connections are patterns, in the form of [path.Match], of the names that
	// the client may use. Nil means all of them; an empty list that is not nil,
	// none.
	Connections []string

	// Allow says what the client may ask of the API: what at least one rule
	// allows. Nil means everything; an empty list that is not nil, nothing.
	Allow []Rule
}

// Rule allows the requests that one of its methods and one of its paths fit.
type Rule struct {
	// Methods are compared exactly. Nil means all of them.
	Methods []string

	// Paths are patterns for the path of the API, without prefix and query.
	// Each segment of them is matched in the form of [path.Match]; ** stands for
	// any number of segments. Nil means all paths.
	//
	// Patterns only ever allow a path that all servers read alike: see plain.
	Paths []string
}

// clientAccess knows who may speak. Its zero value lets everybody.
type clientAccess struct {
	clients  []Client
	networks []netip.Prefix
}

// authenticate returns the client that sent the request; nil where clients need not
// prove themselves.
func (g *clientAccess) authenticate(r *http.Request) (*Client, error) {
	if len(g.networks) > 0 && !webguard.OnUnixSocket(r) && !g.inNetworks(r.RemoteAddr) {
		return nil, networkNotAllowed()
	}
	if len(g.clients) == 0 {
		return nil, nil
	}
	c := g.findClient(r.Header["Authorization"])
	if c == nil {
		return nil, clientUnauthenticated()
	}
	return c, nil
}

// inNetworks reports whether the peer is in one of the networks. It is the address
// of the connection: what a header says about it can be made up.
func (g *clientAccess) inNetworks(peer string) bool {
	at, err := netip.ParseAddrPort(peer)
	if err != nil {
		return false
	}
	addr := at.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(g.networks, func(n netip.Prefix) bool { return n.Contains(addr) })
}

// findClient returns the client whose token the values of Authorization show. It
// looks at every client, so that its time tells nothing about where one matched,
// and takes a token of two clients for none of them.
func (g *clientAccess) findClient(values []string) *Client {
	p, ok := parseClientToken(values)
	if !ok {
		return nil
	}
	sum := sha256.Sum256([]byte(p.token))
	var found *Client
	for i := range g.clients {
		c := &g.clients[i]
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

// clientToken is what a client shows of itself.
type clientToken struct {
	token string
	name  string
	named bool // by Basic; Bearer has no name
}

// parseClientToken reads the values of an Authorization field (RFC 6750 section 2.1,
// RFC 7617 section 2).
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

// checkPermission says why the client may not send the request for the connection called
// name. A nil client may do everything.
func (c *Client) checkPermission(r *http.Request, t target, name string) error {
	if c == nil {
		return nil
	}
	if c.Connections != nil && !matchesAny(c.Connections, name) {
		return clientNotAllowed(c.Name, name)
	}
	if c.Allow != nil && !c.allows(r, t.path) {
		return policyDenied(c.Name, name)
	}
	return nil
}

func matchesAny(patterns []string, s string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, s) })
}

// matches is path.Match of a pattern that [Config] has been checked for.
func matches(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return ok && err == nil
}

func (c *Client) allows(r *http.Request, path string) bool {
	segments, ok := unambiguousSegments(path)
	if !ok || overridesMethod(r.Header) {
		return false
	}
	return slices.ContainsFunc(c.Allow, func(rule Rule) bool {
		return (rule.Methods == nil || slices.Contains(rule.Methods, r.Method)) && rule.covers(segments)
	})
}

func (rule Rule) covers(segments []string) bool {
	return rule.Paths == nil || slices.ContainsFunc(rule.Paths, func(p string) bool {
		return matchSegments(strings.Split(p, "/")[1:], segments)
	})
}

// matchSegments matches segment by segment; ** takes as many as it needs.
func matchSegments(pattern, segments []string) bool {
	for i, p := range pattern {
		if p == "**" {
			for skip := i; skip <= len(segments); skip++ {
				if matchSegments(pattern[i+1:], segments[skip:]) {
					return true
				}
			}
			return false
		}
		if i >= len(segments) || !matches(p, segments[i]) {
			return false
		}
	}
	return len(pattern) == len(segments)
}

// unambiguousSegments returns the decoded segments of a path that every server takes for the
// same one. Others are forwarded for clients without rules, but no rule can say
// what they mean: one server resolves an encoded dot segment, drops parameters
// behind a semicolon, merges slashes or decodes twice, and another does not.
func unambiguousSegments(path string) ([]string, bool) {
	segments := strings.Split(path, "/")[1:]
	for i, s := range segments {
		decoded, err := url.PathUnescape(s)
		last := i == len(segments)-1
		if err != nil || !isUnambiguousSegment(decoded) || decoded == "" && !last {
			return nil, false
		}
		segments[i] = decoded
	}
	return segments, true
}

func isUnambiguousSegment(s string) bool {
	return s != "." && s != ".." && strings.IndexFunc(s, ambiguous) < 0
}

// ambiguous reports whether servers differ about a decoded character of a path.
func ambiguous(r rune) bool {
	return r <= ' ' || r == 0x7f || strings.ContainsRune(`/\%;?#`, r) || r == '\uFFFD'
}

// overridesMethod reports whether the request asks for another method than the
// one that a rule looks at.
func overridesMethod(h http.Header) bool {
	for name := range h {
		switch normalizedField(name) {
		case "X-Http-Method-Override", "X-Http-Method", "X-Method-Override":
			return true
		}
	}
	return false
}

// checkClients reports everything that is wrong with the clients.
func checkClients(clients []Client) error {
	var errs []error
	seen := map[string]bool{}
	for _, c := range clients {
		if err := CheckClientName(c.Name); err != nil {
			errs = append(errs, fmt.Errorf("client name %q: %w", c.Name, err))
		} else if seen[c.Name] {
			errs = append(errs, fmt.Errorf("two clients are called %q", c.Name))
		}
		seen[c.Name] = true
		if c.TokenHash == nil {
			errs = append(errs, fmt.Errorf("client %q has no token hash", c.Name))
		}
		errs = append(errs, checkPatterns(c))
	}
	return errors.Join(errs...)
}

// CheckClientName returns an error unless the name can be sent as the user name of
// Basic authentication (RFC 7617 section 2) and is readable in a log.
func CheckClientName(name string) error {
	invalid := func(r rune) bool { return r <= ' ' || r == ':' || r == 0x7f }
	if name == "" || strings.ContainsFunc(name, invalid) {
		return errors.New("must not be empty or contain a colon, a space or a control character")
	}
	return nil
}

func checkPatterns(c Client) error {
	var errs []error
	for _, p := range c.Connections {
		errs = append(errs, CheckConnectionPattern(p))
	}
	for _, rule := range c.Allow {
		for _, m := range rule.Methods {
			errs = append(errs, CheckMethod(m))
		}
		for _, p := range rule.Paths {
			errs = append(errs, CheckPathPattern(p))
		}
	}
	return errors.Join(errs...)
}

// CheckConnectionPattern says what is wrong with a pattern for
// [Client.Connections].
func CheckConnectionPattern(pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
		return fmt.Errorf("%q is not a pattern for connection names, such as acme or acme-*", pattern)
	}
	return nil
}

// CheckPathPattern says what is wrong with a pattern for [Rule.Paths].
func CheckPathPattern(pattern string) error {
	rest, ok := strings.CutPrefix(pattern, "/")
	for segment := range strings.SplitSeq(rest, "/") {
		if _, err := path.Match(segment, ""); err != nil {
			ok = false
		}
	}
	if !ok {
		return fmt.Errorf("%q is not a pattern for paths, such as /v1/expenses or /v1/exports/**", pattern)
	}
	return nil
}

// CheckMethod says what is wrong with a method for [Rule.Methods].
func CheckMethod(method string) error {
	if !isToken(method) || method != strings.ToUpper(method) {
		return fmt.Errorf("%q is not a method, such as GET", method)
	}
	return nil
}
