package pleo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/oauth2"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// userAgent is what requests of our own call themselves. Requests that are
// forwarded keep what their client said.
const userAgent = "pleo-auth-proxy"

const defaultTimeout = 60 * time.Second

// ServerConfig is what an [AuthorizationServer] is made of.
type ServerConfig struct {
	// URL is the authorization server's, without the paths of its endpoints. Required.
	URL *url.URL
	// ClientID is what Pleo calls our client. Required.
	ClientID string
	// ClientSecret returns the client's secret; it is called for each request,
	// by several goroutines at once. Required.
	ClientSecret func() credstore.Secret
	// PreviousClientSecret returns the secret to try when the other one is
	// refused. Nil, or the zero Secret: there is none.
	PreviousClientSecret func() credstore.Secret
	// Auth is how id and secret are sent. Empty: Basic.
	Auth ClientAuth
	// Transport is how the server is reached. Its HeaderTimeout is not used.
	Transport TransportConfig
	// Timeout is how long one call may take, from the dial to the end of the
	// answer. 0 means 60 seconds.
	Timeout time.Duration
	Logger  *zap.Logger      // nil: nothing is logged
	Now     func() time.Time // nil: time.Now
}

// AuthorizationServer speaks to Pleo's OAuth server. It may be used by several
// goroutines at once, and keeps no token.
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

	// rejected is the hash of the current client secret while it is known to be
	// refused and the previous one to work; nil otherwise.
	rejected atomic.Pointer[credstore.Hash]
}

// NewAuthorizationServer returns the authorization server of cfg, or what is
// wrong with cfg. It sends nothing.
func NewAuthorizationServer(cfg ServerConfig) (*AuthorizationServer, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	transport, err := NewTransport(cfg.Transport)
	if err != nil {
		return nil, err
	}
	// A fresh connection for each request: one that was kept may be dead, and
	// a request that fails on it is an unknown outcome.
	transport.DisableKeepAlives = true
	transport.ResponseHeaderTimeout = 0 // Timeout bounds the whole
	transport.DialContext = trackWrites(transport.DialContext)
	s := &AuthorizationServer{
		authorizeURL:  cfg.URL.JoinPath("oauth/authorize").String(),
		tokenURL:      cfg.URL.JoinPath("oauth/token").String(),
		introspectURL: cfg.URL.JoinPath("oauth/token/introspect").String(),
		clientID:      cfg.ClientID,
		current:       cfg.ClientSecret,
		previous:      cfg.PreviousClientSecret,
		auth:          cfg.Auth,
		transport:     transport,
		timeout:       cfg.Timeout,
		log:           cfg.Logger,
		now:           cfg.Now,
	}
	s.setDefaults()
	return s, nil
}

func (c ServerConfig) check() error {
	if c.URL == nil || c.URL.Host == "" || c.URL.Scheme != "http" && c.URL.Scheme != "https" {
		return errors.New("the authorization server needs an http or https URL with a host")
	}
	if c.URL.User != nil || c.URL.RawQuery != "" || c.URL.Fragment != "" {
		return errors.New("the authorization server's URL must not hold a user, a query or a fragment")
	}
	if c.ClientID == "" {
		return errors.New("the authorization server needs a client id")
	}
	if c.ClientSecret == nil {
		return errors.New("the authorization server needs a client secret")
	}
	if c.Auth == BasicPlain && strings.Contains(c.ClientID, ":") {
		return errors.New("a client id with a colon cannot be sent as basic_plain: use basic or post") // RFC 7617 section 2
	}
	if c.Auth != "" {
		_, err := ParseClientAuth(string(c.Auth))
		return err
	}
	return nil
}

func (s *AuthorizationServer) setDefaults() {
	if s.previous == nil {
		s.previous = func() credstore.Secret { return credstore.Secret{} }
	}
	if s.auth == "" {
		s.auth = Basic
	}
	if s.timeout == 0 {
		s.timeout = defaultTimeout
	}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	if s.now == nil {
		s.now = time.Now
	}
}

// Refresh sends the refresh token once and returns what the server gave for it
// (RFC 6749 section 6). The error is a *[NotSentError], an *[ResponseError] or an
// *[UnknownOutcomeError]. Only where the server refuses the client secret, and so has
// not looked at the token, and there is a previous secret, is it sent again.
//
// Ending ctx after the token was sent gives an UnknownOutcomeError, and may lose the
// successor: let ctx be one that nobody is waiting on.
func (s *AuthorizationServer) Refresh(ctx context.Context, refreshToken credstore.Secret) (Tokens, error) {
	if refreshToken.IsZero() {
		return Tokens{}, &NotSentError{Err: errNoToken}
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var tokens Tokens
	err := s.withClientSecret(func(secret credstore.Secret) (err error) {
		tokens, err = s.refreshWith(ctx, refreshToken, secret)
		return err
	})
	return tokens, err
}

func (s *AuthorizationServer) refreshWith(ctx context.Context, refreshToken, secret credstore.Secret) (Tokens, error) {
	x := &exchange{base: s.transport, now: s.now, finish: s.auth.plainBasic(s.clientID, secret)}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: x})
	source := s.oauth(secret).TokenSource(ctx, &oauth2.Token{RefreshToken: refreshToken.Reveal()})
	_, _ = source.Token() // an error always: x has captured what happened
	return x.tokens(refreshToken, secret)
}

// oauth is what x/oauth2 forms and authenticates one request by.
func (s *AuthorizationServer) oauth(secret credstore.Secret) *oauth2.Config {
	return &oauth2.Config{
		ClientID:     s.clientID,
		ClientSecret: secret.Reveal(),
		Endpoint:     oauth2.Endpoint{TokenURL: s.tokenURL, AuthStyle: s.auth.style()},
	}
}

// tokens says what the exchange has brought. sent are the secrets in the request.
func (x *exchange) tokens(sent ...credstore.Secret) (Tokens, error) {
	if x.response == nil {
		return Tokens{}, x.noResponseError()
	}
	t, err := x.response.tokens(sent...)
	if err != nil {
		return Tokens{}, err
	}
	t.SentAt = x.sentAt
	return t, nil
}

// withClientSecret calls try with the client secret, and where that is refused once
// more with the other one. It remembers which of them works.
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

func (s *AuthorizationServer) remember(current credstore.Secret, refused bool) {
	if !refused {
		s.rejected.Store(nil)
		s.log.Info("the client secret is accepted again")
		return
	}
	hash := current.Hash()
	s.rejected.Store(&hash)
	s.log.Warn("the client secret is refused; the previous one works")
}

// clientSecretRejected reports whether err says that the client secret is wrong.
func clientSecretRejected(err error) bool {
	var answer *ResponseError
	return errors.As(err, &answer) && answer.Class == ClientRejected && answer.Code == invalidClient
}

// clientSecretAccepted reports whether a call that ended in err proves that the
// client secret is right: a token is judged only after the client.
func clientSecretAccepted(err error) bool {
	var answer *ResponseError
	return err == nil || errors.As(err, &answer) && answer.Class == TokenRejected
}

// post sends a form that x/oauth2 has no words for, authenticated as all others.
func (s *AuthorizationServer) post(ctx context.Context, to string, form url.Values, secret credstore.Secret) (*exchange, error) {
	x := &exchange{base: s.transport, now: s.now, finish: s.auth.authenticate(form, s.clientID, secret)}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, fmt.Errorf("forming a request: %w", errInvalidRequest)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	x.send(req)
	return x, nil
}
