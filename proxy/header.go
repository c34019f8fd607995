package proxy

import (
	"fmt"
	"iter"
	"net/http"
	"net/textproto"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Fields by which clients control the proxy, besides those that name the
// connection.
const (
	expectCompanyHeader = "Pleo-Expect-Company" // the company that the connection must belong to
	priorityHeader      = "Pleo-Priority"
)

// CheckConnectionHeader returns an error if the header field called name cannot
// name the connection, because it is not a field name or has another meaning.
func CheckConnectionHeader(name string) error {
	if !httpguts.ValidHeaderFieldName(name) {
		return fmt.Errorf("%q is not a header field name", name)
	}
	canonical := normalizedField(textproto.CanonicalMIMEHeaderKey(name))
	if alwaysStripped(canonical) || isReserved(canonical) {
		return fmt.Errorf("%q cannot name the connection because it is a standard header field", name)
	}
	return nil
}

// isReserved reports whether a field that is forwarded has a meaning for HTTP or
// for Pleo.
func isReserved(canonical string) bool {
	switch canonical {
	case "Accept", "Content-Length", "Content-Type", "Expect", "Host", "Idempotency-Key", "Origin", "User-Agent":
		return true
	}
	return false
}

// strip returns a copy of a request's header or trailer section without the fields
// that are not forwarded. Values are shared with h.
//
// connection contains the values of the request's Connection field, which name
// further fields to remove (RFC 9110 section 7.6.1).
func (x *exchange) strip(h http.Header, connection []string) http.Header {
	out := make(http.Header, len(h)+2)
	for name, values := range h {
		if !x.strips(name) {
			out[name] = values
		}
	}
	for name := range listMembers(connection) {
		delete(out, textproto.CanonicalMIMEHeaderKey(name))
	}
	return out
}

// stripTrailer is strip for a trailer section. It also removes what frames and
// routes a request, because a server may merge trailer fields into the header
// (RFC 9110 section 6.5.1).
func (x *exchange) stripTrailer(trailer http.Header, connection []string) http.Header {
	out := x.strip(trailer, connection)
	for name := range out {
		if framesOrRoutes(name) || !httpguts.ValidHeaderFieldName(name) { // net/http accepts any
			delete(out, name)
		}
	}
	return out
}

// framesOrRoutes reports whether a field that a header section may have must not be
// taken from a trailer section.
func framesOrRoutes(name string) bool {
	name = normalizedField(name)
	return name == "Content-Length" || name == "Host"
}

// strips reports whether strip removes the field called name, in canonical form.
func (x *exchange) strips(name string) bool {
	name = normalizedField(name)
	return alwaysStripped(name) || x.proxy.strippedFields[name] || x.client.hasPolicy() && overridesRequestLine(name)
}

// normalizedField returns a field name as servers read it that turn fields into
// CGI variables: for them, X_Y and X-Y are the same.
func normalizedField(name string) string {
	if strings.IndexByte(name, '_') < 0 {
		return name
	}
	return textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
}

// alwaysStripped reports whether a request field is removed in every
// configuration: credentials, fields for the proxy, hop-by-hop fields, and those
// that tell where the request came from.
func alwaysStripped(canonical string) bool {
	switch canonical {
	case "Authorization", "Cookie", "Forwarded", expectCompanyHeader, priorityHeader:
		return true
	}
	return isHopByHop(canonical) ||
		strings.HasPrefix(canonical, "Proxy-") ||
		strings.HasPrefix(canonical, "X-Forwarded-")
}

// isHopByHop reports whether a field belongs to a single connection, even if no
// Connection field lists it.
func isHopByHop(canonical string) bool {
	switch canonical {
	case "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Http2-Settings", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization":
		return true
	}
	return false
}

// copyResponseHeader copies to dst the fields of a response header that are passed
// on to the client.
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

// strippedFromResponse reports whether a response field is not passed on, because
// it is hop-by-hop or applies to the API's origin, which is not that of the proxy.
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
