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
)

var (
	// ErrUnauthorized says that the API answered 401: the credential is not good.
	ErrUnauthorized = errors.New("the API does not accept the credential")

	errUnexpectedBody = errors.New("the answer does not say what it was asked for")
)

// StatusError is an answer with a status that is no good to us and that says
// nothing about the credential.
type StatusError struct {
	Status     int
	RetryAfter time.Duration // how long the server asked to wait; 0 when it did not say
}

func (e *StatusError) Error() string { return fmt.Sprintf("the server answered %d", e.Status) }

const defaultAPITimeout = 30 * time.Second

// APIConfig is what an [API] is made of.
type APIConfig struct {
	URL       *url.URL          // of the API, without a version prefix; required
	Transport http.RoundTripper // as [NewTransport] returns it; required
	Timeout   time.Duration     // of one call; 0 means 30 seconds
	Now       func() time.Time  // nil: time.Now
}

// API speaks to the Pleo API on our own behalf. It may be used by several
// goroutines at once.
type API struct {
	introspectURL   string
	installationURL string
	companiesURL    *url.URL
	transport       http.RoundTripper
	timeout         time.Duration
	now             func() time.Time
}

// NewAPI returns the API of cfg.
func NewAPI(cfg APIConfig) *API {
	a := &API{
		introspectURL:   cfg.URL.JoinPath("v1/introspect").String(),
		installationURL: cfg.URL.JoinPath("v1/installations/me").String(),
		companiesURL:    cfg.URL.JoinPath("v1/companies"),
		transport:       cfg.Transport,
		timeout:         cfg.Timeout,
		now:             cfg.Now,
	}
	if a.timeout == 0 {
		a.timeout = defaultAPITimeout
	}
	if a.now == nil {
		a.now = time.Now
	}
	return a
}

// Identity is what the API knows about a credential. What it did not say is empty.
type Identity struct {
	AuthMethod      string // OAUTH2, API_KEY or NONE
	ClientID        string
	Scope           string // space-separated
	ApplicationName string
	Subject         string // the URN of the company or organisation
	CompanyID       string // a UUID in lower case; empty for an organisation's credential
}

// IdentityFromURN returns what the URN of a company or organisation says.
func IdentityFromURN(subject string) Identity {
	return Identity{Subject: subject, CompanyID: companyID(subject)}
}

// Company returns whom the credential belongs to, without a name.
func (i Identity) Company() credstore.Company {
	return credstore.Company{ID: i.CompanyID, Subject: i.Subject}
}

// Introspect asks the API whose credential it is that goes into the
// Authorization header field as authorization. The error matches
// [ErrUnauthorized] when the API does not know the credential, and is a
// *[StatusError] for any other status than 200.
func (a *API) Introspect(ctx context.Context, authorization credstore.Secret) (Identity, error) {
	var answer introspectResponse
	if err := a.get(ctx, a.introspectURL, authorization, &answer); err != nil {
		return Identity{}, fmt.Errorf("introspecting a credential: %w", err)
	}
	return answer.identity()
}

// InstallationSubject asks for whom the integration is installed, and returns the URN of the
// company or organisation; empty if the answer does not say. Errors are as for
// [API.Introspect]: 404 where nothing is installed.
func (a *API) InstallationSubject(ctx context.Context, authorization credstore.Secret) (string, error) {
	var answer struct {
		Resource string `json:"resource"`
	}
	if err := a.get(ctx, a.installationURL, authorization, &answer); err != nil {
		return "", fmt.Errorf("asking for whom the integration is installed: %w", err)
	}
	if !isSubject(answer.Resource) {
		return "", nil
	}
	return answer.Resource, nil
}

// Uninstall uninstalls the integration at the company that the credential
// belongs to, which ends all tokens that the client has there. The error matches
// [ErrUnauthorized] when the API does not know the credential, and is a
// *[StatusError] otherwise: 404 where nothing is installed. With any other error
// it may have happened.
func (a *API) Uninstall(ctx context.Context, authorization credstore.Secret) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	resp, err := a.call(ctx, http.MethodDelete, a.installationURL, authorization)
	if err != nil {
		return fmt.Errorf("uninstalling the integration: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // only the status counts
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("uninstalling the integration: %w", a.statusError(resp))
	}
	return nil
}

