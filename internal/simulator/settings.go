package simulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Duration is a time.Duration that JSON writes the way Go does ("15m") and
// reads from that or from a number of seconds.
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
		return fmt.Errorf("reading a duration: want a string such as \"15m\" or a number of seconds")
	}
	parsed, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("reading a duration: %w", err)
	}
	*d = Duration(parsed)
	return nil
}

// or returns the duration, or def where it is zero.
func (d Duration) or(def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return time.Duration(d)
}

// Settings is what a simulated Pleo is like. The zero Settings is a Pleo that
// follows the documentation at its strictest, with three companies, the client
// [DefaultClientID] and no keys.
type Settings struct {
	// World.

	Companies []Company `json:"companies,omitempty"` // none: three are generated
	Clients   []Client  `json:"clients,omitempty"`   // none: one with the default id and secret
	Keys      []Key     `json:"keys,omitempty"`

	// Latency is added before every answer of the API, the token endpoint and
	// introspection, after what the request asks for has been done.
	Latency Duration `json:"latency,omitempty"`

	OAuth OAuthSettings `json:"oauth,omitzero"`
	API   APISettings   `json:"api,omitzero"`
}

// OAuthSettings is what the authorization server is like.
type OAuthSettings struct {
	AccessTokenLifetime  Duration `json:"access_token_lifetime,omitempty"`  // 0: 15 minutes
	RefreshTokenLifetime Duration `json:"refresh_token_lifetime,omitempty"` // 0: 60 days
	CodeLifetime         Duration `json:"code_lifetime,omitempty"`          // 0: 1 minute

	// ClientAuth lists the ways in which a client may prove itself at the token
	// endpoint and at introspection: "basic" (form-encoded before base64, RFC
	// 6749 section 2.3.1), "basic_plain" (not encoded) and "post" (in the form).
	// None: "basic" alone.
	ClientAuth []string `json:"client_auth,omitempty"`

	// Consent is what the person at the authorize page does: "auto" (or empty)
	// allows at once, "deny" refuses at once, "page" shows a page with buttons.
	Consent string `json:"consent,omitempty"`
	// SubjectType of the grants that consent gives: "company" (or empty), or
	// "organisation".
	SubjectType string `json:"subject_type,omitempty"`
	// GrantScopes are what a consent gives of the scopes that were asked for.
	// None: all of them.
	GrantScopes []string `json:"grant_scopes,omitempty"`
	// IssuerInCallback adds iss to the redirect (RFC 9207).
	IssuerInCallback bool `json:"issuer_in_callback,omitempty"`
	// SubjectInCallback adds urn_pleo_params_oauth_subject to the redirect.
	SubjectInCallback bool `json:"subject_in_callback,omitempty"`
	// Reconsent says what a new consent does to the earlier grants of the same
	// client and company: "keep" (or empty) or "revoke".
	Reconsent string `json:"reconsent,omitempty"`

	// ExpiresIn is the form of expires_in in token answers: "number" (or empty),
	// "string", "fraction", "absent", "null", "zero", "negative" or "huge" (1e12).
	ExpiresIn string `json:"expires_in,omitempty"`
	// Omit lists members to leave out of token answers: "token_type", "scope",
	// "refresh_token" (of refresh answers: the refresh token sent is not
	// rotated then and stays good) and "initial_refresh_token" (of code
	// exchanges: the grant has no refresh token).
	Omit []string `json:"omit,omitempty"`
	// RefreshTokenFirst writes refresh_token before access_token.
	RefreshTokenFirst bool `json:"refresh_token_first,omitempty"`

	// OldAccessToken says what a rotation does to earlier access tokens: "dies"
	// (or empty) at once, or "survives" until it expires.
	OldAccessToken string `json:"old_access_token,omitempty"`
	// Reuse and ExpiredUse say what the presentation of a spent and of an
	// expired refresh token does: "revoke" (or empty) the whole grant, or
	// "refuse" and nothing else.
	Reuse      string `json:"reuse,omitempty"`
	ExpiredUse string `json:"expired_use,omitempty"`
	// Grace is how long after a rotation the refresh token that was spent by it
	// is accepted once more, rotating again. 0: not at all.
	Grace Duration `json:"grace,omitempty"`

	// RejectionCode of a dead refresh token; empty: "invalid_refresh_token".
	RejectionCode string `json:"refusal_code,omitempty"`
	// RejectionStatus that goes with it; 0: 400.
	RejectionStatus int `json:"refusal_status,omitempty"`
	// RefusalMember that holds the code: "error" (or empty), "type" (the shape
	// of the API's errors) or "error_description" (error is invalid_request).
	RefusalMember string `json:"refusal_member,omitempty"`

	// Introspection of tokens: "works" (or empty), "absent" (404),
	// "access_only" (refresh tokens are never active), "always_active" or
	// "always_inactive".
	Introspection string `json:"introspection,omitempty"`
}

