package connect

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	defaultTTL = 7 * 24 * time.Hour
	// linkCacheRetention is how long Link returns the same link without reading the
	// store: clients that retry call it often.
	linkCacheRetention = 10 * time.Second
	maxCachedLinks     = 4096
)

// ErrNoPublicURL means that there are no connect pages.
var ErrNoPublicURL = errors.New("connect links need connect.public_url: set it to the URL at which browsers reach the connect listener")

// LinkStore is the part of the credential store that creates links.
type LinkStore interface {
	OpenLink(ctx context.Context, id string, r credstore.LinkRequest) (credstore.Secret, credstore.Link, error)
}

// LinkIssuerConfig configures a [LinkIssuer].
type LinkIssuerConfig struct {
	Store     LinkStore        // required
	PublicURL *url.URL         // of the pages for browsers; nil means that there are no links
	TTL       time.Duration    // the lifetime of a link; 0 means 7 days
	Now       func() time.Time // nil means time.Now
}

// LinkIssuer creates connect links. It is safe for concurrent use.
type LinkIssuer struct {
	store     LinkStore
	publicURL *url.URL
	ttl       time.Duration
	now       func() time.Time

	opening singleflight.Group

	mu    sync.Mutex // guards cache
	cache map[linkKey]cachedLink
}

// linkKey identifies a credential: each has one link at a time.
type linkKey struct {
	connection string // id
	version    int64
}

type cachedLink struct {
	url   string
	until time.Time
}

// NewLinkIssuer returns the LinkIssuer of c.
func NewLinkIssuer(c LinkIssuerConfig) *LinkIssuer {
	if c.TTL == 0 {
		c.TTL = defaultTTL
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &LinkIssuer{
		store: c.Store, publicURL: c.PublicURL, ttl: c.TTL, now: c.Now,
		cache: map[linkKey]cachedLink{},
	}
}

// Issue returns the URL of a link to send to a customer. It returns an existing link
// if at least half of its lifetime is left. r.TTL overrides the configured lifetime.
// Errors are ErrNoPublicURL and those of the store. The caller checks r.ReturnURL.
//
// The URL is a secret until the link is used: with it anyone can connect a company.
func (l *LinkIssuer) Issue(ctx context.Context, id string, r credstore.LinkRequest) (string, credstore.Link, error) {
	if r.TTL == 0 {
		r.TTL = l.ttl
	}
	r.MinRemaining = r.TTL / 2
	return l.issue(ctx, id, r)
}

func (l *LinkIssuer) issue(ctx context.Context, id string, r credstore.LinkRequest) (string, credstore.Link, error) {
	if l.publicURL == nil {
		return "", credstore.Link{}, ErrNoPublicURL
	}
	token, link, err := l.store.OpenLink(ctx, id, r)
	if err != nil {
		return "", credstore.Link{}, fmt.Errorf("creating a connect link: %w", err)
	}
	return l.publicURL.JoinPath(linkPath, token.Reveal()).String(), link, nil
}

// Link returns the URL of the link for error responses about the connection with the
// id, whose credential has the version. It returns the same link until that is used
// or expires.
func (l *LinkIssuer) Link(ctx context.Context, id string, version int64) (string, error) {
	key := linkKey{id, version}
	if link, ok := l.cached(key); ok {
		return link, nil
	}
	found, err, _ := l.opening.Do(fmt.Sprint(key), func() (any, error) {
		link, _, err := l.issue(ctx, id, credstore.LinkRequest{TTL: l.ttl})
		if err == nil {
			l.addToCache(key, link)
		}
		return link, err
	})
	if err != nil {
		return "", err
	}
	return found.(string), nil
}

func (l *LinkIssuer) cached(key linkKey) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.cache[key]
	return c.url, ok && l.now().Before(c.until)
}

func (l *LinkIssuer) addToCache(key linkKey, link string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.cache) >= maxCachedLinks {
		clear(l.cache)
	}
	l.cache[key] = cachedLink{url: link, until: l.now().Add(linkCacheRetention)}
}
