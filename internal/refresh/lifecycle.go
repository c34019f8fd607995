package refresh

import (
	"context"
	"sync"
	"time"
)

// lifecycle counts the work that must be done before the process may exit.
type lifecycle struct {
	mu       sync.Mutex     // guards draining, and running against Add after Wait
	draining bool           // no work is started any more
	running  sync.WaitGroup // until what it obtained is saved

	ctx    context.Context // ends when the process gives up on background work
	giveUp context.CancelFunc
}

func newLifecycle() *lifecycle {
	l := &lifecycle{}
	l.ctx, l.giveUp = context.WithCancel(context.Background())
	return l
}

// run runs f in a goroutine that drain waits for. It reports false, and does not
// run f, if the process is draining.
func (l *lifecycle) run(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.draining {
		return false
	}
	l.running.Go(f)
	return true
}

// drain lets no work start any more and waits for the work that is running. When
// ctx ends, work that waits for an unavailable store is given up, except for the
// only copy of a token pair.
func (l *lifecycle) drain(ctx context.Context) error {
	l.mu.Lock()
	l.draining = true
	l.mu.Unlock()
	stop := context.AfterFunc(ctx, l.giveUp)
	defer stop()
	l.running.Wait()
	l.giveUp()
	return ctx.Err()
}

// detached runs the work so that it continues when ctx ends, and so that the
// process waits for it. It returns the result of the work, or ctx's error.
func detached[T any](ctx context.Context, l *lifecycle, work func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var zero T
	done := make(chan result, 1)
	started := l.run(func() {
		value, err := work(context.WithoutCancel(ctx)) // it still names the actor
		done <- result{value, err}
	})
	if !started {
		return zero, &Error{Code: ShuttingDown, RetryAfter: time.Second}
	}
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return zero, ctx.Err()
	}
}

// await waits until done is closed, or returns ctx's error.
func await(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pause waits for the duration, or returns ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
