package refresh

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

const (
	// identifyTimeout is how long a person waits for the API to say which company a
	// new credential belongs to.
	identifyTimeout     = 15 * time.Second
	maxIdentifyAttempts = 3
	identifyRetryDelay  = time.Second
	// fallbackIdentifyTimeout is how long they wait for the other sources.
	fallbackIdentifyTimeout = 10 * time.Second
)

// ErrCompanyUnknown says that Pleo does not tell which company a credential
// belongs to.
var ErrCompanyUnknown = errors.New("it is not known which company the credential belongs to")

// owner is the company that a credential belongs to, and what it allows.
type owner struct {
	company credstore.Company // zero: unknown
	scope   string            // separated by spaces; empty: unknown
}

// companies finds out which company a credential belongs to: from the credential
// check, or else from the authorization server's introspection or the
// installation.
type companies struct{ *core }

// Sources that an [AuthorizationServer] or an [API] may offer besides.
type (
	subjectSource interface {
		Subject(ctx context.Context, accessToken credstore.Secret) (string, error)
	}
	installationSource interface {
		InstallationSubject(ctx context.Context, authorization credstore.Secret) (string, error)
	}
	companyNameSource interface {
		CompanyName(ctx context.Context, authorization credstore.Secret, companyID string) (string, error)
	}
)

// find returns the owner of a new credential of conn. It returns
// [ErrCompanyUnknown] if the owner is unknown and the connection has a company:
// the credential might be another company's. Other errors say why the API could
// not be asked.
func (c *companies) find(ctx context.Context, conn credstore.Connection, cred credstore.Credential) (owner, error) {
	header := pleo.AuthorizationHeader(conn.Kind, cred)
	checkCtx, cancel := context.WithTimeout(ctx, identifyTimeout)
	identity, err := c.check(checkCtx, header)
	cancel()
	ctx, cancel = context.WithTimeout(ctx, fallbackIdentifyTimeout)
	defer cancel()
	return c.complete(ctx, conn, header, cred.AccessToken, identity, err)
}

// check is the credential check, repeated while the API fails.
func (c *companies) check(ctx context.Context, header credstore.Secret) (pleo.Identity, error) {
	if c.API == nil {
		return pleo.Identity{}, nil
	}
	for attempt := 1; ; attempt++ {
		identity, err := c.API.Introspect(ctx, header)
		if err == nil || errors.Is(err, pleo.ErrUnauthorized) || attempt == maxIdentifyAttempts {
			return identity, err
		}
		if pause(ctx, identifyRetryDelay) != nil {
			return identity, err
		}
	}
}

// complete returns the owner that the result of a credential check shows, or else
// the other sources.
func (c *companies) complete(ctx context.Context, conn credstore.Connection, header, accessToken credstore.Secret, identity pleo.Identity, err error) (owner, error) {
	if err != nil || identity.Subject == "" {
		if subject := c.otherSubject(ctx, header, accessToken); subject != "" {
			other := pleo.IdentityFromURN(subject)
			identity.Subject, identity.CompanyID, err = other.Subject, other.CompanyID, nil
		}
	}
	if err != nil {
		return owner{}, err
	}
	found := owner{company: c.withName(ctx, header, identity, conn), scope: identity.Scope}
	if found.company.IsZero() && !conn.Company().IsZero() {
		return owner{}, ErrCompanyUnknown
	}
	return found, nil
}

// otherSubject returns the subject that the other sources name, or nothing.
func (c *companies) otherSubject(ctx context.Context, header, accessToken credstore.Secret) string {
	if s, ok := c.Server.(subjectSource); ok && !accessToken.IsZero() {
		if subject, err := s.Subject(ctx, accessToken); err == nil && subject != "" {
			return subject
		}
	}
	if i, ok := c.API.(installationSource); ok {
		if subject, err := i.InstallationSubject(ctx, header); err == nil {
			return subject
		}
	}
	return ""
}

// withName returns the company of the identity with its name, which not every
// credential may read.
func (c *companies) withName(ctx context.Context, header credstore.Secret, identity pleo.Identity, known credstore.Connection) credstore.Company {
	company := identity.Company()
	if n, ok := c.API.(companyNameSource); ok && company.ID != "" {
		company.Name, _ = n.CompanyName(ctx, header, company.ID) // without it, pages show the id
	}
	if company.Name == "" && company.Same(known.Company()) {
		company.Name = known.CompanyName
	}
	return company
}

// identify records the company of a connection that has none yet, or whose company
// is unverified. The access token is that of the connection's credential. No
// request waits for it.
func (c *companies) identify(e *entry, accessToken credstore.Secret) {
	s := e.current.Load()
	known := !s.conn.Company().IsZero() && !s.conn.CompanyUnverified
	if c.API == nil || known || s.auth == nil {
		return
	}
	ctx, cancel := context.WithTimeout(c.life.ctx, readTimeout)
	defer cancel()
	identity, err := c.API.Introspect(ctx, s.auth.Value)
	found, err := c.complete(ctx, s.conn, s.auth.Value, accessToken, identity, err)
	if err != nil || found.company.IsZero() && !s.conn.CompanyUnverified {
		return // the next refresh tries again
	}
	c.record(ctx, e, found.company)
}

// record saves the company that the connection's credential belongs to, and brings
// the entry up to date.
func (c *companies) record(ctx context.Context, e *entry, company credstore.Company) {
	err := c.Store.SetCompany(ctx, e.id, company)
	if errors.Is(err, credstore.ErrCompanyBound) || errors.Is(err, credstore.ErrOtherCompany) {
		c.cache.logger(e).Error("disabled the connection: its credential belongs to a company that it must not have", zap.Error(err))
	}
	_ = c.cache.reread(ctx, e) // counted; the change notice reads again
}
