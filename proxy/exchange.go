package proxy

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// ServeHTTP forwards the request, or answers it with a problem. It panics with
// [http.ErrAbortHandler] where the client must not take what it got for a whole
// answer.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.serve(w, r, "") }

// ForConnection returns a handler for a listener that is tied to one
// connection. It shares everything with p.
func (p *Proxy) ForConnection(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, name) })
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, byListener string) {
	markHandled(r)
	x := &exchange{proxy: p, w: w, in: r, entry: accessEntry{began: time.Now()}}
	// Detached, because the server ends r's context also for a client that still
	// waits for its answer.
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

// exchange is one request of a client and its answer.
type exchange struct {
	proxy        *Proxy
	w            http.ResponseWriter
	in           *http.Request
	ctx          context.Context // ends when the client leaves, or by cancel
	cancel       context.CancelCauseFunc
	stopWatching func() bool // ends the watch for a client that leaves
	target       target
	client       *Client // nil until it is known, and where clients need not prove themselves
	name         string  // of the connection; empty until it is known
	upload       *upload // nil without a body
	url          *url.URL
	outHeader    http.Header            // what goes upstream, without the credential
	used         *refresh.Authorization // of the last attempt
	sent         bool                   // outHeader has been handed to the transport
	entry        accessEntry

	mu      sync.Mutex // guards w while an attempt is under way, and the fields below
	conn    connUse    // of the attempt under way, or the last one
	sending bool       // an attempt is under way
	interim int        // 1xx answers passed on
}

// finish ends the exchange, whether it was answered or aborted.
func (x *exchange) finish() {
	x.stopWatching()
	if x.upload != nil {
		x.entry.received, _ = x.upload.state()
		x.upload.finish()
	}
	x.cancel(nil)
	x.proxy.record(x)
}

// inputEnded ends the exchange if the client has left.
func (x *exchange) inputEnded() {
	if clientLeft(x.in) {
		x.cancel(errClientGone)
	}
}

// clientGone reports whether the client has left.
func (x *exchange) clientGone() bool { return errors.Is(context.Cause(x.ctx), errClientGone) }

// run takes the request as far as the head of the answer that the client is to
// get. Its error is a [problem] or errClientGone.
func (x *exchange) run(byListener string) (*http.Response, error) {
	var err error
	if x.target, err = x.proxy.guard(x.in); err != nil {
		return nil, err
	}
	client, err := x.proxy.access.authenticate(x.in)
	if err != nil {
		return nil, err
	}
	x.client = client
	name, err := x.proxy.connectionNames.resolve(x.ctx, byListener, x.target, x.in.Header)
	if err != nil {
		return nil, err
	}
	x.name = name
	if err := client.checkPermission(x.in, x.target, name); err != nil {
		return nil, err
	}
	a, err := x.proxy.credentials.Authorize(x.ctx, name)
	if err != nil {
		return nil, x.credentialError(err)
	}
	if err := x.check(a); err != nil {
		return nil, err
	}
	x.prepare()
	res, err := x.forward(a)
	if err == nil && x.isUninstall(res) {
		x.proxy.credentials.Uninstalled(context.WithoutCancel(x.ctx), x.used)
	}
	return res, err
}

// isUninstall reports whether the answer says that the integration is not
// installed at the company any more, so that its tokens are worth nothing.
func (x *exchange) isUninstall(res *http.Response) bool {
	if x.in.Method != http.MethodDelete || res.StatusCode != http.StatusNoContent || x.used.Kind.IsKey() {
		return false
	}
	path, err := url.PathUnescape(x.target.path)
	return err == nil && strings.TrimSuffix(path, "/") == "/v1/installations/me"
}

// check refuses an authorization that does not fit the request.
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

// prepare makes what all attempts have in common.
func (x *exchange) prepare() {
	x.outHeader = x.stripped(x.in.Header)
	disableRetries(x.outHeader)
	x.url = x.proxy.upstream.locate(x.target)
	x.upload = newUpload(x.ctx, x.in, x.proxy.replayBuffers, x.strippedTrailer)
	if x.upload != nil {
		// Without this the server swallows the rest of the body itself once an
		// early answer begins. HTTP/2 needs no such thing.
		_ = http.NewResponseController(x.w).EnableFullDuplex()
	} else {
		delete(x.outHeader, "Expect") // there is nothing to wait with
	}
	x.ctx = httptrace.WithClientTrace(x.ctx, &httptrace.ClientTrace{
		GotConn:        x.gotConn,
		Got1xxResponse: x.relayInterim,
	})
}

func (x *exchange) gotConn(info httptrace.GotConnInfo) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.conn = newLine(info)
}

func (x *exchange) stripped(h http.Header) http.Header {
	return x.proxy.strip(h, x.in.Header["Connection"])
}

// strippedTrailer keeps framing and routing out of a trailer section too: an API
// that merges it into the header section must not learn anything new about the
// request there (RFC 9110 section 6.5.1).
func (x *exchange) strippedTrailer(h http.Header) http.Header {
	out := x.stripped(h)
	for name := range out {
		switch normalizedField(name) {
		case "Content-Length", "Host":
			delete(out, name)
		}
	}
	return out
}

// credentialError turns an error of Credentials into one that run returns.
func (x *exchange) credentialError(err error) error {
	if e, ok := errors.AsType[*refresh.Error](err); ok {
		p := credentialProblem(e)
		p.connectURL = x.connectURL(e)
		return p
	}
	if x.clientGone() {
		return errClientGone
	}
	return storeUnavailable(x.name, err)
}

// connectLinkTimeout is how long a client waits to be told where a person can help it.
const connectLinkTimeout = time.Second

// connectURL returns where a person can mend the connection, if only a person can.
func (x *exchange) connectURL(e *refresh.Error) string {
	if x.proxy.connectLink == nil || e.ConnectionID == "" || e.Code != refresh.ReauthorizationRequired && e.Code != refresh.ConnectionPending {
		return ""
	}
	ctx, cancel := context.WithTimeout(x.ctx, connectLinkTimeout)
	defer cancel()
	link, err := x.proxy.connectLink(ctx, e.ConnectionID, e.Version)
	if err != nil {
		x.proxy.logger.Warn("no connect link could be made for an answer", zap.String("connection", e.Connection), zap.Error(err))
		return ""
	}
	return link
}

// forward sends the request, and once more if the first answer is a 401 that a
// newer credential may heal.
func (x *exchange) forward(a *refresh.Authorization) (*http.Response, error) {
	body, _ := x.openBody()
	res, err := x.send(a, body)
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

// replay sends the request again after it was rejected, unless that cannot be
// done: then the rejection is the answer.
func (x *exchange) replay(a *refresh.Authorization, rejected *http.Response) (*http.Response, error) {
	body, ok := x.openBody()
	if !ok {
		x.proxy.metrics.replayed(replayNotBuffered)
		return rejected, nil
	}
	discard(rejected.Body)
	res, err := x.send(a, body)
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
