// Package upstream sends a request over a pooled HTTP/1.1 connection, and again
// only if that is safe.
//
// It replaces [net/http.Transport], which sends some requests a second time on
// its own, does not report whether a failed request was written, and passes every
// request through two more goroutines. Here, a request is written and its
// response is read on the caller's goroutine. Only a request body has its own
// goroutine, so that a response can arrive before the body has been sent.
//
// [Client.Do] proceeds in these steps:
//
//  1. It takes an idle connection that is still alive from the pool, or opens one.
//  2. It writes the head. The body follows as its reader returns it.
//  3. It reads interim responses (1xx), then the head of the final response.
//
// The caller reads the response body. At its end the connection returns to the
// pool, unless the request body has not been sent to its end.
//
// A request is sent again in two cases. If none of its bytes were written, because
// an idle connection had died, nothing is lost. If a reused connection ends before
// the first byte of a response, the server probably closed it while the request
// was on its way; a GET, HEAD or OPTIONS without a body is then sent once more
// (RFC 9110 section 9.2.2). Both use a new connection, on which neither can happen.
//
// Responses are parsed by [net/http.ReadResponse]. What it accepts although a
// proxy must reject it is checked first; see scanHead.
package upstream
