package simulator

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The targets of a [Fault].
const (
	TargetToken         = "token"         // POST /oauth/token
	TargetIntrospection = "introspection" // POST /oauth/token/introspect
	TargetAPI           = "api"
	TargetAll           = "all" // all three
)

// The kinds of a [Fault].
const (
	FaultDelay        = "delay"        // wait for Delay, then continue
	FaultHang         = "hang"         // wait until the fault is cleared, then continue
	FaultDrop         = "drop"         // close the connection without a response
	FaultReset        = "reset"        // reset the connection without a response
	FaultTruncate     = "truncate"     // write a part of the body, then close the connection
	FaultStatus       = "status"       // respond with Status, RetryAfter and Body
	FaultHTML         = "html"         // respond 200 with a page
	FaultGarbage      = "garbage"      // respond 200 with broken JSON
	FaultUnauthorized = "unauthorized" // respond 401 as to an invalid token or client secret
)

// When a [Fault] acts.
const (
	BeforeCommit = "before_commit" // the request has no effect if the fault ends it
	AfterCommit  = "after_commit"  // the request has taken effect; its response is lost
)

// Fault makes the requests that match Target, Grant and Path fail. If several
// faults match a request, they act in the order in which they were set, until one
// ends the request.
type Fault struct {
	ID     string `json:"id,omitempty"`     // assigned by the simulator
	Target string `json:"target,omitempty"` // empty: [TargetToken]
	Kind   string `json:"kind"`
	When   string `json:"when,omitempty"` // empty: [BeforeCommit], for truncate [AfterCommit]

	Grant string `json:"grant,omitempty"` // id of a grant or key; empty: any
	Path  string `json:"path,omitempty"`  // prefix of the path; empty: any
	Count int    `json:"count,omitempty"` // number of requests to act on; 0: until cleared

	Delay Duration `json:"delay,omitempty"` // of delay
	// Abandon ends a request that is delayed before its commit when the client
	// disconnects. Otherwise the request is committed regardless, as by a server
	// that does not check the connection before it has a response to write.
	Abandon bool `json:"abandon,omitempty"`

	Cut      int    `json:"cut,omitempty"`       // of truncate: bytes of the body to write
	CutAfter string `json:"cut_after,omitempty"` // of truncate: write up to the end of this JSON member
	CutReset bool   `json:"cut_reset,omitempty"` // of truncate: reset the connection instead of closing it

	Status     int      `json:"status,omitempty"`      // of status
	Body       string   `json:"body,omitempty"`        // of status, html and garbage; empty: a plausible one
	RetryAfter string   `json:"retry_after,omitempty"` // of status: "seconds", "date" or "none" (or empty)
	Wait       Duration `json:"wait,omitempty"`        // value of Retry-After
}

// complete fills in defaults. The error lists every mistake.
func (f Fault) complete() (Fault, error) {
	if f.Target == "" {
		f.Target = TargetToken
	}
	if f.When == "" {
		f.When = BeforeCommit
		if f.Kind == FaultTruncate {
			f.When = AfterCommit
		}
	}
	return f, errors.Join(f.checkChoices(), f.checkNumbers())
}

func (f Fault) checkChoices() error {
	var errs []error
	for _, c := range []struct {
		name, value string
		allowed     []string
	}{
		{"target", f.Target, []string{TargetToken, TargetIntrospection, TargetAPI, TargetAll}},
		{"kind", f.Kind, []string{
			FaultDelay, FaultHang, FaultDrop, FaultReset, FaultTruncate,
			FaultStatus, FaultHTML, FaultGarbage, FaultUnauthorized,
		}},
		{"when", f.When, []string{BeforeCommit, AfterCommit}},
		{"retry_after", f.RetryAfter, []string{"", "none", "seconds", "date"}},
	} {
		if !slices.Contains(c.allowed, c.value) {
			errs = append(errs, fmt.Errorf("setting a fault: %s: %q is not one of %q", c.name, c.value, c.allowed))
		}
	}
	return errors.Join(errs...)
}

func (f Fault) checkNumbers() error {
	var errs []error
	if f.Kind == FaultStatus && (f.Status < 200 || f.Status > 599) {
		errs = append(errs, fmt.Errorf("setting a fault: status: %d is not between 200 and 599", f.Status))
	}
	if f.Kind == FaultTruncate && f.When != AfterCommit {
		errs = append(errs, errors.New("setting a fault: truncate acts after the commit only"))
	}
	if min(f.Count, f.Cut) < 0 || f.Delay < 0 || f.Wait < 0 {
		errs = append(errs, errors.New("setting a fault: count, cut, delay and wait must not be negative"))
	}
	return errors.Join(errs...)
}

// activeFault is a fault that has been set.
type activeFault struct {
	Fault
	seen     int           // requests that matched; guarded by faults.mu
	released chan struct{} // closed when the fault is cleared
	release  func()        // closes released, once
}

// faultTarget describes a request that faults may match.
type faultTarget struct {
	target string
	path   string
	id     string // of the grant or key
}

func (f *activeFault) matches(t faultTarget) bool {
	return (f.Target == TargetAll || f.Target == t.target) &&
		(f.Grant == "" || f.Grant == t.id) && strings.HasPrefix(t.path, f.Path)
}

// faults holds the faults that are set. It is safe for concurrent use.
type faults struct {
	mu     sync.Mutex // guards all below
	active []*activeFault
	last   int // number of the fault set last
}

