package proxy

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy/upstream"
)

// ServeHTTP forwards the request, or responds with a problem. It panics with
// [http.ErrAbortHandler] if the response breaks off, so that the client cannot
// take what it got for the whole of it.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.serve(w, r, "") }

// ForConnection returns a handler for a listener that is tied to one
// connection. It shares everything with p.
func (p *Proxy) ForConnection(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, name) })
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, byListener string) {
	markHandled(r)
	x := &exchange{proxy: p, w: w, in: r, entry: accessEntry{began: time.Now()}}
	// Detached, because the server cancels r's context also if the client has only
	// shut down its writing side.
	x.ctx, x.cancel = context.WithCancelCause(context.WithoutCancel(r.Context()))
	x.stopWatching = context.AfterFunc(r.Context(), x.inputEnded)
	defer x.finish()
	res, err := x.run(byListener)
	if err != nil {
		x.reject(err)
		return
	}
	x.relay(res)
}

// exchange is one request of a client and its response.
type exchange struct {
	proxy        *Proxy
	w            http.ResponseWriter
	in           *http.Request
	ctx          context.Context // ends when the client disconnects, or by cancel
	cancel       context.CancelCauseFunc
	stopWatching func() bool // ends the watch for a client that disconnects

	// Set by run, in this order.
	target   target
	client   *Client                // nil if clients need not authenticate
	name     string                 // of the connection
	out      *upstream.Request      // what is sent; each attempt sets credential and body
	upload   *upload                // nil without a body
	lastUsed *refresh.Authorization // of the last attempt
	entry    accessEntry
}

// finish ends the exchange, after the response or an abort.
func (x *exchange) finish() {
	x.stopWatching()
	if x.upload != nil {
		x.entry.received = x.upload.size()
		x.upload.finish()
	}
	x.cancel(nil)
	x.proxy.record(x)
}

// inputEnded ends the exchange if the client has disconnected.
func (x *exchange) inputEnded() {
	if clientLeft(x.in) {
		x.cancel(errClientClosed)
	}
}

// clientGone reports whether the client has disconnected.
func (x *exchange) clientGone() bool { return errors.Is(context.Cause(x.ctx), errClientClosed) }

// run takes the request as far as the head of the response for the client. Its
// error is a [problem] or errClientClosed.
func (x *exchange) run(byListener string) (*http.Response, error) {
	var err error
	if x.target, err = x.proxy.guard(x.in); err != nil {
		return nil, err
	}
	if x.client, err = x.proxy.access.authenticate(x.in); err != nil {
		return nil, err
	}
	if x.name, err = x.proxy.connectionNames.resolve(x.ctx, byListener, x.target, x.in.Header); err != nil {
		return nil, err
	}
	if err := x.client.checkPermission(x.in, x.target, x.name); err != nil {
		return nil, err
	}
	a, err := x.proxy.credentials.Authorize(x.ctx, x.name)
	if err != nil {
		return nil, x.credentialError(err)
	}
	if err := x.check(a); err != nil {
		return nil, err
	}
	x.prepare()
	res, err := x.forward(a)
	if err == nil && !x.lastUsed.Kind.IsKey() && isUninstall(x.in.Method, x.target.path, res.StatusCode) {
		x.proxy.credentials.Uninstalled(context.WithoutCancel(x.ctx), x.lastUsed)
	}
	return res, err
}

// isUninstall reports whether a response says that the integration is no longer
// installed at the company, which ends its tokens.
func isUninstall(method, path string, status int) bool {
	if method != http.MethodDelete || status != http.StatusNoContent {
		return false
	}
	decoded, err := url.PathUnescape(path)
	return err == nil && strings.TrimSuffix(decoded, "/") == "/v1/installations/me"
}

// check rejects an authorization that does not fit the request.
func (x *exchange) check(a *refresh.Authorization) error {
	if a == nil || a.Value.IsZero() {
		return storeUnavailable(x.name, errors.New("the authorization is empty"))
	}
	expected, ok := x.in.Header[expectCompanyHeader]
	if ok && (len(expected) != 1 || a.CompanyID == "" || !strings.EqualFold(expected[0], a.CompanyID)) {
		return companyMismatch(x.name)
	}
	return nil
}

// prepare creates what all attempts have in common.
func (x *exchange) prepare() {
	x.out = &upstream.Request{
		Method:        x.in.Method,
		Target:        x.proxy.api.locate(x.target),
		Header:        x.strip(x.in.Header, x.in.Header["Connection"]),
		ContentLength: x.in.ContentLength,
		Interim:       x.relayInterim,
	}
	x.upload = newUpload(x.ctx, x.in, x.proxy.replayBuffers, x.stripTrailer)
	if x.upload != nil {
		// Otherwise the server reads the rest of the body itself as soon as an early
		// response begins. HTTP/2 does not need this.
		_ = http.NewResponseController(x.w).EnableFullDuplex()
	} else {
		delete(x.out.Header, "Expect") // there is no body to hold back
	}
}

