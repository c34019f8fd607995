package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/doctor"
)

// defaultMaxChecks is how many connections doctor asks Pleo about.
const defaultMaxChecks = 20

func newDoctorCommand(p *program) *cobra.Command {
	var maxChecks int
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Diagnose problems and show how to fix them",
		Long: `Check the configuration, the files that it names, the keyset and the store, the
network, the clock, the listeners and the connections, and show what is wrong and
how to fix it.

You can run it beside a server: it sends no refresh token to the token endpoint,
and uses introspection only. Run it as the user that the server runs as, because
another user may be able to read other files. It sends a TRACE request to each
listener of a running proxy, which logs it with status 405.

It exits 0 if there are no errors; warnings do not count.`,
		Example: `  pleo-auth-proxy doctor
  pleo-auth-proxy doctor --ask 0 --json`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return diagnose(cmd.Context(), p, maxChecks) },
	}
	cmd.Flags().IntVar(&maxChecks, "ask", defaultMaxChecks, "ask Pleo about at most `N` connections; 0 asks about none")
	return cmd
}

func diagnose(ctx context.Context, p *program, maxChecks int) error {
	d := doctor.Run(ctx, doctor.Options{Load: p.loadConfig, Environ: p.environ, Root: p.root, MaxChecks: maxChecks})
	if err := printDiagnosis(p, d); err != nil {
		return err
	}
	return d.Err()
}

func printDiagnosis(p *program, d *doctor.Diagnosis) error {
	if p.asJSON {
		return p.printJSON(d)
	}
	var rows [][]string
	for _, f := range d.Findings {
		message := f.Message
		if f.Subject != "" {
			message = terminalText(&f.Subject) + ": " + message
		}
		rows = append(rows, []string{string(f.Severity), f.Check, message})
		if f.Fix != "" {
			rows = append(rows, []string{"", "", "→ " + f.Fix})
		}
	}
	if err := p.printTable(rows); err != nil {
		return err
	}
	if d.Healthy {
		p.notef("found no errors and %s", plural(d.Count(doctor.Warning), "warning"))
	}
	return nil
}
