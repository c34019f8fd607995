package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Rule allows the requests that match one of its methods and one of its paths.
type Rule struct {
	// Methods are compared exactly. Nil means all methods.
	Methods []string

	// Paths are patterns for the path at the API, without prefix and query. Each
	// segment is matched in the syntax of [path.Match], with the difference that *
	// matches no empty segment; ** matches any number of segments, and empty ones
	// too. Nil means all paths.
	//
	// A pattern matches only paths that all servers interpret alike; see
	// unambiguousSegments.
	Paths []string
}

// checkPermission returns an error if the client may not send the request for
// the connection called name. A nil client may do everything.
func (c *Client) checkPermission(r *http.Request, t target, name string) error {
	if c == nil {
		return nil
	}
	if c.Connections != nil && !matchesAny(c.Connections, name) {
		return clientNotAllowed(c.Name, name)
	}
	if c.hasPolicy() && !c.allows(r.Method, t.path) {
		return policyDenied(c.Name, name)
	}
	return nil
}

func matchesAny(patterns []string, s string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, s) })
}

// matches is [path.Match] for a pattern that has been checked.
func matches(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return ok && err == nil
}

func (c *Client) allows(method, path string) bool {
	segments, ok := unambiguousSegments(path)
	if !ok {
		return false
	}
	return slices.ContainsFunc(c.Allow, func(rule Rule) bool {
		return (rule.Methods == nil || slices.Contains(rule.Methods, method)) && rule.covers(segments)
	})
}

func (rule Rule) covers(segments []string) bool {
	return rule.Paths == nil || slices.ContainsFunc(rule.Paths, func(p string) bool {
		return matchSegments(strings.Split(p, "/")[1:], segments)
	})
}

// matchSegments matches segment by segment; ** matches any number of them.
//
// Each ** first matches no segment, and one more whenever what follows does not
// match. Only the last one reached is extended: an earlier one would only move the
// same search to a later segment. So the time is at most proportional to the
// product of both lengths.
func matchSegments(pattern, segments []string) bool {
	p, s := 0, 0
	retryPattern, retrySegment := -1, 0 // behind the last ** and what it matches
	for s < len(segments) || p < len(pattern) {
		switch {
		case p < len(pattern) && pattern[p] == "**":
			p++
			retryPattern, retrySegment = p, s
		case p < len(pattern) && s < len(segments) && matchSegment(pattern[p], segments[s]):
			p++
			s++
		case retryPattern >= 0 && retrySegment < len(segments):
			retrySegment++
			p, s = retryPattern, retrySegment
		default:
			return false
		}
	}
	return true
}

// matchSegment reports whether pattern matches a segment. An empty segment, which
// follows a slash at the end of a path, is matched by an empty pattern only: a path
// with that slash may be the collection, not one of its members.
func matchSegment(pattern, segment string) bool {
	return (pattern == "") == (segment == "") && matches(pattern, segment)
}

// unambiguousSegments returns the decoded segments of a path, and false if
// servers disagree about its meaning: some resolve an encoded dot segment, cut
// off parameters after a semicolon, merge slashes or decode twice. Such a path
// is forwarded for clients without rules, but no rule can match it.
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

// ambiguous reports whether servers disagree about a decoded character of a path.
func ambiguous(r rune) bool {
	return r <= ' ' || r == 0x7f || strings.ContainsRune(`/\%;?#`, r) || r == '\uFFFD'
}

// hasPolicy reports whether rules limit what the client may send.
func (c *Client) hasPolicy() bool { return c != nil && c.Allow != nil }

// overridesRequestLine reports whether some servers take the value of a request
// field, in canonical form, for the method or the path, which a policy has checked.
func overridesRequestLine(canonical string) bool {
	switch canonical {
	case "X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Original-Url", "X-Rewrite-Url":
		return true
	}
	return false
}

// checkClients returns everything that is wrong with the clients.
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

// CheckClientName returns an error if name cannot be that of a [Client]: it must be
// valid as the user name of Basic authentication (RFC 7617 section 2) and must not
// break the lines of a log.
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

// CheckConnectionPattern returns an error if pattern cannot be one of
// [Client.Connections].
func CheckConnectionPattern(pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
		return fmt.Errorf("%q is not a pattern for connection names, such as acme or acme-*", pattern)
	}
	return nil
}

// CheckPathPattern returns an error if pattern cannot be one of [Rule.Paths].
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

// CheckMethod returns an error if method cannot be one of [Rule.Methods].
func CheckMethod(method string) error {
	if !httpguts.ValidHeaderFieldName(method) || method != strings.ToUpper(method) {
		return fmt.Errorf("%q is not a method, such as GET", method)
	}
	return nil
}
