// Package proxy resolves the connection of a request, adds its credential,
// forwards it, and replays it once after a 401.
//
// A request passes through these steps; see exchange.run:
//
//	guard             rejects what is never forwarded, by method, target, Host, Origin, Upgrade
//	authenticate      identifies the client by its network address and token
//	resolve           takes the connection's name from listener, path prefix, header or default
//	checkPermission   applies the client's policy to request and connection
//	Authorize         returns the connection's current credential, from memory
//	attempt           sends the request, stripped, with the credential
//	replay            sends it again after a 401, once, with a newer credential
//	relay             passes the response on, stripped
//
// A step that fails returns a problem, which becomes an application/problem+json
// response (RFC 9457). The credential is added last, to a header that was built
// from nothing, so no input can drop, duplicate or redirect it.
//
// Requests are sent by [upstream.Client] and not by
// [net/http/httputil.ReverseProxy], which rewrites queries that it cannot parse,
// loses the values of request trailers, passes on 1xx responses unfiltered, and
// leaves it to its transport whether a request is sent twice.
package proxy
