package rollback

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	// CheckInterval is how often the store is compared with its mark.
	CheckInterval = 2 * time.Second
	// sharedCheckInterval is the same for a shared store in order: there a refresh
	// compares before it sends a token (see Guard.Recheck).
	sharedCheckInterval = 2 * time.Minute
)

// Config is what a [Guard] needs. All fields but Shared are required.
type Config struct {
	Mark  *Mark
	Store Store
	// Shared says that other processes use the store too. Such a store is accepted
	// at once when it has lost changes, as one does that fails over to a lagging
	// replica: each token in it is introspected before it is sent.
	Shared bool

	Now    func() time.Time
	Logger *zap.Logger
	// OnLoss is called after a shared store that lost changes was accepted.
	OnLoss func(context.Context)
	// OnStoreError is called when the store cannot be read or written.
	OnStoreError func()
}

// Guard compares a store with its high-water mark while a process runs, and keeps
// the mark up to date. Its methods may be called by several goroutines at once. A
// nil Guard detects nothing.
type Guard struct {
	Config

	detected atomic.Bool               // the store waits to be accepted
	mark     atomic.Pointer[position]  // as written last; nil before the first comparison
	accepted atomic.Pointer[time.Time] // when a restored store was accepted; nil: never

	compared signal // the store was compared with its mark once
	trusted  signal // the store does not wait to be accepted
}

// signal is a channel that is closed at most once.
type signal struct {
	once sync.Once
	done chan struct{}
}

func (s *signal) set() { s.once.Do(func() { close(s.done) }) }

// NewGuard returns a Guard, which does nothing before Run is called.
func NewGuard(c Config) *Guard {
	g := &Guard{Config: c}
	g.compared.done, g.trusted.done = make(chan struct{}), make(chan struct{})
	return g
}

// Run compares the store with its mark and raises the mark until ctx ends. It
// returns ctx's error.
func (g *Guard) Run(ctx context.Context) error {
	if g == nil {
		return nil
	}
	for {
		interval := CheckInterval
		if g.check(ctx) == nil && g.Shared {
			interval = sharedCheckInterval
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Detected reports whether the store is below its mark and waits to be accepted.
func (g *Guard) Detected() bool { return g != nil && g.detected.Load() }

// Compared returns a channel that is closed when the store has been compared with
// its mark.
func (g *Guard) Compared() <-chan struct{} {
	if g == nil {
		return closed()
	}
	return g.compared.done
}

// Trusted returns a channel that is closed when the store is known not to be below
// its mark, or to be accepted.
func (g *Guard) Trusted() <-chan struct{} {
	if g == nil {
		return closed()
	}
	return g.trusted.done
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// SuspectSince returns when the restored store was accepted that a token obtained
// at the time comes from. It returns the zero time if it comes from none.
func (g *Guard) SuspectSince(obtained time.Time) time.Time {
	if g == nil {
		return time.Time{}
	}
	if at := g.accepted.Load(); at != nil && obtained.Before(*at) {
		return *at
	}
	return time.Time{}
}

// Recheck is called before a token is sent: a shared store may have failed over a
// moment ago. The error says that the store could not be read.
func (g *Guard) Recheck(ctx context.Context) error {
	if g == nil || !g.Shared {
		return nil
	}
	now, err := positionOf(ctx, g.Store)
	if err != nil {
		return err
	}
	if mark := g.mark.Load(); mark == nil || mark.Store != now.Store || mark.Change > now.Change {
		_ = g.check(ctx) // its result is in Detected and SuspectSince
	}
	return nil
}

// check compares the store with its mark and acts on the result. It returns nil if
// the store is in order.
func (g *Guard) check(ctx context.Context) error {
	now, err := g.Mark.compare(ctx, g.Store)
	if errors.Is(err, ErrRestored) && g.Shared {
		now, err = g.acceptLoss(ctx, err)
	}
	if err == nil {
		err = g.trust(ctx)
	}
	if err == nil {
		err = g.raise(now)
	}
	if err != nil {
		g.handle(ctx, err)
	}
	return err
}

// acceptLoss accepts a shared store that lost changes.
func (g *Guard) acceptLoss(ctx context.Context, cause error) (now position, err error) {
	g.Logger.Error("the store has lost changes or failed over; every refresh token is introspected before it is sent", zap.Error(cause))
	if err := g.Mark.Accept(ctx, g.Store, g.Now()); err != nil {
		return now, err
	}
	now, err = positionOf(ctx, g.Store)
	if err == nil {
		g.OnLoss(ctx)
	}
	return now, err
}

// trust lets refreshes continue, with tokens of a restored store as suspects.
func (g *Guard) trust(ctx context.Context) error {
	accepted, err := g.Store.Fact(ctx, factAccepted)
	if err != nil {
		return err
	}
	if at, err := time.Parse(time.RFC3339Nano, accepted); err == nil {
		g.accepted.Store(&at)
	}
	if g.detected.Swap(false) {
		g.Logger.Info("the restored store was accepted")
	}
	g.compared.set()
	g.trusted.set()
	return nil
}

// raise writes how far the store has come, if it has come further.
func (g *Guard) raise(now position) error {
	if mark := g.mark.Load(); mark != nil && *mark == now {
		return nil
	}
	if err := g.Mark.write(now); err != nil {
		return err
	}
	g.mark.Store(&now)
	return nil
}

// handle acts on a store that is below its mark, and on a mark that cannot be read
// or written: that stops no refresh. A store that is unavailable decides nothing.
func (g *Guard) handle(ctx context.Context, err error) {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, credstore.ErrUnavailable):
	case errors.Is(err, ErrRestored):
		if !g.detected.Swap(true) {
			g.Logger.Error("rollback detected: no refresh token is sent until the store is accepted", zap.Error(err))
		}
		g.recordDetected(ctx)
		g.compared.set()
	default:
		g.Logger.Error("cannot update the high-water mark of the store", zap.Error(err), zap.String("file", g.Mark.path()))
		g.compared.set()
		g.trusted.set()
	}
}

// recordDetected makes the store itself remember that it waits to be accepted.
func (g *Guard) recordDetected(ctx context.Context) {
	detected, err := g.Store.Fact(ctx, factDetected)
	if err == nil && detected == "" {
		err = g.Store.SetFact(ctx, factDetected, g.Now().UTC().Format(time.RFC3339Nano))
	}
	if err != nil && ctx.Err() == nil {
		g.OnStoreError() // the next check tries again
	}
}
