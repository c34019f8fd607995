package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

// code identifies a problem. Clients rely on the codes.
type code string

const (
	codeConnectionRequired      code = "connection_required"
	codeConnectionUnknown       code = "connection_unknown"
	codeConnectionConflict      code = "connection_conflict"
	codeBadRequest              code = "bad_request"
	codeBadRequestTarget        code = "bad_request_target"
	codeBadRequestBody          code = "bad_request_body"
	codeUpgradeRefused          code = "upgrade_refused"
	codeReauthorizationRequired code = "reauthorization_required"
	codeConnectionPending       code = "connection_pending"
	codeCrossSiteRequest        code = "cross_site_request"
	codeHostNotAllowed          code = "host_not_allowed"
	codeConnectionDisabled      code = "connection_disabled"
	codeMethodNotSupported      code = "method_not_supported"
	codeCompanyMismatch         code = "company_mismatch"
	codeUpstreamUnreachable     code = "upstream_unreachable"
	codeUpstreamProtocolError   code = "upstream_protocol_error"
	codeServerUnavailable       code = "authorization_server_unavailable"
	codeStoreUnavailable        code = "store_unavailable"
	codeShuttingDown            code = "shutting_down"
	codeUpstreamTimeout         code = "upstream_timeout"
	codeClientUnauthenticated   code = "client_unauthenticated"
	codeClientNotAllowed        code = "client_not_allowed"
	codePolicyDenied            code = "policy_denied"

	// codeClientClosed is used in the access log only: the client disconnected
	// before the response.
	codeClientClosed code = "client_closed_request"
)

// problemKinds has what all problems of one code have in common.
var problemKinds = map[code]struct {
	status     int
	title      string
	proxyError string // RFC 9209 section 2.3
}{
	codeConnectionRequired:      {400, "Connection required", "http_request_error"},
	codeConnectionUnknown:       {400, "Connection unknown", "http_request_error"},
	codeConnectionConflict:      {400, "Conflicting connections", "http_request_error"},
	codeBadRequest:              {400, "Bad request", "http_request_error"},
	codeBadRequestTarget:        {400, "Bad request target", "http_request_error"},
	codeBadRequestBody:          {400, "Bad request body", "http_request_error"},
	codeUpgradeRefused:          {400, "Upgrade not supported", "http_request_error"},
	codeReauthorizationRequired: {401, "Reauthorization required", "http_request_denied"},
	codeConnectionPending:       {401, "Connection pending", "http_request_denied"},
	codeClientUnauthenticated:   {401, "Client unauthenticated", "http_request_denied"},
	codeClientNotAllowed:        {403, "Client not allowed", "http_request_denied"},
	codePolicyDenied:            {403, "Denied by policy", "http_request_denied"},
	codeCrossSiteRequest:        {403, "Cross-site request", "http_request_denied"},
	codeHostNotAllowed:          {403, "Host not allowed", "http_request_denied"},
	codeConnectionDisabled:      {403, "Connection disabled", "http_request_denied"},
	codeMethodNotSupported:      {405, "Method not supported", "http_request_error"},
	codeCompanyMismatch:         {412, "Company mismatch", "http_request_denied"},
	codeUpstreamUnreachable:     {502, "Pleo cannot be reached", "destination_unavailable"},
	codeUpstreamProtocolError:   {502, "No valid response from Pleo", "http_protocol_error"},
	codeServerUnavailable:       {503, "Authorization server unavailable", "proxy_internal_response"},
	codeStoreUnavailable:        {503, "Store unavailable", "proxy_internal_response"},
	codeShuttingDown:            {503, "Shutting down", "proxy_internal_response"},
	codeUpstreamTimeout:         {504, "Pleo did not respond in time", "http_response_timeout"},
}

// problem is a response of the proxy itself (RFC 9457), and the error that leads
// to it. The client sees all of it but cause.
type problem struct {
	code            code
	message         string        // what happened and what to do; short, see [webguard.Problem]
	more            string        // further sentences, for the detail; may be empty
	connection      string        // the name; empty if no valid one was given
	connectURL      string        // where a person can fix it; empty if it is not shown
	retryAfter      time.Duration // 0: waiting does not help
	cause           error         // for the log; holds no secret
	closeConnection bool          // the connection cannot be used after this request
}

func (p *problem) Error() string {
	if p.cause != nil {
		return string(p.code) + ": " + p.cause.Error()
	}
	return string(p.code)
}

// Unwrap returns the cause.
func (p *problem) Unwrap() error { return p.cause }

