package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// notef tells people something. If it cannot be written there is nobody to tell.
func (p *program) notef(format string, args ...any) {
	_, _ = fmt.Fprintf(p.stderr, "pleo-auth-proxy: "+format+"\n", args...)
}

// printJSON writes the one JSON document of a command.
func (p *program) printJSON(v any) error {
	enc := json.NewEncoder(p.stdout)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// printLine writes a JSON document on one line, for programs that go on after it.
func (p *program) printLine(v any) error {
	if err := json.NewEncoder(p.stdout).Encode(v); err != nil {
		return fmt.Errorf("writing the addresses: %w", err)
	}
	return nil
}

// printConnection writes one connection, as JSON or for people.
func (p *program) printConnection(c manage.Connection) error {
	if p.asJSON {
		return p.printJSON(c)
	}
	w := tabwriter.NewWriter(p.stdout, 0, 8, 2, ' ', 0)
	for _, row := range []struct{ label, value string }{
		{"name", c.Name},
		{"kind", c.Kind},
		{"status", c.Status},
		{"reason", terminalText(c.Reason)},
		{"company id", terminalText(c.CompanyID)},
		{"company name", terminalText(c.CompanyName)},
		{"subject", terminalText(c.Subject)},
		{"external tenant", terminalText(c.ExternalTenant)},
		{"version", formatNumber(c.Version)},
		{"expires at", formatTime(c.ExpiresAt)},
		{"refreshed at", formatTime(c.RefreshedAt)},
		{"last error", formatFailure(c.LastError)},
		{"created at", formatTime(c.CreatedAt)},
	} {
		_, _ = fmt.Fprintf(w, "%s\t%s\n", row.label, row.value)
	}
	return flush(w)
}

// printKeysetStatus writes the keys as lines with columns.
func (p *program) printKeysetStatus(s keysetStatus) error {
	w := tabwriter.NewWriter(p.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tUSE\tCONNECTIONS\tSPOOL\tCAN RETIRE")
	for _, k := range s.Keys {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", k.Fingerprint, keyUse(k), k.Rows, k.SpoolRecords, yesNo(k.CanRetire))
	}
	if s.UnknownRows > 0 || s.UnknownSpoolRecords > 0 {
		fmt.Fprintf(w, "not in the keyset\t\t%d\t%d\t%s\n", s.UnknownRows, s.UnknownSpoolRecords, dash)
	}
	return flush(w)
}

// keyUse says what a key is used for.
func keyUse(k keyStatus) string {
	switch {
	case k.Primary && k.Store:
		return "primary"
	case k.Primary:
		return "primary, not in the store yet"
	case k.Store:
		return "of the store"
	}
	return dash
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// table writes connections as lines with columns. Its errors show when it is
// flushed.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer) *table {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "NAME\tKIND\tSTATUS\tREASON\tCOMPANY\tTENANT\tEXPIRES")
	return &table{w: w}
}

func (t *table) add(c manage.Connection) {
	company := c.CompanyName
	if company == nil {
		company = c.CompanyID
	}
	_, _ = fmt.Fprintf(t.w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
		c.Name, c.Kind, c.Status, terminalText(c.Reason), terminalText(company), terminalText(c.ExternalTenant), formatTime(c.ExpiresAt))
}

func flush(w *tabwriter.Writer) error {
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// dash stands where there is no value.
const dash = "-"

// terminalText returns s for a terminal, quoted where it holds what a terminal might
// obey: names of tenants and companies come from outside.
func terminalText(s *string) string {
	if s == nil {
		return dash
	}
	if quoted := strconv.Quote(*s); strings.Contains(quoted, `\`) {
		return quoted
	}
	return *s
}

func formatNumber(n *int64) string {
	if n == nil {
		return dash
	}
	return strconv.FormatInt(*n, 10)
}

func formatTime(t *time.Time) string {
	if t == nil {
		return dash
	}
	return t.Format(time.RFC3339)
}

func formatFailure(f *manage.Failure) string {
	if f == nil {
		return dash
	}
	return fmt.Sprintf("%s: %s (%s)", terminalText(&f.Code), terminalText(&f.Message), f.At.Format(time.RFC3339))
}
