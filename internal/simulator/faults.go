package simulator

import (
	"bytes"
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
	FaultDelay        = "delay"        // wait for Delay, then go on
	FaultHang         = "hang"         // wait until released, then go on
	FaultDrop         = "drop"         // close the connection without an answer
	FaultReset        = "reset"        // reset the connection without an answer
	FaultTruncate     = "truncate"     // write a part of the answer's body, then close
	FaultStatus       = "status"       // statusResponse Status, with RetryAfter and Body
	FaultHTML         = "html"         // statusResponse 200 with a page
	FaultGarbage      = "garbage"      // statusResponse 200 with broken JSON
	FaultUnauthorized = "unauthorized" // statusResponse 401 as for a dead token, or a wrong client secret
)

// When a [Fault] acts.
const (
	BeforeCommit = "before_commit" // nothing has changed yet; nothing will, if the fault ends the request
	AfterCommit  = "after_commit"  // what was asked for has been done; the answer is lost
)

// Fault is something that goes wrong with the requests that match Target,
// Grant, Company and Path. Several faults may meet in one request; they act in
// the order in which they were set, until one ends the request.
type Fault struct {
	ID     string `json:"id,omitempty"`     // given by the simulator
	Target string `json:"target,omitempty"` // empty: [TargetToken]
	Kind   string `json:"kind"`
	When   string `json:"when,omitempty"` // empty: [BeforeCommit], for truncate [AfterCommit]

	Grant   string `json:"grant,omitempty"`      // id of a grant or key; empty: any
	Company string `json:"company_id,omitempty"` // empty: any
	Path    string `json:"path,omitempty"`       // prefix of the API's path; empty: any
	Skip    int    `json:"skip,omitempty"`       // let that many requests pass first
	Count   int    `json:"count,omitempty"`      // act on that many; 0: until cleared

	Delay Duration `json:"delay,omitempty"` // of delay
	// Abandon makes a request that is delayed or hangs before the commit end
	// without it when its client has left. Otherwise it is committed all the
	// same, as by a server that has read the request and does not look back.
	Abandon bool `json:"abandon,omitempty"`

	Cut      int    `json:"cut,omitempty"`        // of truncate: bytes of the body that are written
	CutAfter string `json:"cut_behind,omitempty"` // of truncate: write up to the end of this JSON member
	CutReset bool   `json:"cut_reset,omitempty"`  // of truncate: reset instead of close

	Status     int      `json:"status,omitempty"`      // of status
	Body       string   `json:"body,omitempty"`        // of status, html and garbage; empty: a plausible one
	RetryAfter string   `json:"retry_after,omitempty"` // of status: "seconds", "date" or "none" (or empty)
	Wait       Duration `json:"wait,omitempty"`        // what Retry-After asks for
}

// complete fills in defaults and reports what makes no sense, all at once.
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
	return f, errors.Join(f.checkWords(), f.checkNumbers())
}

func (f Fault) checkWords() error {
	var errs []error
	for _, c := range []choice{
		{"target", f.Target, []string{TargetToken, TargetIntrospection, TargetAPI, TargetAll}},
		{"kind", f.Kind, []string{
			FaultDelay, FaultHang, FaultDrop, FaultReset, FaultTruncate,
			FaultStatus, FaultHTML, FaultGarbage, FaultUnauthorized,
		}},
		{"when", f.When, []string{BeforeCommit, AfterCommit}},
	} {
		if !slices.Contains(c.allowed, c.value) {
			errs = append(errs, fmt.Errorf("setting a fault: %s: %q is not one of %q", c.name, c.value, c.allowed))
		}
	}
	if !slices.Contains([]string{"", "none", "seconds", "date"}, f.RetryAfter) {
		errs = append(errs, fmt.Errorf("setting a fault: retry_after: %q is not none, seconds or date", f.RetryAfter))
	}
	return errors.Join(errs...)
}

func (f Fault) checkNumbers() error {
	var errs []error
	if f.Kind == FaultStatus && (f.Status < 200 || f.Status > 599) {
		errs = append(errs, fmt.Errorf("setting a fault: status: %d is not between 200 and 599", f.Status))
	}
	if f.Kind == FaultTruncate && f.When != AfterCommit {
		errs = append(errs, errors.New("setting a fault: only an answer after the commit can be truncated"))
	}
	if min(f.Skip, f.Count, f.Cut) < 0 || f.Delay < 0 || f.Wait < 0 {
		errs = append(errs, errors.New("setting a fault: skip, count, cut, delay and wait are never negative"))
	}
	return errors.Join(errs...)
}

