package pleo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
)

var (
	// ErrUnauthorized means that the API returned 401: it rejects the credential.
	ErrUnauthorized = errors.New("the API rejects the credential")

	errNoCredential   = errors.New("there is no credential to send")
	errUnexpectedBody = errors.New("the response lacks what was requested")
)

// StatusError is a response with an unexpected status, which does not show whether
// the credential is valid.
type StatusError struct {
	Status     int
	RetryAfter time.Duration // the delay that the server asked for; 0 if it did not
}

func (e *StatusError) Error() string { return fmt.Sprintf("the server returned status %d", e.Status) }

const (
	defaultAPITimeout = 30 * time.Second
	maxCompanyName    = 256
)

// APIConfig configures an [API].
type APIConfig struct {
	URL       *url.URL          // of the API, without a version prefix; required
	Transport http.RoundTripper // as [outbound.NewTransport] returns it; required
	Timeout   time.Duration     // of one call; 0 means 30 seconds
	Now       func() time.Time  // nil means time.Now
}

// API calls the Pleo API with a connection's credential, for requests of this
// program rather than of its clients. It is safe for concurrent use.
type API struct {
	base      *url.URL
	transport http.RoundTripper
	timeout   time.Duration
	now       func() time.Time
}

// NewAPI returns the API at c.URL.
func NewAPI(c APIConfig) *API {
	a := &API{base: c.URL.JoinPath("v1"), transport: c.Transport, timeout: c.Timeout, now: c.Now}
	if a.timeout == 0 {
		a.timeout = defaultAPITimeout
	}
	if a.now == nil {
		a.now = time.Now
	}
	return a
}

// Identity describes a credential. Fields are empty where the response has no
// value.
type Identity struct {
	AuthMethod      string // OAUTH2, API_KEY or NONE
	ClientID        string
	Scope           string // separated by spaces
	ApplicationName string
	Subject         string // the URN of the company or organisation
	CompanyID       string // a UUID in lower case; empty for an organisation
}

// IdentityFromURN returns the identity of a company or organisation.
func IdentityFromURN(subject string) Identity {
	return Identity{Subject: subject, CompanyID: companyID(subject)}
}

// Company returns the company or organisation of the credential, without its name.
func (i Identity) Company() credstore.Company {
	return credstore.Company{ID: i.CompanyID, Subject: i.Subject}
}

// Introspect performs a credential check: it returns the identity of the
// credential in authorization, a value of the Authorization field. The error
// matches [ErrUnauthorized] for a 401 and is a *[StatusError] for any other status
// than 200.
func (a *API) Introspect(ctx context.Context, authorization credstore.Secret) (Identity, error) {
	var body struct {
		Data *struct {
			AuthMethod      string `json:"authMethod"`
			ClientID        string `json:"clientId"`
			Scope           string `json:"scope"`
			ApplicationName string `json:"applicationName"`
			SubjectURN      string `json:"subjectURN"`
		} `json:"data"`
	}
	err := a.get(ctx, authorization, &body, "introspect")
	if err == nil && body.Data == nil {
		err = errUnexpectedBody
	}
	if err != nil {
		return Identity{}, fmt.Errorf("introspecting a credential: %w", err)
	}
	d, id := body.Data, IdentityFromURN(body.Data.SubjectURN)
	id.AuthMethod, id.ClientID, id.Scope, id.ApplicationName = d.AuthMethod, d.ClientID, d.Scope, d.ApplicationName
	return id, nil
}

// InstallationSubject returns the URN of the company or organisation in which the
// integration is installed, or "" if the response does not name one. Errors are
// those of [API.Introspect], with status 404 if it is not installed.
func (a *API) InstallationSubject(ctx context.Context, authorization credstore.Secret) (string, error) {
	var body struct {
		Resource string `json:"resource"`
	}
	if err := a.get(ctx, authorization, &body, "installations", "me"); err != nil {
		return "", fmt.Errorf("reading the installation: %w", err)
	}
	if !isSubject(body.Resource) {
		return "", nil
	}
	return body.Resource, nil
}

