package pleo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/oauth2"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const defaultTimeout = 60 * time.Second

// ServerConfig configures an [AuthorizationServer].
type ServerConfig struct {
	// URL is the authorization server's, without the paths of its endpoints.
	// Required.
	URL *url.URL
	// ClientID and ClientSecret identify our client. ClientSecret is called for
	// each request, from several goroutines. Required.
	ClientID     string
	ClientSecret func() credstore.Secret
	// PreviousClientSecret returns the secret to use when the server rejects
	// ClientSecret. Nil, or the zero Secret, means none.
	PreviousClientSecret func() credstore.Secret
	// Auth is how id and secret are sent. Empty means Basic.
	Auth ClientAuth
	// Transport is as outbound.NewTransport returns it. It is not used itself:
	// a copy opens a new connection for each request. Required.
	Transport *http.Transport
	// Timeout bounds one call, from dialing to the end of the response. 0 means
	// 60 seconds.
	Timeout time.Duration
	Logger  *zap.Logger      // nil means no log
	Now     func() time.Time // nil means time.Now
}

// AuthorizationServer calls Pleo's authorization server. It stores no token and is
// safe for concurrent use.
type AuthorizationServer struct {
	authorizeURL  string
	tokenURL      string
	introspectURL string
	clientID      string
	current       func() credstore.Secret
	previous      func() credstore.Secret
	auth          ClientAuth
	transport     http.RoundTripper
	timeout       time.Duration
	log           *zap.Logger
	now           func() time.Time

	// rejected is the hash of the current client secret while the server rejects
	// it and accepts the previous one; nil otherwise.
	rejected atomic.Pointer[credstore.Hash]
}

// NewAuthorizationServer returns the authorization server at c.URL. The error says
// what is wrong with c. It sends nothing.
func NewAuthorizationServer(c ServerConfig) (*AuthorizationServer, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	s := &AuthorizationServer{
		authorizeURL:  c.URL.JoinPath("oauth/authorize").String(),
		tokenURL:      c.URL.JoinPath("oauth/token").String(),
		introspectURL: c.URL.JoinPath("oauth/token/introspect").String(),
		clientID:      c.ClientID,
		current:       c.ClientSecret,
		previous:      c.PreviousClientSecret,
		auth:          cmp.Or(c.Auth, Basic),
		transport:     freshConnections(c.Transport),
		timeout:       cmp.Or(c.Timeout, defaultTimeout),
		log:           cmp.Or(c.Logger, zap.NewNop()),
		now:           c.Now,
	}
	if s.previous == nil {
		s.previous = func() credstore.Secret { return credstore.Secret{} }
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s, nil
}

// freshConnections returns a copy of t that opens a new connection for each
// request, and tracks what is written to it: a request that fails on a connection
// from a pool has an unknown outcome.
func freshConnections(t *http.Transport) *http.Transport {
	t = t.Clone()
	t.DisableKeepAlives = true
	t.ResponseHeaderTimeout = 0 // the timeout of the call includes it
	t.DialContext = trackWrites(t.DialContext)
	return t
}

func (c ServerConfig) check() error {
	switch {
	case c.URL == nil, c.URL.Host == "", c.URL.Scheme != "http" && c.URL.Scheme != "https":
		return errors.New("the authorization server needs an http or https URL with a host")
	case c.URL.User != nil, c.URL.RawQuery != "", c.URL.Fragment != "":
		return errors.New("the URL of the authorization server must not have a user, a query or a fragment")
	case c.ClientID == "":
		return errors.New("the authorization server needs a client id")
	case c.ClientSecret == nil:
		return errors.New("the authorization server needs a client secret")
	case c.Transport == nil:
		return errors.New("the authorization server needs a transport")
	case c.Auth != "" && !slices.Contains(ClientAuths(), c.Auth):
		return fmt.Errorf("unknown client authentication %q: use one of %v", c.Auth, ClientAuths())
	}
	return c.Auth.CheckClientID(c.ClientID)
}

// Refresh sends the refresh token once and returns the new token pair (RFC 6749
// section 6). The error is a *[NotSentError], a *[ResponseError] or an
// *[UnknownOutcomeError]. The token is sent a second time only if the server
// rejects the client secret, in which case it has not used the token, and there is
// a previous secret.
//
// If ctx ends after the token was sent, the error is an UnknownOutcomeError and the
// new pair may be lost. Use a context that outlives the caller.
func (s *AuthorizationServer) Refresh(ctx context.Context, refreshToken credstore.Secret) (Tokens, error) {
	if refreshToken.IsZero() {
		return Tokens{}, &NotSentError{Err: errNoToken}
	}
	return s.requestTokens(ctx, func(ctx context.Context, c *oauth2.Config) {
		_, _ = c.TokenSource(ctx, &oauth2.Token{RefreshToken: refreshToken.Reveal()}).Token() // the exchange holds the outcome
	}, refreshToken)
}

// requestTokens calls send, which sends one token request by x/oauth2, and returns
// its outcome. sent are the secrets that send sends, besides the client secret.
func (s *AuthorizationServer) requestTokens(ctx context.Context, send func(context.Context, *oauth2.Config), sent ...credstore.Secret) (Tokens, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var tokens Tokens
	err := s.withClientSecret(func(secret credstore.Secret) (err error) {
		x := &exchange{transport: s.transport, now: s.now, finish: s.auth.plainBasic(s.clientID, secret)}
		send(context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: x}), &oauth2.Config{
			ClientID:     s.clientID,
			ClientSecret: secret.Reveal(),
			Endpoint:     oauth2.Endpoint{TokenURL: s.tokenURL, AuthStyle: s.auth.style()},
		})
		tokens, err = x.tokens(append(slices.Clip(sent), secret)...)
		return err
	})
	return tokens, err
}

// tokens returns the outcome of the exchange. sent are the secrets in the request.
func (x *exchange) tokens(sent ...credstore.Secret) (Tokens, error) {
	if x.response == nil {
		return Tokens{}, x.noResponseError()
	}
	t, err := x.response.tokens(sent...)
	if err == nil {
		t.SentAt = x.sentAt
	}
	return t, err
}

// withClientSecret calls try with the client secret, and a second time with the
// other one if the server rejects the first. It remembers which one is accepted.
func (s *AuthorizationServer) withClientSecret(try func(secret credstore.Secret) error) error {
	current, previous := s.current(), s.previous()
	if previous.IsZero() || previous.Equal(current) {
		return try(current)
	}
	first, second := current, previous
	if h := s.rejected.Load(); h != nil && *h == current.Hash() {
		first, second = previous, current
	}
	err := try(first)
	if !clientSecretRejected(err) {
		return err
	}
	err = try(second)
	if clientSecretAccepted(err) {
		s.remember(current, second.Equal(previous))
	}
	return err
}

func (s *AuthorizationServer) remember(current credstore.Secret, rejected bool) {
	if !rejected {
		s.rejected.Store(nil)
		s.log.Info("client secret accepted again")
		return
	}
	hash := current.Hash()
	s.rejected.Store(&hash)
	s.log.Warn("client secret rejected, using the previous one")
}

func clientSecretRejected(err error) bool {
	var response *ResponseError
	return errors.As(err, &response) && response.Class == ClientRejected && response.Code == invalidClient
}

// clientSecretAccepted reports whether a call that ended in err proves that the
// server accepts the client secret: it checks the client before the token.
func clientSecretAccepted(err error) bool {
	var response *ResponseError
	return err == nil || errors.As(err, &response) && response.Class == TokenRejected
}
