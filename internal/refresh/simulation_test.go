package refresh

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

// The protocol as a model: the real refresh code of several processes runs in a
// bubble of virtual time, where every call to the store, the spool and the
// authorization server waits for a scheduler that lets one continue at a time,
// chosen by a seed. The scheduler also makes calls fail, loses responses,
// crashes processes and starts new ones, lets time pass, and sends requests.
// After each step it checks the invariants (see check).

var (
	schedules = flag.Int("schedules", 100, "how many schedules the simulation runs")
	firstSeed = flag.Uint64("seed", 1, "seed of the simulation's first schedule")
)

func TestSimulation(t *testing.T) {
	for seed := *firstSeed; seed < *firstSeed+uint64(*schedules); seed++ {
		simulate(t, seed)
	}
}

// simulate runs one schedule and, if it fails, prints how to repeat it.
func simulate(t *testing.T, seed uint64) {
	s := &sim{rng: rand.New(rand.NewPCG(seed, 0))}
	passed := false
	defer func() {
		if !passed { // a failure in the bubble ends the test
			t.Logf("run it alone with: go test -run TestSimulation ./internal/refresh -args -seed %d -schedules 1\n%s",
				seed, strings.Join(s.trace, "\n"))
		}
	}()
	synctest.Test(t, func(t *testing.T) { s.run(t) })
	passed = true
}

const (
	simProcesses   = 3
	simConnections = 2
	simSteps       = 120
)

// sim is one schedule.
type sim struct {
	t      *testing.T
	rng    *rand.Rand
	faults float64 // the probability that a call fails
	trace  []string

	replicas bool // leases end by a clock, while their owners are paused or cut off

	data    *memory
	server  *simServer
	spools  []*simDisk // one per machine; a restarted process finds its own again
	procs   []*simProcess
	conns   []credstore.Connection
	pending []*simCall // guarded by data.mu, as are serial and the spools
	serial  int
	waiting atomic.Int32 // requests in progress
}

// simCall is one call that waits for the scheduler.
type simCall struct {
	p      *simProcess
	op, id string
	serial int
	let    chan simFate
}

// simFate is what the scheduler lets happen to a call.
type simFate int

const (
	simOK   simFate = iota
	simFail         // it fails and has no effect
	simLose         // it takes effect and its response is lost
)

var errSimulated = errors.New("made to fail")

// run runs the schedule in a bubble.
func (s *sim) run(t *testing.T) {
	s.t, s.data = t, newMemory()
	s.faults = []float64{0, 0.05, 0.3}[s.rng.IntN(3)]
	s.replicas = s.rng.IntN(2) == 0
	s.server = newSimServer(s)
	// An authorization server whose introspection has never been seen to work
	// is not trusted, and then a spool that is not replayed for ten minutes
	// cannot be waited for: that is by design, so the model starts calibrated.
	s.data.facts[factIntrospectionTrusted] = "yes"
	for i := range simConnections {
		s.conns = append(s.conns, s.server.connect(fmt.Sprintf("c%d", i)))
	}
	for i := range simProcesses {
		s.spools = append(s.spools, &simDisk{records: map[credstore.Parent]*simRecord{}})
		s.procs = append(s.procs, s.start(i))
	}
	for range simSteps {
		s.act()
	}
	s.finish()
}

// act performs one step of the schedule.
func (s *sim) act() {
	synctest.Wait()
	switch r := s.rng.IntN(100); {
	case r < 60 && s.queued() > 0:
		s.release(s.rng.IntN(s.queued()), s.fate())
	case r < 80:
		s.request()
	case r < 82:
		s.operate()
	case r < 87:
		s.crashOrStart(s.rng.IntN(len(s.procs)))
	case r < 92 && s.replicas:
		s.endLease(s.conns[s.rng.IntN(len(s.conns))])
	default:
		waits := []time.Duration{time.Millisecond, 30 * time.Millisecond, time.Second, 65 * time.Second, 11 * time.Minute}
		wait := waits[s.rng.IntN(len(waits))]
		s.note("time passes: %v", wait)
		time.Sleep(wait)
	}
	synctest.Wait()
	s.check()
}