// APISettings is what the API is like.
type APISettings struct {
	// UnauthorizedBody and ForbiddenBody are the bodies of 401 and 403:
	// "exception_info" (or empty), "empty" or "plain".
	UnauthorizedBody string `json:"unauthorized_body,omitempty"`
	ForbiddenBody    string `json:"forbidden_body,omitempty"`
	// WWWAuthenticate adds the field to 401 answers.
	WWWAuthenticate bool `json:"www_authenticate,omitempty"`
	// NoInstallationStatus is what GET /v1/installations/me answers where there
	// is no installation: 404 (or 0) or 400.
	NoInstallationStatus int `json:"no_installation_status,omitempty"`
	// NeedsActivation leaves new OAuth installations AUTHORIZED until they are
	// activated; otherwise they are ACTIVATED at once.
	NeedsActivation bool `json:"needs_activation,omitempty"`
	// UninstallRevokesKey makes DELETE /v1/installations/me, sent with a key,
	// revoke that key.
	UninstallRevokesKey bool `json:"uninstall_revokes_key,omitempty"`
}

// choice is a setting whose value must be one of a few words, or empty.
type choice struct {
	name    string
	value   string
	allowed []string
}

func (s Settings) choices() []choice {
	o, a := s.OAuth, s.API
	bodies := []string{"exception_info", "empty", "plain"}
	all := []choice{
		{"oauth.consent", o.Consent, []string{"auto", "deny", "page"}},
		{"oauth.subject_type", o.SubjectType, []string{"company", "organisation"}},
		{"oauth.reconsent", o.Reconsent, []string{"keep", "revoke"}},
		{"oauth.expires_in", o.ExpiresIn, []string{"number", "string", "fraction", "absent", "null", "zero", "negative", "huge"}},
		{"oauth.old_access_token", o.OldAccessToken, []string{"dies", "survives"}},
		{"oauth.reuse", o.Reuse, []string{"revoke", "refuse"}},
		{"oauth.expired_use", o.ExpiredUse, []string{"revoke", "refuse"}},
		{"oauth.refusal_member", o.RefusalMember, []string{"error", "type", "error_description"}},
		{"oauth.introspection", o.Introspection, []string{"works", "absent", "access_only", "always_active", "always_inactive"}},
		{"api.unauthorized_body", a.UnauthorizedBody, bodies},
		{"api.forbidden_body", a.ForbiddenBody, bodies},
	}
	for _, v := range o.ClientAuth {
		all = append(all, choice{"oauth.client_auth", v, []string{"basic", "basic_plain", "post"}})
	}
	for _, v := range o.Omit {
		all = append(all, choice{"oauth.omit", v, []string{"token_type", "scope", "refresh_token", "initial_refresh_token"}})
	}
	return all
}

// validate reports every setting that has no meaning, all at once.
func (s Settings) validate() error {
	var errs []error
	for _, c := range s.choices() {
		if c.value != "" && !slices.Contains(c.allowed, c.value) {
			errs = append(errs, fmt.Errorf("%s: %q is not one of %q", c.name, c.value, c.allowed))
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
		errs = append(errs, fmt.Errorf("oauth.refusal_status: %d is not an error status", st))
	}
	if st := s.API.NoInstallationStatus; st != 0 && st != 404 && st != 400 {
		errs = append(errs, fmt.Errorf("api.no_installation_status: %d is neither 404 nor 400", st))
	}
	return errors.Join(errs...)
}
