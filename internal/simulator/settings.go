package simulator

import (
	_ "embed" // for settings.example.json
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Duration is a time.Duration whose JSON form is a string in Go syntax ("15m").
// It also reads a number of seconds.
type Duration time.Duration

// MarshalJSON writes the duration in Go syntax.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads Go syntax or a number of seconds.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var seconds float64
	if json.Unmarshal(b, &seconds) == nil {
		*d = Duration(seconds * float64(time.Second))
		return nil
	}
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return errors.New(`reading a duration: it must be a string such as "15m" or a number of seconds`)
	}
	parsed, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("reading a duration: %w", err)
	}
	*d = Duration(parsed)
	return nil
}

// or returns the duration, or def if it is zero.
func (d Duration) or(def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return time.Duration(d)
}

// Settings describes a simulated Pleo. The zero Settings is a Pleo that follows
// the documentation at its strictest, with three companies, the client
// [DefaultClientID] and no keys.
type Settings struct {
	Companies []Company `json:"companies,omitempty"` // none: three are generated
	Clients   []Client  `json:"clients,omitempty"`   // none: one with the default id and secret
	Keys      []Key     `json:"keys,omitempty"`

	// Latency delays every response of the API, the token endpoint and token
	// introspection, after the request has taken effect.
	Latency Duration `json:"latency,omitempty"`

	OAuth OAuthSettings `json:"oauth,omitzero"`
	API   APISettings   `json:"api,omitzero"`
}

// OAuthSettings describes the authorization server.
type OAuthSettings struct {
	AccessTokenLifetime  Duration `json:"access_token_lifetime,omitempty"`  // 0: 15 minutes
	RefreshTokenLifetime Duration `json:"refresh_token_lifetime,omitempty"` // 0: 60 days
	CodeLifetime         Duration `json:"code_lifetime,omitempty"`          // 0: 1 minute

	// ClientAuth lists the methods of client authentication that the token
	// endpoint and introspection accept: "basic" (form-encoded before base64, RFC
	// 6749 section 2.3.1), "basic_plain" (not form-encoded) and "post" (in the
	// form). None: "basic" only.
	ClientAuth []string `json:"client_auth,omitempty"`

	// Consent is the customer's decision at the authorization endpoint: "auto"
	// (or empty) allows at once, "deny" denies at once, "page" shows a page with
	// buttons.
	Consent string `json:"consent,omitempty"`
	// GrantScopes are the scopes that consent grants of those requested. None:
	// all of them.
	GrantScopes []string `json:"grant_scopes,omitempty"`
	// IssuerInCallback adds iss to the redirect (RFC 9207).
	IssuerInCallback bool `json:"issuer_in_callback,omitempty"`

	// ExpiresIn is the form of expires_in in token responses: "number" (or
	// empty), "string", "fraction", "absent", "null", "zero", "negative" or "huge"
	// (1e12).
	ExpiresIn string `json:"expires_in,omitempty"`
	// Omit lists members that token responses leave out: "token_type", "scope"
	// and "refresh_token" (after a refresh; the refresh token is not rotated then
	// and stays valid).
	Omit []string `json:"omit,omitempty"`
	// RefreshTokenFirst writes refresh_token before access_token.
	RefreshTokenFirst bool `json:"refresh_token_first,omitempty"`

	// OldAccessToken is what a refresh does to earlier access tokens: each "dies"
	// (or empty) at once, or "survives" until it expires.
	OldAccessToken string `json:"old_access_token,omitempty"`
	// Reuse is what happens to a refresh token that is sent again after it was
	// used: "revoke" (or empty) revokes the grant, "reject" only rejects the
	// request.
	Reuse string `json:"reuse,omitempty"`
	// Grace is how long after a refresh the refresh token it used is accepted once
	// more. 0: not at all.
	Grace Duration `json:"grace,omitempty"`

	// RejectionCode is the error code for an invalid refresh token; empty:
	// "invalid_refresh_token".
	RejectionCode string `json:"rejection_code,omitempty"`
	// RejectionStatus is the status code of that response; 0: 400.
	RejectionStatus int `json:"rejection_status,omitempty"`

	// Introspection is the behaviour of token introspection: "works" (or empty),
	// "absent" (404), "access_only" (refresh tokens are never active),
	// "always_active" or "always_inactive".
	Introspection string `json:"introspection,omitempty"`
}

// APISettings describes the API.
type APISettings struct {
	// UnauthorizedBody is the body of a 401: "exception_info" (or empty), "empty"
	// or "plain".
	UnauthorizedBody string `json:"unauthorized_body,omitempty"`
}

// choice is a setting that must have one of a few values, or be empty.
type choice struct {
	name    string
	values  []string // given
	allowed []string // the first is the default
}

// choices lists the settings that have a fixed set of values.
func (s Settings) choices() []choice {
	o := s.OAuth
	return []choice{
		{"oauth.consent", []string{o.Consent}, []string{"auto", "deny", "page"}},
		{"oauth.expires_in", []string{o.ExpiresIn}, []string{"number", "string", "fraction", "absent", "null", "zero", "negative", "huge"}},
		{"oauth.old_access_token", []string{o.OldAccessToken}, []string{"dies", "survives"}},
		{"oauth.reuse", []string{o.Reuse}, []string{"revoke", "reject"}},
		{"oauth.introspection", []string{o.Introspection}, []string{"works", "absent", "access_only", "always_active", "always_inactive"}},
		{"api.unauthorized_body", []string{s.API.UnauthorizedBody}, []string{"exception_info", "empty", "plain"}},
		{"oauth.client_auth", o.ClientAuth, []string{"basic", "basic_plain", "post"}},
		{"oauth.omit", o.Omit, []string{"token_type", "scope", "refresh_token"}},
	}
}

// validate returns an error that lists every invalid setting.
func (s Settings) validate() error {
	var errs []error
	for _, c := range s.choices() {
		for _, v := range c.values {
			if v != "" && !slices.Contains(c.allowed, v) {
				errs = append(errs, fmt.Errorf("%s: %q is not one of %q", c.name, v, c.allowed))
			}
		}
	}
	for _, d := range []struct {
		name  string
		value Duration
	}{
		{"latency", s.Latency},
		{"oauth.access_token_lifetime", s.OAuth.AccessTokenLifetime},
		{"oauth.refresh_token_lifetime", s.OAuth.RefreshTokenLifetime},
		{"oauth.code_lifetime", s.OAuth.CodeLifetime},
		{"oauth.grace", s.OAuth.Grace},
	} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("%s: %v is negative", d.name, time.Duration(d.value)))
		}
	}
	if st := s.OAuth.RejectionStatus; st != 0 && (st < 400 || st > 599) {
		errs = append(errs, fmt.Errorf("oauth.rejection_status: %d is not an error status", st))
	}
	return errors.Join(errs...)
}

// ReadSettings reads settings from JSON. Unknown members are errors.
func ReadSettings(r io.Reader) (Settings, error) {
	var s Settings
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Settings{}, fmt.Errorf("reading the settings: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Settings{}, errors.New("reading the settings: unexpected data after the document")
	}
	return s, nil
}

//go:embed settings.example.json
var exampleSettings string

// ExampleSettings returns settings that contain every member.
func ExampleSettings() string { return exampleSettings }

// ExplainChoices lists the settings that have a fixed set of values, one per
// line. The first value is the default.
func ExplainChoices() string {
	var b strings.Builder
	for _, c := range (Settings{}).choices() {
		fmt.Fprintf(&b, "%-24s %s\n", c.name, strings.Join(c.allowed, " | "))
	}
	return b.String()
}
