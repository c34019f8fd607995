// Package doctor finds what is wrong with a set-up and how to fix it.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Severity is how bad a finding is.
type Severity string

// The severities.
const (
	OK      Severity = "ok"
	Note    Severity = "note" // worth knowing; nothing is wrong
	Warning Severity = "warning"
	Error   Severity = "error"
)

// Finding is a result of one check. It has no secret.
type Finding struct {
	Check    string   `json:"check"` // what was checked, one of the constants below
	Severity Severity `json:"severity"`
	Subject  string   `json:"subject,omitempty"` // the key, file, host or connection that it is about
	Message  string   `json:"message"`
	Fix      string   `json:"fix,omitempty"` // what to do about it
}

// The checks.
const (
	checkConfiguration = "configuration"
	checkFiles         = "files"
	checkKeyset        = "keyset"
	checkStore         = "store"
	checkNetwork       = "network"
	checkClock         = "clock"
	checkClient        = "client"
	checkListeners     = "listeners"
	checkConnect       = "connect"
	checkConnections   = "connections"
)

// Diagnosis is the result of all checks.
type Diagnosis struct {
	Healthy  bool      `json:"healthy"` // no finding is an error
	Findings []Finding `json:"findings"`

	causes []error
}

// Err returns an error that matches the causes of the findings that are errors, or
// nil if the set-up is healthy.
func (d *Diagnosis) Err() error {
	if d.Healthy {
		return nil
	}
	return &unhealthyError{errors: d.Count(Error), warnings: d.Count(Warning), causes: d.causes}
}

// Count returns how many findings have the severity.
func (d *Diagnosis) Count(s Severity) (n int) {
	for _, f := range d.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

type unhealthyError struct {
	errors, warnings int
	causes           []error
}

func (e *unhealthyError) Error() string {
	return fmt.Sprintf("found %s and %s", plural(e.errors, "error"), plural(e.warnings, "warning"))
}

func (e *unhealthyError) Unwrap() []error { return e.causes }

// Options are what Run checks.
type Options struct {
	Load      func() (*config.Config, error) // loads the configuration
	Environ   []string                       // as os.Environ returns it
	Root      bool                           // runs as root
	MaxChecks int                            // how many connections Pleo is asked about at most
}

// Run runs all checks that the set-up allows. It sends no refresh token, and may run
// beside a server.
func Run(ctx context.Context, o Options) *Diagnosis {
	r := &report{}
	check(ctx, r, o)
	d := &Diagnosis{Findings: r.findings, causes: r.causes}
	d.Healthy = d.Count(Error) == 0
	return d
}

func check(ctx context.Context, r *report, o Options) {
	cfg := checkConfig(r, o)
	if cfg == nil {
		return
	}
	inputsValid := checkInputs(r, cfg)
	v := openStore(ctx, r, cfg, o.Root)
	if v != nil {
		defer func() { _ = v.Store.Close() }() // everything has been read
		checkOpenStore(ctx, r, cfg, v)
	}
	checkEnvironments(r, cfg)
	reachable := checkReachability(ctx, r, cfg)
	if reachable && inputsValid {
		checkOAuthClient(ctx, r, cfg)
		checkConfigKeys(ctx, r, cfg)
	}
	checkEachListener(ctx, r, cfg)
	if v != nil {
		maxChecks := o.MaxChecks
		if !reachable {
			maxChecks = 0
		}
		checkStoredConnections(ctx, r, cfg, v, maxChecks)
	}
}

// report collects findings.
type report struct {
	findings []Finding
	causes   []error // of errors; they decide about the exit code
}

func (r *report) add(check string, s Severity, subject, message, fix string) {
	r.findings = append(r.findings, Finding{Check: check, Severity: s, Subject: subject, Message: message, Fix: fix})
}

// addError adds an error: each mistake of a [config.Error] on its own, and the hint
// of a [credstore.SetupError] instead of fix.
func (r *report) addError(check, subject string, err error, fix string) {
	r.causes = append(r.causes, err)
	var (
		mistakes *config.Error
		setup    *credstore.SetupError
	)
	switch {
	case errors.As(err, &mistakes):
		for _, m := range mistakes.Mistakes {
			r.add(check, Error, m.Key, m.Problem, fixOf(check, m))
		}
	case errors.As(err, &setup):
		r.add(check, Error, subject, setup.Err.Error(), setup.Hint)
	default:
		r.add(check, Error, subject, err.Error(), fix)
	}
}

func fixOf(check string, m config.Mistake) string {
	fix := "correct it in the configuration"
	switch {
	case m.Variable != "":
		fix = "correct or remove the variable " + m.Variable
	case m.Line > 0:
		fix = fmt.Sprintf("correct it in %s, line %d", m.File, m.Line)
	case m.File != "":
		fix = "correct " + m.File
	case m.Key != "":
		fix = "correct " + m.Key + " in the configuration"
	}
	if check == checkFiles {
		fix = "correct the file that it names, or " + fix
	}
	return fix
}

// warnings returns a logger, and a function that adds what was logged as warnings.
func (r *report) warnings(check, fix string) (log *zap.Logger, add func()) {
	core, logs := observer.New(zap.WarnLevel)
	return zap.New(core), func() {
		for _, e := range logs.TakeAll() {
			message := []string{e.Message}
			values := e.ContextMap()
			for _, f := range e.Context {
				message = append(message, fmt.Sprintf("%s %v", f.Key, values[f.Key]))
			}
			r.add(check, Warning, "", strings.Join(message, ", "), fix)
		}
	}
}

// plural returns a number with what it counts, such as "2 connections".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
