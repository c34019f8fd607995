package manage

import (
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// Connection is a connection as operators see it: in responses of the API, in
// webhooks and in the JSON of the command line. Fields without a value are null.
// None is secret.
type Connection struct {
	Name           string     `json:"name"`
	Kind           string     `json:"kind"`
	Status         string     `json:"status"`
	Reason         *string    `json:"reason"`
	CompanyID      *string    `json:"company_id"`
	CompanyName    *string    `json:"company_name"`
	Subject        *string    `json:"subject"`
	ExternalTenant *string    `json:"external_tenant"`
	Version        *int64     `json:"version"`
	ExpiresAt      *time.Time `json:"expires_at"`
	RefreshedAt    *time.Time `json:"refreshed_at"`
	LastError      *Failure   `json:"last_error"`
	CreatedAt      *time.Time `json:"created_at"`
}

// Failure is the last error of a connection.
type Failure struct {
	Code    string    `json:"code"`
	Message string    `json:"message"`
	At      time.Time `json:"at"`
}

// Page is one page of connections.
type Page struct {
	Connections []Connection `json:"connections"`
	NextCursor  *string      `json:"next_cursor"` // null on the last page
}

// Describe returns c as operators see it.
func Describe(c credstore.Connection) Connection {
	return Connection{
		Name:           c.Name,
		Kind:           string(c.Kind),
		Status:         string(c.Status),
		Reason:         orNull(c.Reason),
		CompanyID:      orNull(c.CompanyID),
		CompanyName:    orNull(c.CompanyName),
		Subject:        orNull(c.Subject),
		ExternalTenant: orNull(c.ExternalTenant),
		Version:        orNull(c.Version),
		ExpiresAt:      timeOrNull(c.ExpiresAt),
		RefreshedAt:    timeOrNull(c.RefreshedAt),
		LastError:      describeFailure(c.LastError),
		CreatedAt:      timeOrNull(c.CreatedAt),
	}
}

// DescribePage returns a page as operators see it.
func DescribePage(p credstore.Page) Page {
	page := Page{Connections: make([]Connection, 0, len(p.Connections)), NextCursor: orNull(p.Next)}
	for _, c := range p.Connections {
		page.Connections = append(page.Connections, Describe(c))
	}
	return page
}

func describeFailure(f *credstore.Failure) *Failure {
	if f == nil {
		return nil
	}
	return &Failure{Code: f.Code, Message: f.Message, At: f.At.UTC()}
}

func orNull[T comparable](v T) *T {
	var none T
	if v == none {
		return nil
	}
	return &v
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	utc := t.UTC()
	return &utc
}

// History is one page of the history of a connection, latest event first.
type History struct {
	Events     []Event `json:"events"`
	NextCursor *string `json:"next_cursor"` // null on the last page
}

// Event is an entry of a connection's history, as operators see it. No field is
// secret.
type Event struct {
	ID      string    `json:"id"`
	Type    string    `json:"type"`
	At      time.Time `json:"at"`
	Actor   string    `json:"actor"`
	Status  string    `json:"status"` // of the connection, after it
	Reason  *string   `json:"reason"`
	Version *int64    `json:"version"`
	Code    *string   `json:"code"`
	Message *string   `json:"message"`
}

// DescribeHistory returns a page of a history as operators see it.
func DescribeHistory(p credstore.HistoryPage) History {
	h := History{Events: make([]Event, 0, len(p.Events)), NextCursor: orNull(p.Next)}
	for _, e := range p.Events {
		h.Events = append(h.Events, Event{
			ID: e.ID, Type: string(e.Type), At: e.At.UTC(), Actor: e.Actor, Status: string(e.Status),
			Reason: orNull(e.Reason), Version: orNull(e.Version), Code: orNull(e.Code), Message: orNull(e.Message),
		})
	}
	return h
}

// CredentialCheck is the result of checking a credential with Pleo, as operators
// see it. No field is secret.
type CredentialCheck struct {
	Connection Connection `json:"connection"`
	Healthy    bool       `json:"healthy"` // active, and no finding is a problem
	Findings   []Finding  `json:"findings"`
}

// Finding is the result for one part of a credential.
type Finding struct {
	Part      string  `json:"part"`   // access_token, refresh_token, api_key or next_api_key
	Result    string  `json:"result"` // valid, expired, rejected, other_company, not_checked or unknown
	CompanyID *string `json:"company_id"`
	Message   string  `json:"message"`
}

// DescribeCheck returns the result of a check as operators see it.
func DescribeCheck(c refresh.CredentialCheck) CredentialCheck {
	check := CredentialCheck{Connection: Describe(c.Connection), Healthy: c.Healthy(), Findings: []Finding{}}
	for _, f := range c.Findings {
		check.Findings = append(check.Findings, Finding{
			Part: f.Part, Result: string(f.Result), CompanyID: orNull(f.CompanyID), Message: f.Message,
		})
	}
	return check
}