// CompanyName returns what the company with the id is called, for a credential
// that may know (scope companies:read). Errors are as for [API.Introspect].
func (a *API) CompanyName(ctx context.Context, authorization credstore.Secret, companyID string) (string, error) {
	var answer struct {
		Data struct {
			Name string `json:"name"`
		} `json:"data"`
	}
	at := a.companiesURL.JoinPath(url.PathEscape(companyID)).String()
	if err := a.get(ctx, at, authorization, &answer); err != nil {
		return "", fmt.Errorf("asking for the name of a company: %w", err)
	}
	if len(answer.Data.Name) > maxCompanyName {
		return "", errUnexpectedBody
	}
	return answer.Data.Name, nil
}

// get reads the JSON document at the address into v.
func (a *API) get(ctx context.Context, address string, authorization credstore.Secret, v any) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	resp, err := a.call(ctx, http.MethodGet, address, authorization)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // what was read counts
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

const maxCompanyName = 256

var errNoCredential = errors.New("there is no credential to send")

// call sends a request without a body and returns the answer, whatever it is.
func (a *API) call(ctx context.Context, method, url string, authorization credstore.Secret) (*http.Response, error) {
	if authorization.IsZero() {
		return nil, errNoCredential
	}
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, errInvalidRequest
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Authorization", authorization.Reveal())
	// Not by an http.Client: it would follow redirects with the credential.
	resp, err := a.transport.RoundTrip(req)
	if err != nil {
		return nil, networkError(ctx, err)
	}
	return resp, nil
}

// statusError is the error of an answer that does not do what was asked for.
func (a *API) statusError(resp *http.Response) error {
	if resp.StatusCode == http.StatusUnauthorized {
		return ErrUnauthorized
	}
	return &StatusError{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header, a.now())}
}

// introspectResponse is an answer of the API's introspection: an object wrapped in data.
type introspectResponse struct {
	Data *struct {
		AuthMethod      string `json:"authMethod"`
		ClientID        string `json:"clientId"`
		Scope           string `json:"scope"`
		ApplicationName string `json:"applicationName"`
		SubjectURN      string `json:"subjectURN"`
	} `json:"data"`
}

func (i introspectResponse) identity() (Identity, error) {
	d := i.Data
	if d == nil {
		return Identity{}, fmt.Errorf("introspecting a credential: %w", errUnexpectedBody)
	}
	who := IdentityFromURN(d.SubjectURN)
	who.AuthMethod, who.ClientID, who.Scope, who.ApplicationName = d.AuthMethod, d.ClientID, d.Scope, d.ApplicationName
	return who, nil
}

const (
	subjectURN   = "urn:pleo:"
	companyURN   = subjectURN + "company:"
	maxCompanyID = 64
	maxSubject   = 256
)

// isSubject reports whether the text is a URN of somebody at Pleo.
func isSubject(urn string) bool {
	return len(urn) > len(subjectURN) && len(urn) <= maxSubject && strings.EqualFold(urn[:len(subjectURN)], subjectURN)
}

// companyID returns the company that the URN names, or "" when it names
// something else. Neither a URN's beginning nor a UUID depends on case
// (RFC 8141 section 3.1, RFC 9562 section 4).
func companyID(urn string) string {
	if len(urn) < len(companyURN) || !strings.EqualFold(urn[:len(companyURN)], companyURN) {
		return ""
	}
	id := strings.ToLower(urn[len(companyURN):])
	if len(id) > maxCompanyID || strings.ContainsFunc(id, notInUUID) {
		return ""
	}
	return id
}

// notInUUID is lenient: what tells companies apart is of use even where the
// digits are not those of a UUID.
func notInUUID(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
}
