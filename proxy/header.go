package proxy

import (
	"fmt"
	"iter"
	"net/http"
	"net/textproto"
	"strings"
)

// Fields by which clients control the proxy, besides those that name the
// connection. They are never forwarded.
const (
	expectCompanyHeader = "Pleo-Expect-Company" // the company that the client expects the connection to belong to
	priorityHeader      = "Pleo-Priority"
)

// CheckConnectionHeader reports why a header field cannot name the connection:
// its name is not a field name, or the field has another meaning already.
func CheckConnectionHeader(name string) error {
	if !isToken(name) {
		return fmt.Errorf("%q is not a header field name", name)
	}
	canonical := normalizedField(textproto.CanonicalMIMEHeaderKey(name))
	if alwaysStripped(canonical) || isReserved(canonical) {
		return fmt.Errorf("%q cannot name the connection because it is a standard header field", name)
	}
	return nil
}

// isReserved reports whether a field that may be forwarded has a meaning of its
// own for HTTP or for Pleo.
func isReserved(canonical string) bool {
	switch canonical {
	case "Accept", "Content-Length", "Content-Type", "Expect", "Host", "Idempotency-Key", "Origin", "User-Agent":
		return true
	}
	return false
}

// strip returns a copy of a request's header or trailer section without what
// must not leave. Values are shared with h, not copied.
//
// connection are the values of the request's Connection field, which nominate
// further fields to be dropped (RFC 9110 section 7.6.1).
func (p *Proxy) strip(h http.Header, connection []string) http.Header {
	out := make(http.Header, len(h)+2)
	for name, values := range h {
		if !p.strips(name) {
			out[name] = values
		}
	}
	for name := range listMembers(connection) {
		delete(out, textproto.CanonicalMIMEHeaderKey(name))
	}
	return out
}

// stripTrailer does the same for a trailer section, and also keeps out what
// frames and routes a request: an API that merges trailers into the header must
// not learn anything new about the request there (RFC 9110 section 6.5.1).
func (p *Proxy) stripTrailer(trailer http.Header, connection []string) http.Header {
	out := p.strip(trailer, connection)
	for name := range out {
		switch normalizedField(name) {
		case "Content-Length", "Host":
			delete(out, name)
		}
	}
	return out
}

// strips reports whether the request field called name, in canonical form, does
// not leave.
func (p *Proxy) strips(name string) bool {
	name = normalizedField(name)
	return alwaysStripped(name) || p.strippedFields[name]
}

// normalizedField returns a field name as servers read it that hand fields on as CGI
// variables: they take X_Y for X-Y.
func normalizedField(name string) string {
	if strings.IndexByte(name, '_') < 0 {
		return name
	}
	return textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
}

// alwaysStripped reports whether a request field is dropped whatever the
// configuration: credentials, what belongs to one hop, and what says where the
// request came from.
func alwaysStripped(canonical string) bool {
	switch canonical {
	case "Authorization", "Cookie", "Forwarded", expectCompanyHeader, priorityHeader:
		return true
	}
	return isHopByHop(canonical) ||
		strings.HasPrefix(canonical, "Proxy-") ||
		strings.HasPrefix(canonical, "X-Forwarded-")
}

// isHopByHop reports whether a field belongs to one connection only, named by a
// Connection field or not.
func isHopByHop(canonical string) bool {
	switch canonical {
	case "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Http2-Settings", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization":
		return true
	}
	return false
}

// copyResponseHeader copies to dst what a client may see of an answer's header or
// trailer section.
func copyResponseHeader(dst, src http.Header, connection []string) {
	for name, values := range src {
		if !strippedFromResponse(name) {
			dst[name] = values
		}
	}
	for name := range listMembers(connection) {
		delete(dst, textproto.CanonicalMIMEHeaderKey(name))
	}
}

// strippedFromResponse reports whether an answer's field is not for the client: it belongs
// to one hop, or speaks for the API's origin, which the proxy is not.
func strippedFromResponse(canonical string) bool {
	switch canonical {
	case "Set-Cookie", "Alt-Svc", "Strict-Transport-Security":
		return true
	}
	return isHopByHop(canonical) || strings.HasPrefix(canonical, "Access-Control-")
}

// listMembers yields the members of comma-separated lists.
func listMembers(values []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, list := range values {
			for member := range strings.SplitSeq(list, ",") {
				if member = textproto.TrimString(member); member != "" && !yield(member) {
					return
				}
			}
		}
	}
}

// isToken reports whether s is a token (RFC 9110 section 5.6.2), as field names
// are.
func isToken(s string) bool {
	return s != "" && strings.IndexFunc(s, notInToken) < 0
}

func notInToken(r rune) bool {
	return !isAlphanumeric(r) && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

func isAlphanumeric(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}