// document returns the problem as the response that clients see.
func (p *problem) document() *webguard.Problem {
	kind := problemKinds[p.code]
	detail := p.message
	if p.more != "" {
		detail += " " + p.more
	}
	return &webguard.Problem{
		Code: string(p.code), Status: kind.status, Title: kind.title, Message: p.message, Detail: detail,
		Connection: p.connection, ConnectURL: p.connectURL, RetryAfter: p.retryAfter,
	}
}

// write sends the problem, and returns the length of its body.
func (p *problem) write(w http.ResponseWriter) (int64, error) {
	p.writeHeader(w.Header())
	return p.document().Write(w)
}

// bytes returns the problem as a raw response, for what could not be parsed as a
// request. Its status may differ from that of its code.
func (p *problem) bytes(status int) []byte {
	document := p.document()
	document.Status = status
	body, err := document.Body()
	if err != nil {
		body = nil // cannot happen: the document holds nothing but strings
	}
	h := http.Header{}
	document.SetHeader(h)
	p.writeHeader(h)
	var out bytes.Buffer
	fmt.Fprintf(&out, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	h.Set("Connection", "close")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_ = h.Write(&out) // a buffer takes everything
	out.WriteString("\r\n")
	out.Write(body)
	return out.Bytes()
}

func (p *problem) writeHeader(h http.Header) {
	kind := problemKinds[p.code]
	h.Set("Proxy-Status", fmt.Sprintf("pleo-auth-proxy; error=%s; details=%q", kind.proxyError, p.code))
	if kind.status == http.StatusUnauthorized {
		h["Www-Authenticate"] = p.challenges()
	}
	if kind.status == http.StatusMethodNotAllowed {
		h.Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	}
	if p.closeConnection {
		h.Set("Connection", "close")
	}
}

// challenges returns what has to be authenticated (RFC 9110 section 11.6.1): the
// client at the proxy, or the connection at Pleo.
func (p *problem) challenges() []string {
	if p.code == codeClientUnauthenticated {
		return []string{`Bearer realm="pleo-auth-proxy"`, `Basic realm="pleo-auth-proxy", charset="UTF-8"`}
	}
	return []string{`Bearer realm="Pleo connection", error="invalid_token"`}
}

// defaultRetryAfter is the Retry-After for what may be available again at any time.
const defaultRetryAfter = 5 * time.Second

func connectionRequired(what, field string) *problem {
	return &problem{code: codeConnectionRequired, message: fmt.Sprintf("%s Send the header \"%s: NAME\", or begin the path with /@NAME.", what, field)}
}

func connectionConflict(what string) *problem {
	return &problem{code: codeConnectionConflict, message: what + " The request was not forwarded, because it could reach the wrong company."}
}

// connectionUnknown has an empty name if what the client sent is not a valid one,
// which is not repeated.
func connectionUnknown(name string) *problem {
	message := "The request names a connection that cannot exist. Names have 1 to 128 letters, digits and . _ ~ : - and begin with a letter or a digit."
	if name != "" {
		message = fmt.Sprintf("There is no connection called %q. Names are case-sensitive; `pleo-auth-proxy connections list` shows them.", name)
	}
	return &problem{code: codeConnectionUnknown, connection: name, message: message}
}

func badRequestTarget() *problem {
	return &problem{
		code:    codeBadRequestTarget,
		message: "The request target must be a path such as /v1/companies, without # (send it as %23). Configure the proxy as the base URL, not as an HTTP proxy.",
		more:    "The path must begin with a single slash.",
	}
}

// badRequest is a request that could not be parsed. text says why, if known.
func badRequest(text string) *problem {
	message := "The request is not valid HTTP/1.1; its path may have an invalid percent encoding."
	if text != "" {
		message = "The request is not valid HTTP/1.1: " + text + "."
	}
	return &problem{code: codeBadRequest, closeConnection: true, message: message + " Nothing was sent to Pleo."}
}

func conflictingFramingProblem() *problem {
	return &problem{code: codeBadRequest, closeConnection: true, message: "The request has both Content-Length and Transfer-Encoding, or uses HTTP/1.0 with Transfer-Encoding, so its end is ambiguous. Nothing was sent to Pleo."}
}

func badRequestBody(name string, cause error) *problem {
	return &problem{code: codeBadRequestBody, connection: name, cause: cause, message: "The request body ended early or was malformed. Pleo may have received part of it: check before you send it again."}
}

func webSocketNotSupported() *problem {
	return &problem{code: codeUpgradeRefused, message: "The proxy does not support WebSocket. Send a plain HTTP request. Nothing was sent to Pleo."}
}

func methodNotSupported(method string) *problem {
	return &problem{code: codeMethodNotSupported, message: method + " is not supported. Configure the proxy as the base URL of the client, not as its HTTP proxy."}
}

func hostNotAllowed() *problem {
	return &problem{code: codeHostNotAllowed, message: "The Host of the request is a name that a public website could have. Use localhost, an IP address or a local name, or add the name to proxy.allowed_hosts."}
}

func crossSiteRequest() *problem {
	return &problem{code: codeCrossSiteRequest, message: "The request comes from a web page: it has Origin, or Sec-Fetch-Site other than none. Call the proxy from a server, not from a browser."}
}

func clientUnauthenticated() *problem {
	return &problem{code: codeClientUnauthenticated, message: "Client authentication is required. Send \"Authorization: Bearer TOKEN\" or \"Basic NAME:TOKEN\" once, with the token of this client in proxy.clients."}
}

func networkNotAllowed() *problem {
	return &problem{code: codeClientNotAllowed, message: "The client's address is not in proxy.client_networks."}
}

// clientNotAllowed does not reveal whether the connection exists.
func clientNotAllowed(client, name string) *problem {
	return &problem{code: codeClientNotAllowed, connection: name, message: fmt.Sprintf("Client %q may not use connection %q: no pattern in its connections matches. Nothing was sent to Pleo.", client, name)}
}

func policyDenied(client, name string) *problem {
	return &problem{code: codePolicyDenied, connection: name, message: fmt.Sprintf("Client %q may not send this request: no rule in its allow list matches method and path, or the path is ambiguous. Nothing was sent to Pleo.", client)}
}

func companyMismatch(name string) *problem {
	return &problem{code: codeCompanyMismatch, connection: name, message: fmt.Sprintf("Connection %q does not belong to the company in %s, or its company is not known. Nothing was sent to Pleo.", name, expectCompanyHeader)}
}

func storeUnavailable(name string, cause error) *problem {
	return &problem{code: codeStoreUnavailable, connection: name, cause: cause, retryAfter: defaultRetryAfter, message: "The credential store is unavailable. Nothing was sent to Pleo; try again later."}
}

// upstreamProblem is a request without a valid response. What the client may do
// next depends on whether it was sent.
func upstreamProblem(c code, name string, cause error) *problem {
	message := map[code]string{
		codeUpstreamUnreachable:   "The proxy could not connect to the Pleo API. The request was not sent; it is safe to try again.",
		codeUpstreamProtocolError: "The Pleo API closed the connection or sent an invalid response. It may have processed the request: check before you send it again.",
		codeUpstreamTimeout:       "The Pleo API did not respond in time. It may still process the request: check before you send it again.",
	}[c]
	return &problem{code: c, connection: name, cause: cause, message: message}
}

// credentialProblem says why there is no credential.
func credentialProblem(e *refresh.Error) *problem {
	if e.Code == refresh.ConnectionUnknown {
		return connectionUnknown(e.Connection)
	}
	message, ok := credentialMessages[e.Code]
	if !ok {
		return storeUnavailable(e.Connection, e)
	}
	p := &problem{code: code(e.Code), connection: e.Connection, retryAfter: e.RetryAfter, cause: e.Err}
	if problemKinds[p.code].status == http.StatusServiceUnavailable && p.retryAfter <= 0 {
		p.retryAfter = defaultRetryAfter
	}
	p.message = fmt.Sprintf(message, e.Connection)
	if e.Reason != "" {
		p.more = fmt.Sprintf("Reason: %s; `pleo-auth-proxy connections show` has details.", e.Reason)
	}
	return p
}

// credentialMessages has the message for each code; %q is the name of the connection.
var credentialMessages = map[refresh.Code]string{
	refresh.ConnectionPending:       "Connection %q has no credential yet. A person must give consent or enter a key first.",
	refresh.ConnectionDisabled:      "Connection %q is disabled until an operator enables it.",
	refresh.ReauthorizationRequired: "Pleo no longer accepts the credential of connection %q. A person must give consent again or enter a new key.",
	refresh.ServerUnavailable:       "The access token of connection %q has expired, and Pleo's authorization server is unavailable. Try again later.",
	refresh.StoreUnavailable:        "The credential of connection %q cannot be read or saved: the store or the spool is unavailable or full. Try again later.",
	refresh.ShuttingDown:            "The proxy is shutting down and does not refresh the token of connection %q. Try again in a moment.",
}

// errClientClosed ends an exchange whose client has disconnected.
var errClientClosed = errors.New("the client disconnected")