// credentialError turns an error of Credentials into one that run returns.
func (x *exchange) credentialError(err error) error {
	if e, ok := errors.AsType[*refresh.Error](err); ok {
		p := credentialProblem(e)
		p.connectURL = x.proxy.connectURL(x.ctx, e)
		return p
	}
	if x.clientGone() {
		return errClientClosed
	}
	return storeUnavailable(x.name, err)
}

// connectLinkTimeout is how long a response waits for the link that it shows.
const connectLinkTimeout = time.Second

// connectURL returns where a person can fix the connection, if only a person can.
func (p *Proxy) connectURL(ctx context.Context, e *refresh.Error) string {
	if p.connectLink == nil || e.ConnectionID == "" || e.Code != refresh.ReauthorizationRequired && e.Code != refresh.ConnectionPending {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, connectLinkTimeout)
	defer cancel()
	link, err := p.connectLink(ctx, e.ConnectionID, e.Version)
	if err != nil {
		p.logger.Warn("no connect link for a response", zap.String("connection", e.Connection), zap.Error(err))
		return ""
	}
	return link
}

// forward sends the request, and replays it after a 401 if there is a newer
// credential.
func (x *exchange) forward(a *refresh.Authorization) (*http.Response, error) {
	x.openBody()
	res, err := x.attempt(a)
	if err != nil || res.StatusCode != http.StatusUnauthorized {
		return res, err
	}
	fresh, err := x.proxy.credentials.Reauthorize(x.ctx, a)
	if errors.Is(err, refresh.ErrSuppressed) {
		x.proxy.metrics.replayed(replaySuppressed)
		return res, nil
	}
	if err == nil {
		err = x.check(fresh)
	} else {
		err = x.credentialError(err)
	}
	if err != nil {
		x.proxy.metrics.replayed(replayNoCredential)
		_ = res.Body.Close()
		return nil, err
	}
	return x.replay(fresh, res)
}

// replay sends the request again after it was rejected. If that is not possible,
// the rejection is the response.
func (x *exchange) replay(a *refresh.Authorization, rejected *http.Response) (*http.Response, error) {
	if !x.openBody() {
		x.proxy.metrics.replayed(replayNotBuffered)
		return rejected, nil
	}
	upstream.Discard(rejected.Body)
	res, err := x.attempt(a)
	switch {
	case err != nil:
		x.proxy.metrics.replayed(replayFailed)
	case res.StatusCode == http.StatusUnauthorized:
		x.proxy.metrics.replayed(replayRejected)
		x.proxy.credentials.ReplayRejected(a)
	default:
		x.proxy.metrics.replayed(replaySucceeded)
	}
	return res, err
}

// openBody prepares the request body for the next attempt. It reports false if
// the beginning of the body is no longer buffered.
func (x *exchange) openBody() bool {
	if x.upload == nil {
		return true
	}
	body, ok := x.upload.attach()
	if ok {
		x.out.Body, x.out.Trailer = body, body.trailer
	}
	return ok
}

// attempt sends the request with a credential, and returns the head of the
// final response. Its error is a [problem] or errClientClosed.
func (x *exchange) attempt(a *refresh.Authorization) (*http.Response, error) {
	x.entry.attempts++
	x.entry.version = a.Version
	x.lastUsed = a
	a.Begin()
	defer a.End()
	// The last change to a header that was built from nothing.
	x.out.Header["Authorization"] = []string{a.Value.Reveal()}
	began := time.Now()
	res, err := x.proxy.upstream.Do(x.ctx, x.out)
	x.entry.upstream += time.Since(began)
	if err != nil {
		return nil, x.upstreamError(err)
	}
	return res, nil
}

// upstreamError returns what the client gets for an attempt without a response.
func (x *exchange) upstreamError(err error) error {
	// First, since a client that ends its body early seems to have disconnected.
	if x.upload != nil {
		if err := x.upload.malformed(); err != nil {
			return badRequestBody(x.name, err)
		}
	}
	if x.clientGone() {
		return errClientClosed
	}
	e, ok := errors.AsType[*upstream.Error](err)
	switch {
	case ok && e.Phase == upstream.NotSent:
		return upstreamProblem(codeUpstreamUnreachable, x.name, err)
	case errors.Is(err, upstream.ErrTimeout):
		return upstreamProblem(codeUpstreamTimeout, x.name, err)
	default:
		return upstreamProblem(codeUpstreamProtocolError, x.name, err)
	}
}

// relayInterim passes a 1xx response on.
func (x *exchange) relayInterim(status int, header http.Header) {
	// Until the body has been read for the first time, the server may be writing
	// a 100 of its own, from the goroutine that reads it. It synchronizes that
	// with the final response only.
	waiting := len(x.in.Header["Expect"]) > 0 && x.upload != nil && !x.upload.started()
	if waiting || !x.in.ProtoAtLeast(1, 1) {
		return
	}
	h := x.w.Header()
	copyResponseHeader(h, header, header["Connection"])
	x.w.WriteHeader(status)
	clear(h)
}