// activeFault is a fault that has been set.
type activeFault struct {
	Fault
	seen     int           // requests that matched; guarded by faults.mu
	released chan struct{} // closed when what hangs may go on
	release  func()        // closes it, once
}

// faultTarget is a request that a fault may match.
type faultTarget struct {
	target  string
	path    string
	id      string // of the grant or key
	subject subject
}

func (f *activeFault) matches(o faultTarget) bool {
	return (f.Target == TargetAll || f.Target == o.target) &&
		(f.Grant == "" || f.Grant == o.id) &&
		(f.Company == "" || f.Company == o.subject.company) &&
		strings.HasPrefix(o.path, f.Path)
}

// faults keeps the faults that are set. All methods may be called at once.
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

func (fs *faults) list() []Fault {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	all := make([]Fault, 0, len(fs.active))
	for _, f := range fs.active {
		all = append(all, f.Fault)
	}
	return all
}

// clear removes the fault with the id, or all for an empty id, and lets what
// hangs on them go on.
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

// take returns the faults that act on a request, and counts it for each.
func (fs *faults) take(o faultTarget) []*activeFault {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var acting []*activeFault
	for _, f := range fs.active {
		if !f.matches(o) {
			continue
		}
		f.seen++
		if f.seen > f.Skip && (f.Count == 0 || f.seen <= f.Skip+f.Count) {
			acting = append(acting, f)
		}
	}
	return acting
}

// errAbandoned says that the client left a request that was told to end then.
var errAbandoned = errors.New("the client has left")

// newExchange is what faults act on: one request.
type exchange struct {
	now          func() time.Time
	latency      Duration        // of the server
	unauthorized func() response // a 401 in the style of the server
	commit       func() response // does what the request asks for
	delayed      func()          // is told when a fault makes the request wait
}

// run runs a request with the faults that act on it.
func (s exchange) run(ctx context.Context, acting []*activeFault) response {
	r := s.act(ctx, acting)
	time.Sleep(time.Duration(s.latency))
	return r
}

func (s exchange) act(ctx context.Context, acting []*activeFault) response {
	for _, f := range acting {
		if f.When != BeforeCommit {
			continue
		}
		if r, ended := f.act(ctx, s, response{}); ended {
			return r
		}
	}
	r := s.commit()
	for _, f := range acting {
		if f.When != AfterCommit {
			continue
		}
		if changed, ended := f.act(ctx, s, r); ended {
			return changed
		}
	}
	return r
}

// act does what the fault does; ended says that r is the answer and nothing
// else happens.
func (f *activeFault) act(ctx context.Context, s exchange, r response) (changed response, ended bool) {
	switch f.Kind {
	case FaultDelay, FaultHang:
		s.delayed()
		if errors.Is(f.pause(ctx), errAbandoned) {
			return response{ending: endDropped}, true
		}
		return r, false
	case FaultDrop:
		return response{ending: endDropped}, true
	case FaultReset:
		return response{ending: endReset}, true
	case FaultTruncate:
		return f.truncate(r), true
	case FaultHTML:
		return htmlResponse(http.StatusOK, cmpOr(f.Body, "<!doctype html><title>Pleo</title><p>We will be right back.")), true
	case FaultGarbage:
		return f.garbage(), true
	case FaultUnauthorized:
		return s.unauthorized(), true
	}
	return f.statusResponse(s.now()), true // FaultStatus; complete has refused all else
}

// pause waits as long as a delay or a hang wants.
func (f *activeFault) pause(ctx context.Context) error {
	left := ctx.Done()
	if !f.Abandon {
		left = nil
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
	case <-left:
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

// endOfMember returns where the string value of a JSON member ends, its closing
// quote included, or the length of the body if it has no such member.
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

func (f *activeFault) garbage() response {
	r := jsonResponse(http.StatusOK, nil)
	r.body = []byte(cmpOr(f.Body, `{"access_token": "sim-gar`))
	return r
}

// statusResponse is the answer of a status fault.
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

func cmpOr(text, def string) string {
	if text == "" {
		return def
	}
	return text
}
