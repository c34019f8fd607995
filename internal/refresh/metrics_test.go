package refresh

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// What stops refreshes raises an alert.
func TestHealthMetrics(t *testing.T) {
	var (
		h        health
		restored bool
	)
	registry := prometheus.NewRegistry()
	h.register(registry, func() bool { return restored })
	wantGauges := func(detected, unusable, unwritable string) {
		t.Helper()
		err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP pleo_spool_unusable 1 while no refresh is started because the spool cannot be written.
# TYPE pleo_spool_unusable gauge
pleo_spool_unusable `+unusable+`
# HELP pleo_store_rollback_detected 1 while no refresh token is sent because the store is older than its high-water mark.
# TYPE pleo_store_rollback_detected gauge
pleo_store_rollback_detected `+detected+`
# HELP pleo_store_unwritable 1 while no refresh is started because the store cannot be written.
# TYPE pleo_store_unwritable gauge
pleo_store_unwritable `+unwritable+"\n"))
		if err != nil {
			t.Error(err)
		}
	}
	wantGauges("0", "0", "0")
	restored = true
	wantGauges("1", "0", "0")
	full := errors.New("the disk is full")
	restored = false
	h.spool.set(full)
	wantGauges("0", "1", "0")
	h.spool.set(nil)
	h.recordStore(fmt.Errorf("%w: %w", credstore.ErrUnavailable, full))
	wantGauges("0", "0", "1")
}

// The first rejection of a client must show in an increase.
func TestCountersStartAtZero(t *testing.T) {
	registry := prometheus.NewRegistry()
	newMetrics(registry)
	n, err := testutil.GatherAndCount(registry, "pleo_refreshes_total")
	if want := len(results()) * len(reasons()); err != nil || n != want {
		t.Errorf("a new process has %d series of pleo_refreshes_total, %v, want %d", n, err, want)
	}
}
