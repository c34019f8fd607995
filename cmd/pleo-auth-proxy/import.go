package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

func (p *program) importCommand() *cobra.Command {
	var offline, shared bool
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Adds connections from JSON lines",
		Long: `Adds connections with the credentials that they have elsewhere, from a file of
JSON lines, or from standard input for -. Each line is an object:

  {"name":"acme","kind":"oauth","refresh_token":"…","access_token":"…",
   "expires_at":"2030-01-02T03:04:05Z","company_id":"…","external_tenant":"4711"}
  {"name":"beta","kind":"standalone_key","api_key":"…"}
  {"name":"crux","kind":"oauth","external_tenant":"4712"}

A line without token and key, as export writes them, is a connection that waits
for its customer; with a company_id, for that company only. A line whose name exists or whose company is bound already is refused, the others
are done, and the exit code is 1. Nothing is refreshed. From then on only this
proxy may refresh these tokens: of two owners of one refresh token, one kills it.`,
		Args: args("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.importFile(cmd.Context(), args[0], offline, shared)
		},
	}
	cmd.Flags().BoolVar(&offline, "offline", false, "do not ask the API for the companies")
	cmd.Flags().BoolVar(&shared, "allow-shared-company", false, sharedUsage)
	return cmd
}

func (p *program) importFile(ctx context.Context, path string, offline, shared bool) error {
	in, err := p.openInput(path)
	if err != nil {
		return fmt.Errorf("opening the file to import: %w", err)
	}
	err = p.withImporter(ctx, offline, func(to *importer) error {
		tokens := false // a refresh token was imported
		run := manage.Importer{AllowSharedCompany: shared, OnResult: p.printImportedLine, Add: func(ctx context.Context, n credstore.NewConnection) (string, error) {
			_, warning, err := to.create(ctx, n)
			tokens = tokens || err == nil && n.Kind == credstore.OAuth && n.Credential != nil
			return warning, err
		}}
		report, err := run.Run(ctx, in)
		return errors.Join(err, p.printImportReport(report, tokens))
	})
	return errors.Join(err, in.Close())
}

func (p *program) printImportedLine(l manage.ImportResult) {
	name := ""
	if l.Name != nil {
		name = *l.Name + ": "
	}
	if l.Error != nil {
		p.notef("line %d: %srefused: %s", l.Line, name, *l.Error)
	}
	if l.Warning != nil {
		p.notef("line %d: %swarning: %s", l.Line, name, *l.Warning)
	}
}

// printImportReport says how it went. Refused lines make the import as a whole fail.
func (p *program) printImportReport(report manage.ImportReport, tokens bool) error {
	p.notef("imported %d connections, refused %d", report.Imported, report.Failed)
	if report.Pending > 0 {
		p.notef("%d of them wait for their customers: pleo-auth-proxy connect NAME prints a link for each", report.Pending)
	}
	if tokens {
		p.notef("warning: from now on only this proxy may refresh the imported tokens; of two owners of one refresh token, one kills it for both")
	}
	if p.asJSON {
		if err := p.printJSON(report); err != nil {
			return err
		}
	}
	if report.Failed > 0 {
		return fmt.Errorf("%d lines were refused", report.Failed)
	}
	return nil
}
