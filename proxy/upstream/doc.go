// Package upstream sends a request over a pooled HTTP/1.1 connection, and again
// only if that is safe.
//
// It replaces [net/http.Transport], which sends some requests a second time of
// its own accord, does not report whether a failed request was written, and
// hands every request to two further goroutines. Here a request is written and
// its response is read on the caller's goroutine; only a request body has a
// goroutine of its own, so that a response can arrive before the body is sent.
//
// The life of a request:
//
//	acquire   an idle connection that has not died meanwhile, or a new one
//	write     the head, then the body as its reader returns it
//	receive   interim responses (1xx), then the head of the final response
//	read      the response body, by the caller
//	release   the connection to the pool, if both messages are complete
//
// A request is sent again in two cases only. If none of its bytes were written,
// because an idle connection had died, nothing was lost. And if a reused
// connection ends before the first byte of a response, a GET, HEAD or OPTIONS
// without a body is sent once more (RFC 9110 section 9.2.2): the server had
// closed an idle connection while the request was on its way. Both use a new
// connection, for which neither can happen again.
//
// Responses are parsed by [net/http.ReadResponse]. Only what it tolerates and a
// proxy must not is checked before; see scanHead.
package upstream
