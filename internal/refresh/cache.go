package refresh

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// readTimeout bounds one call of the store on behalf of requests.
const readTimeout = 10 * time.Second

// cache holds an entry for each connection in use, and keeps it up to date with
// the store.
type cache struct {
	Config
	storeErrors prometheus.Counter

	byName  sync.Map // name → *entry
	byID    sync.Map // connection id → *entry
	loading singleflight.Group
	changes atomic.Int64 // counts the change notices
}

// get returns the entry of the connection with the id, nil if it is not in use.
func (c *cache) get(id string) *entry {
	if e, ok := c.byID.Load(id); ok {
		return e.(*entry)
	}
	return nil
}

// find returns the entry of the connection called name, and loads it on first use.
func (c *cache) find(ctx context.Context, name string) (*entry, error) {
	if e, ok := c.byName.Load(name); ok {
		return e.(*entry), nil
	}
	// The load is shared, so it must not end with the request that began it.
	load := c.loading.DoChan(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		defer cancel()
		return c.load(ctx, name)
	})
	select {
	case r := <-load:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*entry), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *cache) load(ctx context.Context, name string) (*entry, error) {
	before := c.changes.Load()
	conn, err := c.Store.Find(ctx, name)
	if err != nil {
		return nil, c.storeError(name, err)
	}
	state, err := c.Store.Read(ctx, conn.ID)
	if err != nil {
		return nil, c.storeError(name, err)
	}
	e := c.add(state)
	if c.changes.Load() == before {
		return e, nil
	}
	// The connection may have been changed or removed, with a notice that came before
	// there was an entry to update.
	return e, c.reread(ctx, e)
}

// add makes sure that the connection has an entry with the state.
func (c *cache) add(state credstore.State) *entry {
	fresh := &entry{id: state.Connection.ID}
	fresh.current.Store(fresh.snapshotOf(state, c.BeforeExpiry)) // no other goroutine may find it without
	found, loaded := c.byID.LoadOrStore(fresh.id, fresh)
	e := found.(*entry)
	c.install(e, state)
	// A first version was imported, and may have been used since where it came from.
	if !loaded && state.Credential.Version > 1 && e.current.Load().valid(c.Now()) {
		e.proven.Store(state.Credential.Version)
	}
	c.byName.Store(state.Connection.Name, e)
	return e
}

func (c *cache) install(e *entry, state credstore.State) {
	e.install(e.snapshotOf(state, c.BeforeExpiry))
}

// drop removes the entry of a connection that was removed.
func (c *cache) drop(e *entry) {
	c.byID.Delete(e.id)
	c.byName.CompareAndDelete(e.current.Load().conn.Name, e)
	e.remove()
}

// reread brings the entry up to date with the store. The error is an *[Error].
func (c *cache) reread(ctx context.Context, e *entry) error {
	_, err := c.read(ctx, e)
	return err
}

// read returns the stored state and brings the entry up to date with it.
func (c *cache) read(ctx context.Context, e *entry) (credstore.State, error) {
	state, err := c.Store.Read(ctx, e.id)
	if errors.Is(err, credstore.ErrNotFound) {
		c.drop(e)
	}
	if err == nil {
		err = c.saveLost(ctx, e, &state)
	}
	if err != nil {
		return state, c.storeError(e.current.Load().conn.Name, err)
	}
	c.install(e, state)
	return state, nil
}

// rereadNow is reread where no request waits.
func (c *cache) rereadNow(e *entry) error {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	return c.reread(ctx, e)
}

// saveLost saves the pair that this process obtained last if the store has lost
// it, which shows by its having the parent again, and brings the state up to date.
func (c *cache) saveLost(ctx context.Context, e *entry, state *credstore.State) error {
	lost := e.latest.Load()
	if lost == nil || lost.Parent != state.Credential.Parent() || e.current.Load().conn.Version <= state.Credential.Version {
		return nil
	}
	_, err := c.Store.Save(ctx, *lost)
	if err == nil {
		c.logger(e).Warn("saved a token pair again that the store had lost or not saved yet", zap.Int64("version", lost.Parent.Version+1))
		*state, err = c.Store.Read(ctx, e.id)
	}
	if errors.Is(err, credstore.ErrSuperseded) {
		return nil
	}
	return err
}

// saveAllLost does that for all connections, after a shared store lost changes.
func (c *cache) saveAllLost(ctx context.Context) {
	c.byID.Range(func(_, found any) bool {
		e := found.(*entry)
		if e.latest.Load() != nil {
			_ = c.reread(ctx, e) // counted; the next refresh tries again
		}
		return ctx.Err() == nil
	})
}

// storeError turns an error of the store into an *[Error], and counts it.
func (c *cache) storeError(name string, err error) error {
	if errors.Is(err, credstore.ErrNotFound) {
		return &Error{Code: ConnectionUnknown, Connection: name}
	}
	c.storeErrors.Inc()
	return &Error{Code: StoreUnavailable, Connection: name, RetryAfter: time.Second, Err: err}
}

func (c *cache) entryError(e *entry, err error) error {
	return c.storeError(e.current.Load().conn.Name, err)
}

// logger names the connection that a log line is about.
func (c *cache) logger(e *entry) *zap.Logger {
	return c.Logger.With(zap.String("connection", e.current.Load().conn.Name))
}
