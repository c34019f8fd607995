package manage

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

// Add creates a connection. Unless offline, it asks the API which company the
// credential belongs to. A credential that the API does not accept is stored all
// the same: the warning then says so.
//
// It returns an *[InvalidError], and a *[credstore.OtherCompanyError] if the
// credential belongs to another company than the one that n names.
func (o *Operator) Add(ctx context.Context, n credstore.NewConnection, offline bool) (c credstore.Connection, warning string, err error) {
	return o.adder(offline).add(ctx, n)
}

// Create creates a connection without a credential. It is idempotent: if there
// already is the same connection, as after a response that was lost, it returns
// that one and created is false. It returns an *[InvalidError], an *[ExistsError] or
// [ErrRemovedMeanwhile].
func (o *Operator) Create(ctx context.Context, n credstore.NewConnection) (c credstore.Connection, created bool, err error) {
	if err := Validate(n); err != nil {
		return c, false, err
	}
	c, err = o.Store.Create(ctx, n)
	if !errors.Is(err, credstore.ErrNameTaken) {
		return c, err == nil, err
	}
	existing, findErr := o.Store.Find(ctx, n.Name)
	var conflict *credstore.ConflictError
	switch {
	case errors.Is(findErr, credstore.ErrNotFound) && errors.As(err, &conflict) && conflict.With == n.Name:
		return c, false, ErrRemovedMeanwhile
	case errors.Is(findErr, credstore.ErrNotFound): // another name, which differs by case only
		return c, false, err
	case findErr != nil:
		return c, false, findErr
	case existing.Kind != n.Kind || existing.ExternalTenant != n.ExternalTenant:
		return c, false, &ExistsError{n.Name, "with another kind or external tenant"}
	case n.SharedCompany && !existing.SharedCompany:
		return c, false, &ExistsError{n.Name, "that was created without allow_shared_company: set it on the link or key that connects it"}
	}
	return existing, false, nil
}

var companyID = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// Validate returns an *[InvalidError] if n cannot be created.
func Validate(n credstore.NewConnection) error {
	for _, err := range []error{n.Validate(), credstore.ValidateTenant(n.ExternalTenant)} {
		if err != nil {
			return invalid("%v", err)
		}
	}
	if n.Company.ID != "" && !companyID.MatchString(n.Company.ID) {
		return invalid("the company id is not a UUID")
	}
	c := n.Credential
	if c == nil {
		return nil
	}
	if n.Kind == credstore.OAuth && c.RefreshToken.IsZero() {
		return invalid("a connection of kind oauth needs a refresh token")
	}
	if !c.APIKey.Sendable() || !c.RefreshToken.Sendable() || !c.AccessToken.Sendable() {
		return ErrNotSendable
	}
	return nil
}

// ErrNotSendable means that a token or key has characters that no header field can
// carry, so it cannot be one of Pleo's.
var ErrNotSendable = &InvalidError{Reason: "the token or key contains spaces, control characters or characters that are not ASCII, so it cannot be one of Pleo's"}

// maxUnreachable is how often in a row the API may be unreachable before an adder
// stops asking it: a long import must not wait for a timeout at every line.
const maxUnreachable = 3

// adder creates connections one after another, each with the company that its
// credential belongs to as far as the API says.
type adder struct {
	store Store
	api   API // nil: the API is not asked
	now   func() time.Time

	unreachable int // how often in a row the API could not be reached
}

func (o *Operator) adder(offline bool) *adder {
	a := &adder{store: o.Store, now: o.now}
	if !offline {
		a.api = o.API
	}
	return a
}

func (a *adder) add(ctx context.Context, n credstore.NewConnection) (c credstore.Connection, warning string, err error) {
	if err := Validate(n); err != nil {
		return c, "", err
	}
	if warning, err = a.identify(ctx, &n); err != nil {
		return c, "", err
	}
	c, err = a.store.Create(ctx, n)
	return c, warning, err
}

// identify sets the company of n to the one that the API returns. If the API does
// not return one, the warning says why. A company other than the given one is an
// error: the credential has then been mixed up with another one.
func (a *adder) identify(ctx context.Context, n *credstore.NewConnection) (warning string, err error) {
	authorization := a.authorization(n)
	if authorization.IsZero() || a.api == nil {
		return "", nil
	}
	if a.unreachable >= maxUnreachable {
		return "the API was not asked for the company, since it could not be reached before", nil
	}
	identity, err := a.api.Introspect(ctx, authorization)
	a.countUnreachable(err)
	if errors.Is(err, pleo.ErrUnauthorized) {
		return "the API does not accept the credential, so the company is not known", nil
	}
	if err != nil {
		return fmt.Sprintf("the company is not known: %v", err), nil
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

// authorization returns the header value to ask the API with, or a zero Secret if
// the credential has none that can still be valid.
func (a *adder) authorization(n *credstore.NewConnection) credstore.Secret {
	c := n.Credential
	if c == nil || !c.ExpiresAt.IsZero() && !c.ExpiresAt.After(a.now()) {
		return credstore.Secret{}
	}
	return pleo.AuthorizationHeader(n.Kind, credstore.Credential{AccessToken: c.AccessToken, APIKey: c.APIKey})
}

func (a *adder) countUnreachable(err error) {
	var status *pleo.StatusError
	if err == nil || errors.Is(err, pleo.ErrUnauthorized) || errors.As(err, &status) {
		a.unreachable = 0
		return
	}
	a.unreachable++
}
