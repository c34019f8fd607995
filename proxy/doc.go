// Package proxy resolves the connection of a request, adds its credential,
// forwards it, and replays it once after a 401.
//
// The way of one request:
//
//	guard     method, target, Host, Origin, Upgrade: may this be forwarded at all?
//	admit     network, token: who is it?
//	name      listener, path prefix, header or default: which connection is meant?
//	permit    may this client send this, for this connection?
//	authorize the connection's current credential, from memory
//	send      what the client sent, less what must not leave, plus the credential
//	replay    after a 401, once, with a newer credential
//	relay     the answer, less what is not for the client
//
// Whatever ends the way early is a [problem], answered as problem+json
// (RFC 9457). The credential goes on last, on a header that was built from
// nothing, so no input can drop, double or redirect it.
//
// The package forwards by itself and not through [net/http/httputil.ReverseProxy],
// which rewrites queries it cannot parse, loses the values of request trailers,
// hands on 1xx answers unfiltered, and lets the transport send a request twice.
package proxy
