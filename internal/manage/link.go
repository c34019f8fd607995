package manage

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Link is a connect link.
type Link struct {
	URL       credstore.Secret // lets its bearer connect a company
	ExpiresAt time.Time
}

// Link returns a connect link: an existing one that can still be used for the same
// purpose, unless r.ReplaceExisting is set. A TTL of zero means the configured one.
// It returns [ErrReturnURL], [ErrNoLinks], or a *[NotPossibleError] for a connection
// whose key is in the configuration.
func (o *Operator) Link(ctx context.Context, c credstore.Connection, r credstore.LinkRequest) (Link, error) {
	if o.Links == nil {
		return Link{}, ErrNoLinks
	}
	if err := o.CheckReturnURL(r.ReturnURL); err != nil {
		return Link{}, err
	}
	url, link, err := o.Links.Issue(ctx, c.ID, r)
	return Link{URL: credstore.NewSecret(url), ExpiresAt: link.ExpiresAt}, err
}

// LinkNew returns a connect link for a connection that the caller has just created.
// It returns a zero Link if there are no pages for customers.
func (o *Operator) LinkNew(ctx context.Context, c credstore.Connection, r credstore.LinkRequest) (Link, error) {
	if o.Links == nil {
		return Link{}, nil
	}
	link, err := o.Link(ctx, c, r)
	if errors.Is(err, credstore.ErrNotFound) {
		return link, ErrRemovedMeanwhile
	}
	return link, err
}

// CheckReturnURL returns [ErrReturnURL] unless links may return to the URL, or it is
// empty.
func (o *Operator) CheckReturnURL(url string) error {
	if url == "" || slices.Contains(o.ReturnURLs, url) {
		return nil
	}
	return ErrReturnURL
}

// LinkStore stores connect links.
type LinkStore interface {
	OpenLink(ctx context.Context, id string, r credstore.LinkRequest) (credstore.Secret, credstore.Link, error)
}

// ConfigLinkStore is a LinkStore that makes no links for connections whose key is
// in the configuration: what a customer enters there would be lost at the next
// start. It returns a *[NotPossibleError] for them.
type ConfigLinkStore struct {
	LinkStore
	Store    Store
	InConfig func(name string) bool // nil: no key is in the configuration
}

// OpenLink returns a link, as [LinkStore] does.
func (s ConfigLinkStore) OpenLink(ctx context.Context, id string, r credstore.LinkRequest) (credstore.Secret, credstore.Link, error) {
	if s.InConfig != nil {
		state, err := s.Store.Read(ctx, id)
		if err == nil && s.InConfig(state.Connection.Name) {
			err = configKeyError(state.Connection.Name)
		}
		if err != nil {
			return credstore.Secret{}, credstore.Link{}, err
		}
	}
	return s.LinkStore.OpenLink(ctx, id, r)
}
