package refresh

import (
	"context"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// lateSpool finds the empty record of a dead process during the introspection.
type lateSpool struct {
	Spool
	abandoned bool
}

func (s *lateSpool) Abandoned(credstore.Parent) bool { return s.abandoned }

// lateServer calls every token inactive, and takes until the spool has been replayed.
type lateServer struct {
	AuthorizationServer
	spool *lateSpool
}

func (s lateServer) Active(context.Context, credstore.Secret, string) (bool, error) {
	s.spool.abandoned = true
	return false, nil
}

type noFacts struct{}

func (noFacts) Fact(context.Context, string) (string, error)  { return "", nil }
func (noFacts) SetFact(context.Context, string, string) error { return nil }

// Whether an owner may still bring the successor is decided after the introspection,
// not with what was known before it.
func TestOwnerFoundDeadDuringIntrospectionIsNotWaitedFor(t *testing.T) {
	spool := &lateSpool{}
	c := Config{Spool: spool}.withDefaults()
	r := &refresher{core: newCore(c), introspection: &introspection{server: lateServer{spool: spool}, facts: noFacts{}}}
	e := &entry{id: "acme"}
	e.current.Store(&snapshot{})
	intent := &credstore.Intent{Outcome: credstore.OutcomePending, At: time.Now().Add(-2 * responseTimeout)}
	done, err := r.checkSuccessor(t.Context(), leased{entry: e, state: credstore.State{Intent: intent}})
	if done || err != nil {
		t.Errorf("checkSuccessor = %v, %v; want false, nil: the token may be sent", done, err)
	}
}