// queued is how many calls wait for the scheduler.
func (s *sim) queued() int {
	s.data.mu.Lock()
	defer s.data.mu.Unlock()
	return len(s.pending)
}

// crashOrStart changes whether the machine's process runs: one that has crashed
// stays down for a while.
func (s *sim) crashOrStart(machine int) {
	if s.procs[machine].hasCrashed() {
		s.procs[machine] = s.start(machine)
		return
	}
	s.crash(machine)
}

// endLease ends the lease on a connection while its owner is running. Not while the
// owner is about to send: it has just checked the remaining lease, and no proxy can
// know how long a token is in transit.
func (s *sim) endLease(conn credstore.Connection) {
	s.data.mu.Lock()
	defer s.data.mu.Unlock()
	sending := slices.ContainsFunc(s.pending, func(c *simCall) bool { return c.op == "send" && c.id == conn.ID })
	r := s.data.rows[conn.ID]
	if r.lease == nil || sending {
		return
	}
	s.note("the lease of %s on %s ends", r.lease.owner, conn.Name)
	r.lease = nil
}

// operate is an operator's request, which may come at any time.
func (s *sim) operate() {
	conn, store := s.conns[s.rng.IntN(len(s.conns))], &memoryStore{memory: s.data}
	s.note("operator: refresh %s", conn.Name)
	err := store.RetryRejected(context.Background(), conn.ID, time.Now())
	if errors.Is(err, credstore.ErrNotRejected) {
		err = store.RequestRefresh(context.Background(), conn.ID, time.Now())
	}
	if err != nil {
		s.t.Error(err)
	}
}

func (s *sim) fate() simFate {
	if s.rng.Float64() >= s.faults {
		return simOK
	}
	return simFail + simFate(s.rng.IntN(2))
}

func (s *sim) note(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf("%3d ", len(s.trace))+fmt.Sprintf(format, args...))
}

// release lets a pending call continue.
func (s *sim) release(i int, fate simFate) {
	c := s.take(i)
	s.note("%s: %s %s %s", c.p.name, c.op, c.id, [...]string{"", "fails", "loses its response"}[fate])
	c.let <- fate
}

// take removes the i-th pending call, in an order that does not depend on the
// machine.
func (s *sim) take(i int) *simCall {
	s.data.mu.Lock()
	defer s.data.mu.Unlock()
	slices.SortFunc(s.pending, func(a, b *simCall) int {
		return cmp.Or(cmp.Compare(a.p.name, b.p.name), cmp.Compare(a.op, b.op), cmp.Compare(a.id, b.id), cmp.Compare(a.serial, b.serial))
	})
	c := s.pending[i]
	s.pending = slices.Delete(s.pending, i, i+1)
	return c
}

// finish ends the faults, lets all calls continue, and checks the result.
func (s *sim) finish() {
	s.note("the faults end")
	s.faults = 0
	for i, p := range s.procs {
		if p.hasCrashed() {
			s.procs[i] = s.start(i)
		}
	}
	s.runCalls(3 * time.Hour)
	for range 2 {
		for range s.conns {
			s.request()
		}
		s.runCalls(time.Hour)
	}
	if n := s.waiting.Load(); n != 0 {
		s.t.Errorf("%d requests have never returned", n)
	}
	for i, p := range s.procs {
		if n := s.spooledPairs(i); n != 0 {
			s.t.Errorf("%s: %d pairs are still in the spool", p.name, n)
		}
		s.crash(i)
	}
	for _, g := range s.server.grants {
		s.checkEnd(g)
	}
}

// runCalls lets calls continue, one by one, for the time.
func (s *sim) runCalls(span time.Duration) {
	for end := time.Now().Add(span); time.Now().Before(end); {
		synctest.Wait()
		if s.queued() == 0 {
			time.Sleep(5 * time.Second)
			continue
		}
		s.release(s.rng.IntN(s.queued()), simOK)
		synctest.Wait()
		s.check()
	}
}

