package refresh

import (
	"context"
	"errors"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

const (
	// A person waits so long for the API to say whose a new credential is, and then
	// for the others that may know.
	identifyTimeout         = 15 * time.Second
	fallbackIdentifyTimeout = 10 * time.Second
	// It is asked so often, so far apart.
	maxIdentifyAttempts = 3
	identifyRetryDelay  = time.Second
)

// ErrCompanyUnknown says that Pleo was asked whose a credential is, and did not say.
var ErrCompanyUnknown = errors.New("nobody says which company the credential belongs to")

// owner is whose a credential is, and what it allows.
type owner struct {
	company credstore.Company // zero: nobody says
	scope   string            // separated by spaces; empty: not said
}

// companyOfCredential asks whom a new credential of conn belongs to. Where nobody says, that is
// [ErrCompanyUnknown] for a connection that has a company: the credential might be
// another one's. Any other error says why the API could not be asked.
func (m *Manager) companyOfCredential(ctx context.Context, conn credstore.Connection, c credstore.Credential) (owner, error) {
	value := pleo.AuthorizationHeader(conn.Kind, c)
	asking, cancel := context.WithTimeout(ctx, identifyTimeout)
	who, err := m.askWho(asking, value)
	cancel()
	ctx, cancel = context.WithTimeout(ctx, fallbackIdentifyTimeout)
	defer cancel()
	return m.ownerOf(ctx, conn, value, c.AccessToken, who, err)
}

// ownerOf is whose a credential is after what the API's introspection has said of
// it: if that is nothing, others may know.
func (m *Manager) ownerOf(ctx context.Context, conn credstore.Connection, value, accessToken credstore.Secret, who pleo.Identity, err error) (owner, error) {
	if err != nil || who.Subject == "" {
		if subject := m.subjectOf(ctx, value, accessToken); subject != "" {
			named := pleo.IdentityFromURN(subject)
			who.Subject, who.CompanyID, err = named.Subject, named.CompanyID, nil
		}
	}
	if err != nil {
		return owner{}, err
	}
	found := owner{company: m.companyOf(ctx, value, who, conn), scope: who.Scope}
	if found.company.IsZero() && !conn.Company().IsZero() {
		return owner{}, ErrCompanyUnknown
	}
	return found, nil
}

// askWho asks the API's introspection, more than once where it does not answer.
func (m *Manager) askWho(ctx context.Context, authorization credstore.Secret) (pleo.Identity, error) {
	if m.API == nil {
		return pleo.Identity{}, nil
	}
	for try := 1; ; try++ {
		who, err := m.API.Introspect(ctx, authorization)
		if err == nil || errors.Is(err, pleo.ErrUnauthorized) || try == maxIdentifyAttempts {
			return who, err
		}
		if pause(ctx, identifyRetryDelay) != nil {
			return who, err
		}
	}
}

// What an [AuthorizationServer] or [API] may know besides.
type (
	subjects interface {
		Subject(ctx context.Context, accessToken credstore.Secret) (string, error)
	}
	installations interface {
		InstallationSubject(ctx context.Context, authorization credstore.Secret) (string, error)
	}
	namer interface {
		CompanyName(ctx context.Context, authorization credstore.Secret, companyID string) (string, error)
	}
)

// subjectOf asks those who may know whose a credential is besides the API's
// introspection: the authorization server's, and the installation. It returns
// nothing where neither says.
func (m *Manager) subjectOf(ctx context.Context, authorization, accessToken credstore.Secret) string {
	if s, ok := m.Server.(subjects); ok && !accessToken.IsZero() {
		if subject, err := s.Subject(ctx, accessToken); err == nil && subject != "" {
			return subject
		}
	}
	if i, ok := m.API.(installations); ok {
		if subject, err := i.InstallationSubject(ctx, authorization); err == nil {
			return subject
		}
	}
	return ""
}

// companyOf returns what is known of the company that the credential belongs to.
// Its name is asked for, and may be kept from credentials that may not see it.
func (m *Manager) companyOf(ctx context.Context, authorization credstore.Secret, who pleo.Identity, known credstore.Connection) credstore.Company {
	company := who.Company()
	if n, ok := m.API.(namer); ok && company.ID != "" {
		company.Name, _ = n.CompanyName(ctx, authorization, company.ID) // pages then show the id
	}
	if company.Name == "" && company.Same(known.Company()) {
		company.Name = known.CompanyName
	}
	return company
}

// identify learns the company of a connection that has none yet, or may have
// another by now. It waits for the answer, but nobody waits for it.
// The access token is that of the connection's credential.
func (m *Manager) identify(e *entry, accessToken credstore.Secret) {
	s := e.current.Load()
	known := !s.conn.Company().IsZero() && !s.conn.CompanyUnverified
	if m.API == nil || known || s.auth == nil {
		return
	}
	ctx, cancel := context.WithTimeout(m.lifetime, readTimeout)
	defer cancel()
	who, err := m.API.Introspect(ctx, s.auth.Value)
	found, err := m.ownerOf(ctx, s.conn, s.auth.Value, accessToken, who, err)
	if err != nil || found.company.IsZero() && !s.conn.CompanyUnverified {
		return // the next refresh asks again
	}
	m.learn(ctx, e, found.company)
}

// learn records whose the connection's authorization is, and brings the entry up
// to date.
func (m *Manager) learn(ctx context.Context, e *entry, company credstore.Company) {
	err := m.Store.Connections.SetCompany(ctx, e.id, company)
	if errors.Is(err, credstore.ErrCompanyBound) || errors.Is(err, credstore.ErrOtherCompany) {
		m.logger(e).Error("the connection was disabled: its credential is of a company that it must not be of", errField(err))
	}
	_ = m.reread(ctx, e) // counted; the change notice reads again
}
