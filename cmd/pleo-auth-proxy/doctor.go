package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func newDoctorCommand(p *program) *cobra.Command {
	d := &doctor{p: p, reported: map[string]bool{}}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Looks for what is wrong, and says what to do about it",
		Long: `Looks at the configuration, the files that it names, the keyset and the store, the
way to Pleo, the clock, the listeners and the connections, and says what is wrong
and what to do about it.

It may run beside a server, and spends nothing: no refresh token is presented, and
Pleo is asked by introspection only. Run it as the user that the server runs as,
since another one may be able to read other files.

It exits 0 if there is no error; warnings are none.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return d.run(cmd.Context()) },
	}
	cmd.Flags().IntVar(&d.checkLimit, "ask", defaultCheckLimit, "ask Pleo about at most `N` connections; 0 asks about none")
	return cmd
}

// defaultCheckLimit bounds what one look costs Pleo: up to two questions each.
const defaultCheckLimit = 20

// severity says how bad a finding is.
type severity string

const (
	severityOK      severity = "ok"
	severityNote    severity = "note" // worth knowing, and in order
	severityWarning severity = "warning"
	severityError   severity = "error"
)

// finding is one thing that doctor has found. Nothing in it is secret.
type finding struct {
	Check    string   `json:"check"` // configuration, files, keyset, store, network, clock, client, listeners, connect, connections
	Severity severity `json:"grade"`
	Subject  string   `json:"subject,omitempty"` // the key, file, host or connection that it is about
	Message  string   `json:"found"`
	Fix      string   `json:"mend,omitempty"` // what to do about it
}

// diagnosis is what doctor --json prints.
type diagnosis struct {
	Healthy  bool      `json:"healthy"` // there is no error among the findings
	Findings []finding `json:"findings"`
}

// doctor is one run of the command.
type doctor struct {
	p          *program
	checkLimit int
	cfg        *config.Config
	findings   []finding
	causes     []error         // that decide about the exit code
	reported   map[string]bool // ids of connections that something was said about
	reached    bool            // both of Pleo's servers
}

func (d *doctor) run(ctx context.Context) error {
	d.examine(ctx)
	failed := d.verdict()
	if err := d.print(failed == nil); err != nil {
		return err
	}
	return failed
}

// examine looks at one thing after the other. What depends on something that is
// broken is left out.
func (d *doctor) examine(ctx context.Context) {
	if !d.configuration() {
		return
	}
	filesAreGood := d.files()
	if v := d.openStore(ctx); v != nil {
		defer func() { _ = v.store.Close() }() // everything has been read
		d.checkStoreWrites(ctx, v)
		defer d.connections(ctx, v)
	}
	d.environments()
	d.reached = d.network(ctx)
	if d.reached && filesAreGood {
		d.client(ctx)
		d.configKeys(ctx)
	}
	d.listeners(ctx)
}

// report notes a finding.
func (d *doctor) report(check string, g severity, subject, found, mend string) {
	d.findings = append(d.findings, finding{Check: check, Severity: g, Subject: subject, Message: found, Fix: mend})
}

// reportError notes an error. What it says itself about the mend goes before mend.
func (d *doctor) reportError(check, subject string, err error, mend string) {
	d.causes = append(d.causes, err)
	var (
		wrong *config.Error
		setup *credstore.SetupError
	)
	switch {
	case errors.As(err, &wrong):
		d.reportMistakes(check, wrong.Mistakes)
	case errors.As(err, &setup):
		d.report(check, severityError, subject, setup.Err.Error(), setup.Hint)
	default:
		d.report(check, severityError, subject, err.Error(), mend)
	}
}

func (d *doctor) reportMistakes(check string, mistakes []config.Mistake) {
	for _, m := range mistakes {
		mend := "correct it in the configuration"
		switch {
		case m.Variable != "":
			mend = "correct or remove the variable " + m.Variable
		case m.Line > 0:
			mend = fmt.Sprintf("correct it in %s, line %d", m.File, m.Line)
		case m.File != "":
			mend = "correct " + m.File
		case m.Key != "":
			mend = "correct " + m.Key + " in the configuration"
		}
		if check == checkFile {
			mend = "put the file right that it names, or " + mend
		}
		d.report(check, severityError, m.Key, m.Problem, mend)
	}
}

func (d *doctor) count(g severity) (n int) {
	for _, f := range d.findings {
		if f.Severity == g {
			n++
		}
	}
	return n
}

// unhealthyError says that doctor has found errors.
type unhealthyError struct {
	errors, warnings int
	causes           []error
}

func (e *unhealthyError) Error() string {
	return fmt.Sprintf("%s and %s found", plural(e.errors, "error"), plural(e.warnings, "warning"))
}

// Unwrap returns the errors that decide about the exit code.
func (e *unhealthyError) Unwrap() []error { return e.causes }

// validation returns an error if one was found.
func (d *doctor) verdict() error {
	if n := d.count(severityError); n > 0 {
		return &unhealthyError{errors: n, warnings: d.count(severityWarning), causes: d.causes}
	}
	return nil
}

func (d *doctor) print(healthy bool) error {
	if d.p.asJSON {
		return d.p.printJSON(diagnosis{Healthy: healthy, Findings: d.findings})
	}
	var rows [][]string
	for _, f := range d.findings {
		said := f.Message
		if f.Subject != "" {
			said = terminalText(&f.Subject) + ": " + said
		}
		rows = append(rows, []string{string(f.Severity), f.Check, said})
		if f.Fix != "" {
			rows = append(rows, []string{"", "", "→ " + f.Fix})
		}
	}
	if err := d.p.printTable(rows); err != nil || !healthy {
		return err
	}
	d.p.notef("no error and %s found", plural(d.count(severityWarning), "warning"))
	return nil
}

// capturingLogger returns a logger whose warnings become findings of the check.
func (d *doctor) capturingLogger(check, mend string) *zap.Logger {
	return zap.New(&capturingCore{LevelEnabler: zapcore.WarnLevel, capture: func(said string) {
		d.report(check, severityWarning, "", said, mend)
	}})
}

// capturingCore hands what is logged to a function.
type capturingCore struct {
	zapcore.LevelEnabler
	capture func(said string)
}

// With implements [zapcore.Core]. The fields are of no use here.
func (c *capturingCore) With([]zapcore.Field) zapcore.Core { return c }

// Check implements [zapcore.Core].
func (c *capturingCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

// Write implements [zapcore.Core].
func (c *capturingCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	said := []string{e.Message}
	for _, f := range fields {
		f.AddTo(values)
		said = append(said, fmt.Sprintf("%s %v", f.Key, values.Fields[f.Key]))
	}
	c.capture(strings.Join(said, ", "))
	return nil
}

// Sync implements [zapcore.Core].
func (c *capturingCore) Sync() error { return nil }