// request sends one request of a client through a process.
func (s *sim) request() {
	p, conn := s.procs[s.rng.IntN(len(s.procs))], s.conns[s.rng.IntN(len(s.conns))]
	if p.hasCrashed() {
		return
	}
	s.note("%s: request for %s", p.name, conn.Name)
	s.waiting.Add(1)
	go func() {
		defer s.waiting.Add(-1)
		p.request(conn)
	}()
}

func (p *simProcess) request(conn credstore.Connection) {
	a, err := p.m.Authorize(context.Background(), conn.Name)
	if err != nil || p.hasCrashed() {
		return
	}
	p.s.checkSent(p, a)
	if p.s.server.accepts(a.Value.Reveal()) {
		return
	}
	if a, err = p.m.Reauthorize(context.Background(), a); err == nil && !p.hasCrashed() {
		p.s.checkSent(p, a)
	}
}

// simProcess is one process, from its start to its crash.
type simProcess struct {
	s       *sim
	name    string
	machine int
	m       *Manager
	store   *memoryStore
	crashed chan struct{}
	cancel  context.CancelFunc
	done    chan struct{}
}

func (s *sim) start(machine int) *simProcess {
	p := &simProcess{
		s: s, name: fmt.Sprintf("p%d.%d", machine, s.next()), machine: machine,
		store: &memoryStore{memory: s.data}, crashed: make(chan struct{}), done: make(chan struct{}),
	}
	s.note("%s: starts", p.name)
	var err error
	p.m, err = New(Config{
		BeforeExpiry: testBeforeExpiry, Wait: testWait,
		Store: StoreOf((&simStore{memoryStore: p.store, p: p}).parts()), Server: &simLink{p: p},
		Spool:  &simSpool{p: p, disk: s.spools[machine], replayed: make(chan struct{}), abandoned: map[credstore.Parent]bool{}},
		Shared: s.replicas, Owner: p.name, Jitter: func(wait time.Duration) time.Duration { return wait / 2 },
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go func() {
		defer close(p.done)
		_ = p.m.Run(ctx) // ends with the context
	}()
	return p
}

// next returns a new number.
func (s *sim) next() int {
	s.data.mu.Lock()
	defer s.data.mu.Unlock()
	s.serial++
	return s.serial
}

// crash ends a process at once: its pending calls never happen, its leases and spool
// locks are freed by the kernel, and what is only in its memory is lost.
func (s *sim) crash(machine int) {
	p := s.procs[machine]
	s.note("%s: crashes", p.name)
	close(p.crashed)
	s.data.mu.Lock()
	s.pending = slices.DeleteFunc(s.pending, func(c *simCall) bool { return c.p == p })
	s.spools[machine].unlock()
	s.data.mu.Unlock()
	s.server.forget(p)
	_ = p.store.Close()
	p.cancel()
	p.m.life.giveUp()
	_ = p.m.Drain(context.Background())
	<-p.done
}

func (p *simProcess) hasCrashed() bool {
	select {
	case <-p.crashed:
		return true
	default:
		return false
	}
}

// step waits until the scheduler lets the call continue. After the process has crashed
// its calls have no effect.
func (p *simProcess) step(ctx context.Context, op, id string) (simFate, error) {
	if p.hasCrashed() {
		return simFail, errSimulated
	}
	s := p.s
	c := &simCall{p: p, op: op, id: id, serial: s.next(), let: make(chan simFate, 1)}
	s.data.mu.Lock()
	s.pending = append(s.pending, c)
	s.data.mu.Unlock()
	select {
	case fate := <-c.let:
		if fate == simFail {
			return fate, errSimulated
		}
		return fate, nil
	case <-p.crashed:
		return simFail, errSimulated
	case <-ctx.Done():
		s.data.mu.Lock()
		defer s.data.mu.Unlock()
		s.pending = slices.DeleteFunc(s.pending, func(o *simCall) bool { return o == c })
		return simFail, ctx.Err()
	}
}

// simStore is a process's store, each call of which is a step.
type simStore struct {
	*memoryStore
	p *simProcess
}

// parts returns the store with the methods that simStore overrides.
func (s *simStore) parts() credstore.Store {
	return credstore.Store{Connections: s, Credentials: s, Links: s, History: s, Changes: s}
}

// do waits for the step and calls f, whose effect remains even if the response is
// lost.
func (s *simStore) do(ctx context.Context, op, id string, f func() error) error {
	fate, err := s.p.step(ctx, op, id)
	if err != nil {
		return fmt.Errorf("%w: %w", credstore.ErrUnavailable, err)
	}
	if err := f(); err != nil {
		return err
	}
	if fate == simLose {
		return fmt.Errorf("%w: %w", credstore.ErrUnavailable, errSimulated)
	}
	return nil
}

func (s *simStore) Read(ctx context.Context, id string) (state credstore.State, err error) {
	err = s.do(ctx, "read", id, func() (err error) {
		state, err = s.memoryStore.Read(ctx, id)
		return err
	})
	return state, err
}

func (s *simStore) Acquire(ctx context.Context, id, owner string) (lease credstore.Lease, err error) {
	err = s.do(ctx, "acquire", id, func() (err error) {
		lease, err = s.memoryStore.Acquire(ctx, id, owner)
		return err
	})
	if err != nil && lease != nil {
		_ = lease.Release() // as the kernel does with a lock that was not returned
		lease = nil
	}
	return lease, err
}

func (s *simStore) RecordIntent(ctx context.Context, l credstore.Lease, parent credstore.Parent, at time.Time) (i credstore.Intent, err error) {
	err = s.do(ctx, "record intent", parent.ConnectionID, func() (err error) {
		i, err = s.memoryStore.RecordIntent(ctx, l, parent, at)
		return err
	})
	return i, err
}

func (s *simStore) CancelIntent(ctx context.Context, l credstore.Lease, parent credstore.Parent, f *credstore.RefreshFailure) error {
	return s.do(ctx, "cancel intent", parent.ConnectionID, func() error { return s.memoryStore.CancelIntent(ctx, l, parent, f) })
}

func (s *simStore) MarkOutcomeUnknown(ctx context.Context, l credstore.Lease, parent credstore.Parent, f credstore.RefreshFailure) error {
	return s.do(ctx, "mark unknown", parent.ConnectionID, func() error { return s.memoryStore.MarkOutcomeUnknown(ctx, l, parent, f) })
}

func (s *simStore) MarkReauthorizationRequired(ctx context.Context, l credstore.Lease, parent credstore.Parent, f credstore.Failure, reason string, drop bool) error {
	return s.do(ctx, "reject", parent.ConnectionID, func() error { return s.memoryStore.MarkReauthorizationRequired(ctx, l, parent, f, reason, drop) })
}

func (s *simStore) Save(ctx context.Context, n credstore.Successor) (conn credstore.Connection, err error) {
	if s.p.hasCrashed() {
		return conn, credstore.ErrSuperseded // so that crashed processes stop trying
	}
	err = s.do(ctx, "save", n.Parent.ConnectionID, func() (err error) {
		conn, err = s.memoryStore.Save(ctx, n)
		return err
	})
	if err != nil {
		s.p.s.server.saveFailed(n)
	}
	return conn, err
}

// simDisk holds the spool records of one machine's processes.
type simDisk struct {
	records map[credstore.Parent]*simRecord // guarded by memory.mu
}

type simRecord struct {
	locked    bool
	successor *credstore.Successor // nil until it is written
}

func (d *simDisk) unlock() {
	for _, r := range d.records {
		r.locked = false
	}
}

// spooledPairs returns how many pairs the machine's spool holds.
func (s *sim) spooledPairs(machine int) (n int) {
	s.data.mu.Lock()
	defer s.data.mu.Unlock()
	for _, r := range s.spools[machine].records {
		if r.successor != nil {
			n++
		}
	}
	return n
}

// simSpool is a process's spool, each call of which is a step.
type simSpool struct {
	p         *simProcess
	disk      *simDisk
	replayed  chan struct{}
	abandoned map[credstore.Parent]bool // guarded by memory.mu
}

func (s *simSpool) Replayed() <-chan struct{} { return s.replayed }

func (s *simSpool) Abandoned(parent credstore.Parent) bool {
	s.p.store.mu.Lock()
	defer s.p.store.mu.Unlock()
	return s.abandoned[parent]
}

func (s *simSpool) Reserve(parent credstore.Parent) (spool.Record, error) {
	if _, err := s.p.step(context.Background(), "reserve", parent.ConnectionID); err != nil {
		return nil, err
	}
	s.p.store.mu.Lock()
	defer s.p.store.mu.Unlock()
	r, ok := s.disk.records[parent]
	if ok && r.locked {
		return nil, errSimulated
	}
	if ok && r.successor != nil {
		return nil, spool.ErrHoldsPair
	}
	s.disk.records[parent] = &simRecord{locked: true}
	return &simReservation{spool: s, parent: parent}, nil
}

func (s *simSpool) Replay(ctx context.Context, store spool.Store, _ logger, waiting func(int)) error {
	for first := true; ; first = false {
		left := 0
		for _, parent := range s.unlocked() {
			if s.replay(ctx, store, parent) != nil {
				left++
			}
		}
		waiting(left)
		if first {
			close(s.replayed)
		}
		if left == 0 {
			return nil
		}
		if err := pause(ctx, maxSaveRetryDelay); err != nil {
			return err
		}
	}
}

func (s *simSpool) unlocked() (parents []credstore.Parent) {
	s.p.store.mu.Lock()
	defer s.p.store.mu.Unlock()
	for parent, r := range s.disk.records {
		if !r.locked {
			parents = append(parents, parent)
		}
	}
	slices.SortFunc(parents, func(a, b credstore.Parent) int {
		return cmp.Or(cmp.Compare(a.ConnectionID, b.ConnectionID), cmp.Compare(a.Version, b.Version))
	})
	return parents
}

// lock locks the record for this process, if it still exists and is not locked.
func (s *simSpool) lock(parent credstore.Parent) *simRecord {
	s.p.store.mu.Lock()
	defer s.p.store.mu.Unlock()
	r := s.disk.records[parent]
	if r == nil || r.locked || s.p.hasCrashed() {
		return nil
	}
	r.locked = true
	return r
}

func (s *simSpool) replay(ctx context.Context, store spool.Store, parent credstore.Parent) error {
	record := s.lock(parent)
	if record == nil {
		return nil
	}
	defer func() {
		s.p.store.mu.Lock()
		defer s.p.store.mu.Unlock()
		record.locked = record.locked && s.p.hasCrashed() // the next process may have it
	}()
	successor := record.successor
	var err error
	if successor != nil {
		_, err = store.Save(ctx, *successor)
	} else {
		var state credstore.State
		state, err = store.Read(ctx, parent.ConnectionID)
		if err == nil && state.Credential.Parent() == parent {
			s.p.store.mu.Lock()
			defer s.p.store.mu.Unlock()
			s.abandoned[parent] = true
			return nil
		}
	}
	if errors.Is(err, credstore.ErrUnavailable) || s.p.hasCrashed() {
		return errSimulated
	}
	s.p.store.mu.Lock()
	defer s.p.store.mu.Unlock()
	delete(s.disk.records, parent)
	return nil
}

type simReservation struct {
	spool    *simSpool
	parent   credstore.Parent
	released bool
}

func (t *simReservation) Write(n credstore.Successor) error {
	fate, err := t.spool.p.step(context.Background(), "write spool", t.parent.ConnectionID)
	if err != nil {
		t.spool.p.s.server.spoolFailed(n)
		return err
	}
	t.spool.p.store.mu.Lock()
	t.spool.disk.records[t.parent].successor = &n
	t.spool.p.store.mu.Unlock()
	if fate == simLose {
		t.spool.p.s.server.spoolFailed(n)
		return errSimulated
	}
	return nil
}

func (t *simReservation) Remove() {
	if t.released || t.spool.p.hasCrashed() {
		return
	}
	t.spool.p.store.mu.Lock()
	defer t.spool.p.store.mu.Unlock()
	delete(t.spool.disk.records, t.parent)
}

func (t *simReservation) Release() { t.released = true }
