package connect

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// LinkStore makes links, as [credstore.Store] does.
type LinkStore interface {
	OpenLink(ctx context.Context, id string, r credstore.LinkRequest) (credstore.Secret, credstore.Link, error)
}

// LinkIssuer makes connect links. Its methods may be called by several goroutines at
// once.
type LinkIssuer struct {
	store      LinkStore
	publicURL  *url.URL
	ttl        time.Duration
	returnURLs []string
	now        func() time.Time

	opening singleflight.Group

	mu    sync.Mutex             // guards known
	cache map[linkKey]cachedLink // what Link returned lately
}

// linkKey is what there is one link for: a link ends with it.
type linkKey struct {
	connection string // id
	version    int64
}

type cachedLink struct {
	url   string
	until time.Time // when the store is to be asked again
}

// LinkIssuerConfig is what a [LinkIssuer] is made of.
type LinkIssuerConfig struct {
	Store      LinkStore        // required
	PublicURL  *url.URL         // where browsers reach the pages; nil: there are no links
	TTL        time.Duration    // how long a link can be used; 0: 7 days
	ReturnURLs []string         // where links may lead back to
	Now        func() time.Time // nil: time.Now
}

const defaultTTL = 7 * 24 * time.Hour

// NewLinkIssuer returns the Linker of c.
func NewLinkIssuer(c LinkIssuerConfig) *LinkIssuer {
	if c.TTL == 0 {
		c.TTL = defaultTTL
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &LinkIssuer{
		store: c.Store, publicURL: c.PublicURL, ttl: c.TTL, returnURLs: c.ReturnURLs, now: c.Now,
		cache: map[linkKey]cachedLink{},
	}
}

// Reason no link can be made.
var (
	// ErrNoPublicURL: there are no pages for a link to lead to.
	ErrNoPublicURL = errors.New("there are no connect links without connect.public_url; set it to where browsers reach the connect listener")
	// ErrReturnURL: the link may not lead back to where it was asked to.
	ErrReturnURL = errors.New("the return URL is not one of connect.return_urls")
)

// Issue returns a link for somebody to send to a customer, and when it ends: one
// that is there only while half of its time is left. The link's TTL is the
// configured one unless r has another. Errors are ErrNoPublicURL, ErrReturnURL and
// those of the store. The address is a secret until it is used: whoever has it
// can connect a company.
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
	if r.ReturnURL != "" && !slices.Contains(l.returnURLs, r.ReturnURL) {
		return "", credstore.Link{}, ErrReturnURL
	}
	token, link, err := l.store.OpenLink(ctx, id, r)
	if err != nil {
		return "", credstore.Link{}, fmt.Errorf("opening a connect link: %w", err)
	}
	return l.publicURL.JoinPath(linkPath, token.Reveal()).String(), link, nil
}

// linkCacheRetention is how long Link repeats itself without asking the store: clients in
// a loop ask often.
const linkCacheRetention = 10 * time.Second

// maxCachedLinks is how many links are remembered for that.
const maxCachedLinks = 4096

// Link returns the link by which a person can mend the connection with the id,
// whose credential has the version: the same one until it is used or expires.
func (l *LinkIssuer) Link(ctx context.Context, id string, version int64) (string, error) {
	c := linkKey{id, version}
	if link, ok := l.cached(c); ok {
		return link, nil
	}
	found, err, _ := l.opening.Do(fmt.Sprint(c), func() (any, error) {
		link, _, err := l.issue(ctx, id, credstore.LinkRequest{TTL: l.ttl})
		if err == nil {
			l.addToCache(c, link)
		}
		return link, err
	})
	if err != nil {
		return "", err
	}
	return found.(string), nil
}

func (l *LinkIssuer) cached(c linkKey) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k, ok := l.cache[c]
	return k.url, ok && l.now().Before(k.until)
}

func (l *LinkIssuer) addToCache(c linkKey, link string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.cache) >= maxCachedLinks {
		clear(l.cache)
	}
	l.cache[c] = cachedLink{url: link, until: l.now().Add(linkCacheRetention)}
}
