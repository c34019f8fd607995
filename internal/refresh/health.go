package refresh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// health tracks what keeps refreshes from being started or saved.
type health struct {
	server lastError // of sending a refresh token
	spool  lastError // of reserving a spool record
	store  lastError // of recording a refresh

	unsaved atomic.Int64 // token pairs of this process that the store has not saved
	gauge   prometheus.Gauge
}

// lastError is the error of the latest attempt, nil if that succeeded.
type lastError struct{ p atomic.Pointer[error] }

func (l *lastError) set(err error) { l.p.Store(&err) }

func (l *lastError) get() error {
	if err := l.p.Load(); err != nil {
		return *err
	}
	return nil
}

// recordServer records how the authorization server responded to a token.
func (h *health) recordServer(err error) {
	var response *pleo.ResponseError
	if errors.As(err, &response) && response.Class != pleo.RateLimited {
		err = nil
	}
	h.server.set(err)
}

// recordStore records whether the store could be written. One that cannot may
// well be readable: its disk is full, or another process blocks it.
func (h *health) recordStore(err error) {
	if !errors.Is(err, credstore.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	h.store.set(err)
}

// addUnsaved changes the number of unsaved token pairs.
func (h *health) addUnsaved(change int) {
	h.unsaved.Add(int64(change))
	h.gauge.Add(float64(change))
}

// check returns what an operator must know about the spool and the store.
func (h *health) check() error {
	var errs []error
	if n := h.unsaved.Load(); n > 0 {
		errs = append(errs, fmt.Errorf("%d new token pairs are not saved in the store yet", n))
	}
	if err := cmp.Or(h.spool.get(), h.store.get()); err != nil {
		errs = append(errs, fmt.Errorf("no token is refreshed: %w", err))
	}
	return errors.Join(errs...)
}

// register registers gauges of what stops refreshes.
func (h *health) register(r prometheus.Registerer, restored func() bool) {
	if r == nil {
		return
	}
	gauge := func(name, help string, on func() bool) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			if on() {
				return 1
			}
			return 0
		})
	}
	r.MustRegister(
		gauge("pleo_store_rollback_detected", "1 while no refresh token is sent because the store is older than its high-water mark.", restored),
		gauge("pleo_spool_unusable", "1 while no refresh is started because the spool cannot be written.",
			func() bool { return h.spool.get() != nil }),
		gauge("pleo_store_unwritable", "1 while no refresh is started because the store cannot be written.",
			func() bool { return h.store.get() != nil }),
	)
}
