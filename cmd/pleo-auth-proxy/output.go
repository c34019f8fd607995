package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// notef prints a message for people on standard error. It cannot report that this
// fails.
func (p *program) notef(format string, args ...any) {
	_, _ = fmt.Fprintf(p.stderr, "pleo-auth-proxy: "+format+"\n", args...)
}

// printJSON prints the JSON document of a command.
func (p *program) printJSON(v any) error {
	enc := json.NewEncoder(p.stdout)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// printTable prints rows with aligned columns.
func (p *program) printTable(rows [][]string) error {
	w := tabwriter.NewWriter(p.stdout, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		_, _ = fmt.Fprintln(w, strings.Join(row, "\t")) // Flush returns its error
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// dash is printed where there is no value.
const dash = "-"

// terminalText returns s for a terminal, quoted if it contains what a terminal might
// interpret: names of tenants and companies come from outside.
func terminalText(s *string) string {
	if s == nil {
		return dash
	}
	if quoted := strconv.Quote(*s); strings.Contains(quoted, `\`) {
		return quoted
	}
	return *s
}

func formatTime(t *time.Time) string {
	if t == nil {
		return dash
	}
	return t.Format(time.RFC3339)
}

// plural returns a number with what it counts, such as "2 connections".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