// set adds a fault and returns it with its id.
func (fs *faults) set(f Fault) (Fault, error) {
	f, err := f.complete()
	if err != nil {
		return Fault{}, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.last++
	f.ID = fmt.Sprintf("f%d", fs.last)
	released := make(chan struct{})
	fs.active = append(fs.active, &activeFault{
		Fault: f, released: released, release: sync.OnceFunc(func() { close(released) }),
	})
	return f, nil
}

// list returns the faults that are set, including those whose count is used up.
func (fs *faults) list() []Fault {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	all := make([]Fault, 0, len(fs.active))
	for _, f := range fs.active {
		all = append(all, f.Fault)
	}
	return all
}

// clear removes the fault with the id, or all if it is empty, and resumes the
// requests that they delay.
func (fs *faults) clear(id string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	before := len(fs.active)
	fs.active = slices.DeleteFunc(fs.active, func(f *activeFault) bool {
		if id != "" && f.ID != id {
			return false
		}
		f.release()
		return true
	})
	if id != "" && len(fs.active) == before {
		return fmt.Errorf("fault %q: %w", id, ErrNotFound)
	}
	return nil
}

// take returns the faults that act on a request, and counts the request for each.
func (fs *faults) take(t faultTarget) []*activeFault {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var acting []*activeFault
	for _, f := range fs.active {
		if !f.matches(t) {
			continue
		}
		f.seen++
		if f.Count == 0 || f.seen <= f.Count {
			acting = append(acting, f)
		}
	}
	return acting
}

// errAbandoned means that the client has disconnected from a request that a fault
// with Abandon delays.
var errAbandoned = errors.New("the client has disconnected")

// exchange is one request that faults act on.
type exchange struct {
	now          func() time.Time
	latency      Duration
	unauthorized func() response // a 401 in the form of the server
	commit       func() response // carries out the request
	delayed      func()          // called when a fault delays the request; may be nil
}

// run carries out the request under the faults that act on it.
func (x exchange) run(ctx context.Context, acting []*activeFault) response {
	res, ended := x.apply(ctx, acting, BeforeCommit, response{})
	if !ended {
		res, _ = x.apply(ctx, acting, AfterCommit, x.commit())
	}
	time.Sleep(time.Duration(x.latency))
	return res
}

// apply applies the faults of one moment to the response so far. ended means that
// one of them has ended the request.
func (x exchange) apply(ctx context.Context, acting []*activeFault, when string, before response) (res response, ended bool) {
	for _, f := range acting {
		if f.When != when {
			continue
		}
		if res, ended := f.apply(ctx, x, before); ended {
			return res, true
		}
	}
	return before, false
}

// apply applies one fault.
func (f *activeFault) apply(ctx context.Context, x exchange, before response) (res response, ended bool) {
	switch f.Kind {
	case FaultDelay, FaultHang:
		if x.delayed != nil {
			x.delayed()
		}
		if errors.Is(f.pause(ctx), errAbandoned) {
			return response{ending: endDropped}, true
		}
		return before, false
	case FaultDrop:
		return response{ending: endDropped}, true
	case FaultReset:
		return response{ending: endReset}, true
	case FaultTruncate:
		return f.truncate(before), true
	case FaultHTML:
		return htmlResponse(http.StatusOK, cmp.Or(f.Body, "<!doctype html><title>Pleo</title><p>We will be right back.")), true
	case FaultGarbage:
		res = jsonResponse(http.StatusOK, nil)
		res.body = []byte(cmp.Or(f.Body, `{"access_token": "sim-gar`))
		return res, true
	case FaultUnauthorized:
		return x.unauthorized(), true
	}
	return f.statusResponse(x.now()), true // FaultStatus: complete rejects other kinds
}

// pause waits for the time of a delay, or until a hang is cleared.
func (f *activeFault) pause(ctx context.Context) error {
	disconnected := ctx.Done()
	if !f.Abandon {
		disconnected = nil
	}
	var over <-chan time.Time
	if f.Kind == FaultDelay {
		timer := time.NewTimer(time.Duration(f.Delay))
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-over:
	case <-f.released:
	case <-disconnected:
		return errAbandoned
	}
	return nil
}

func (f *activeFault) truncate(r response) response {
	r.ending, r.cut = endCut, f.Cut
	if f.CutReset {
		r.ending = endCutReset
	}
	if f.CutAfter != "" {
		r.cut = endOfMember(r.body, f.CutAfter)
	}
	return r
}

// endOfMember returns where the string value of a JSON member ends, including its
// closing quote, or the length of the body if it has no such member.
func endOfMember(body []byte, member string) int {
	name := []byte(strconv.Quote(member) + `:"`)
	start := bytes.Index(body, name)
	if start < 0 {
		return len(body)
	}
	start += len(name)
	length := bytes.IndexByte(body[start:], '"')
	if length < 0 {
		return len(body)
	}
	return start + length + 1
}

// statusResponse is the response of a status fault.
func (f *activeFault) statusResponse(now time.Time) response {
	r := exception(f.Status, strings.ToUpper(strings.ReplaceAll(http.StatusText(f.Status), " ", "_")), "a fault of the simulator")
	if f.Body != "" {
		r.body = []byte(f.Body)
	}
	switch f.RetryAfter {
	case "seconds":
		r = r.with("Retry-After", strconv.Itoa(int(time.Duration(f.Wait)/time.Second)))
	case "date":
		r = r.with("Retry-After", now.Add(time.Duration(f.Wait)).UTC().Format(http.TimeFormat))
	}
	return r
}
