package credstore_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// leaser is a store whose lease another process holds until a time.
type leaser struct {
	freeAt   time.Time
	err      error // of Read
	released bool
}

type lease struct {
	credstore.Lease
	store *leaser
}

func (l lease) Release() error {
	l.store.released = true
	return nil
}

func (s *leaser) Acquire(context.Context, string, string) (credstore.Lease, error) {
	if time.Now().Before(s.freeAt) {
		return nil, credstore.ErrBusy
	}
	return lease{store: s}, nil
}

func (s *leaser) Read(context.Context, string) (credstore.State, error) {
	return credstore.State{Connection: credstore.Connection{ID: "id-1"}}, s.err
}

func TestUnderLease(t *testing.T) {
	errWork, errRead := errors.New("work"), errors.New("read")
	tests := []struct {
		name    string
		busy    time.Duration
		readErr error
		workErr error
		want    error
		worked  bool
	}{
		{name: "free", worked: true},
		{name: "busy for a while", busy: time.Second, worked: true},
		{name: "busy for too long", busy: time.Hour, want: context.DeadlineExceeded},
		{name: "unreadable", readErr: errRead, want: errRead},
		{name: "error of the work", workErr: errWork, want: errWork, worked: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &leaser{freeAt: time.Now().Add(tt.busy), err: tt.readErr}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				worked := false
				err := credstore.UnderLease(ctx, store, "id-1", "test", func(_ context.Context, _ credstore.Lease, s credstore.State) error {
					worked = s.Connection.ID == "id-1" && !store.released
					return tt.workErr
				})
				if !errors.Is(err, tt.want) || worked != tt.worked {
					t.Errorf("UnderLease = %v, worked: %v; want %v, %v", err, worked, tt.want, tt.worked)
				}
				if acquired := tt.busy < time.Minute; store.released != acquired {
					t.Errorf("released: %v, want %v", store.released, acquired)
				}
			})
		})
	}
}
