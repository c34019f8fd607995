package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// introspector tells whom a credential belongs to, as [pleo.API] does.
type introspector interface {
	Introspect(ctx context.Context, authorization credstore.Secret) (pleo.Identity, error)
}

// importer puts new connections into the store, with the company that their
// credential belongs to where that can be learned.
type importer struct {
	store credstore.Store
	api   introspector // nil: nobody is asked
	now   func() time.Time

	unreachable int // how often in a row the API could not be reached
}

// maxUnreachable unanswered questions to stop asking: a long import must not wait for
// a timeout at every line.
const maxUnreachable = 3

// create creates the connection. The warning says what is worth knowing although
// it was created; the error, why it was not.
func (in *importer) create(ctx context.Context, n credstore.NewConnection) (c credstore.Connection, warning string, err error) {
	if err := checkNewConnection(n); err != nil {
		return credstore.Connection{}, "", err
	}
	warning, err = in.identify(ctx, &n)
	if err != nil {
		return credstore.Connection{}, "", err
	}
	c, err = in.store.Connections.Create(ctx, n)
	if err != nil {
		return credstore.Connection{}, "", err
	}
	return c, warning, nil
}

var companyPattern = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// checkNewConnection says what is wrong with n, without anything secret.
func checkNewConnection(n credstore.NewConnection) error {
	if !credstore.ValidName(n.Name) {
		return errors.New("the name is not usable: it takes 1 to 128 letters, digits and . _ ~ : -, the first a letter or a digit")
	}
	if n.Company.ID != "" && !companyPattern.MatchString(n.Company.ID) {
		return errors.New("the company id is not a UUID")
	}
	if err := credstore.ValidateTenant(n.ExternalTenant); err != nil {
		return err
	}
	return checkCredential(n.Kind, n.Credential)
}

func checkCredential(kind credstore.Kind, c *credstore.NewCredential) error {
	if c == nil {
		return nil
	}
	hasKey, hasRefresh, hasAccess := !c.APIKey.IsZero(), !c.RefreshToken.IsZero(), !c.AccessToken.IsZero()
	switch {
	case kind.IsKey() && (hasRefresh || hasAccess):
		return fmt.Errorf("a connection of kind %s has an API key and no tokens", kind)
	case kind.IsKey() && !hasKey:
		return fmt.Errorf("a connection of kind %s needs an API key", kind)
	case !kind.IsKey() && hasKey:
		return errors.New("a connection of kind oauth has tokens and no API key")
	case !kind.IsKey() && !hasRefresh:
		return errors.New("a connection of kind oauth needs a refresh token")
	}
	for _, secret := range []credstore.Secret{c.APIKey, c.RefreshToken, c.AccessToken} {
		if !secret.Sendable() {
			return errNotSendable
		}
	}
	return nil
}

var errNotSendable = errors.New("a token or key holds spaces, control characters or other than ASCII, so it cannot be one of Pleo's")

// identify learns the company of n from the API. What the API cannot say is a
// warning; a company other than the one that was given is an error, since the
// credential has then been mixed up with another one.
func (in *importer) identify(ctx context.Context, n *credstore.NewConnection) (warning string, err error) {
	authorization := in.authorizationOf(n)
	if authorization.IsZero() || in.api == nil {
		return "", nil
	}
	if in.unreachable >= maxUnreachable {
		return "the API was not asked for the company, since it could not be reached before", nil
	}
	identity, err := in.api.Introspect(ctx, authorization)
	in.count(err)
	if errors.Is(err, pleo.ErrUnauthorized) {
		return "the API does not accept the credential, so the company is not known", nil
	}
	if err != nil {
		return fmt.Sprintf("the API did not tell the company: %v", err), nil
	}
	if n.Company.ID != "" && identity.CompanyID != "" && !strings.EqualFold(n.Company.ID, identity.CompanyID) {
		return "", &credstore.OtherCompanyError{Have: n.Company, Got: credstore.Company{ID: identity.CompanyID}}
	}
	if identity.CompanyID != "" {
		n.Company.ID = identity.CompanyID
	}
	n.Company.Subject, n.Scope = identity.Subject, identity.Scope
	return "", nil
}

// authorizationOf returns what to ask the API with; nothing when there is none
// that can be good now.
func (in *importer) authorizationOf(n *credstore.NewConnection) credstore.Secret {
	c := n.Credential
	if c == nil || !c.ExpiresAt.IsZero() && !c.ExpiresAt.After(in.now()) {
		return credstore.Secret{}
	}
	return pleo.AuthorizationHeader(n.Kind, credstore.Credential{AccessToken: c.AccessToken, APIKey: c.APIKey})
}

// count keeps track of an API that is away.
func (in *importer) count(err error) {
	var answered *pleo.StatusError
	if err == nil || errors.Is(err, pleo.ErrUnauthorized) || errors.As(err, &answered) {
		in.unreachable = 0
		return
	}
	in.unreachable++
}