// Uninstall removes the integration from the company of the credential, which
// revokes all tokens that the client has there. Errors are those of
// [API.Introspect], with status 404 if it is not installed. After any other error
// the outcome is unknown.
func (a *API) Uninstall(ctx context.Context, authorization credstore.Secret) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	resp, err := a.call(ctx, http.MethodDelete, authorization, "installations", "me")
	if err != nil {
		return fmt.Errorf("uninstalling the integration: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // only the status matters
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("uninstalling the integration: %w", a.statusError(resp))
	}
	return nil
}

// CompanyName returns the name of the company with the id. The credential needs
// the scope companies:read. Errors are those of [API.Introspect].
func (a *API) CompanyName(ctx context.Context, authorization credstore.Secret, id string) (string, error) {
	var body struct {
		Data struct {
			Name string `json:"name"`
		} `json:"data"`
	}
	err := a.get(ctx, authorization, &body, "companies", url.PathEscape(id))
	if err == nil && len(body.Data.Name) > maxCompanyName {
		err = errUnexpectedBody
	}
	if err != nil {
		return "", fmt.Errorf("reading the name of a company: %w", err)
	}
	return body.Data.Name, nil
}

// get decodes the JSON document at the path into v.
func (a *API) get(ctx context.Context, authorization credstore.Secret, v any, path ...string) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	resp, err := a.call(ctx, http.MethodGet, authorization, path...)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // only what was read matters
	if resp.StatusCode != http.StatusOK {
		return a.statusError(resp)
	}
	body, err := readBody(ctx, resp.Body)
	if err != nil {
		return err
	}
	if json.Unmarshal(body, v) != nil {
		return errUnexpectedBody
	}
	return nil
}

// call sends a request without a body and returns the response, whatever its
// status.
func (a *API) call(ctx context.Context, method string, authorization credstore.Secret, path ...string) (*http.Response, error) {
	if authorization.IsZero() {
		return nil, errNoCredential
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base.JoinPath(path...).String(), nil)
	if err != nil {
		return nil, errInvalidRequest
	}
	setCommonHeader(req.Header)
	req.Header.Set("Authorization", authorization.Reveal())
	// Without an http.Client, which would follow redirects with the credential.
	resp, err := a.transport.RoundTrip(req)
	if err != nil {
		return nil, outbound.DescribeError(ctx, err)
	}
	return resp, nil
}

// setCommonHeader sets the fields that all requests of this program have.
func setCommonHeader(h http.Header) {
	h.Set("Accept", "application/json")
	h.Set("Accept-Encoding", "identity") // without it any coding is acceptable (RFC 9110 section 12.5.3)
	h.Set("User-Agent", outbound.UserAgent)
}

// statusError returns the error of a response with an unexpected status.
func (a *API) statusError(resp *http.Response) error {
	if resp.StatusCode == http.StatusUnauthorized {
		return ErrUnauthorized
	}
	return &StatusError{Status: resp.StatusCode, RetryAfter: outbound.RetryAfter(resp.Header, a.now())}
}

const (
	subjectURN   = "urn:pleo:"
	companyURN   = subjectURN + "company:"
	maxCompanyID = 64
	maxSubject   = 256
)

// isSubject reports whether urn is a URN of Pleo's.
func isSubject(urn string) bool {
	return len(urn) > len(subjectURN) && len(urn) <= maxSubject && strings.EqualFold(urn[:len(subjectURN)], subjectURN)
}

// companyID returns the id in the URN of a company, and "" for other URNs. Neither
// the prefix of a URN nor a UUID depends on case (RFC 8141 section 3.1, RFC 9562
// section 4). The id need not be a UUID: it is enough that it distinguishes
// companies.
func companyID(urn string) string {
	if len(urn) < len(companyURN) || !strings.EqualFold(urn[:len(companyURN)], companyURN) {
		return ""
	}
	id := strings.ToLower(urn[len(companyURN):])
	unexpected := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }
	if len(id) > maxCompanyID || strings.ContainsFunc(id, unexpected) {
		return ""
	}
	return id
}
