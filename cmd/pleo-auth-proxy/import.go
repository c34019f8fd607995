package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

func newImportCommand(p *program) *cobra.Command {
	opts := manage.ImportOptions{OnResult: func(r manage.ImportResult) { noteImportResult(p, r) }}
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Import connections from JSON lines",
		Long: `Import connections with their credentials from a file of JSON lines, or from
standard input for -. Each line is an object:

  {"name":"acme","kind":"oauth","refresh_token":"…","access_token":"…",
   "expires_at":"2030-01-02T03:04:05Z","company_id":"…","external_tenant":"4711"}
  {"name":"beta","kind":"standalone_key","api_key":"…"}
  {"name":"crux","kind":"oauth","external_tenant":"4712"}

A line without a token or key, as export writes it, makes a connection that is
pending; with a company_id, for that company only. A line fails if its name or
company is taken; the other lines are imported, and the exit code is 1.

Nothing is refreshed during the import. From then on only this proxy may refresh
the imported tokens: if another program refreshes them too, Pleo revokes the grant.`,
		Example: `  pleo-auth-proxy connections import connections.jsonl
  pleo-auth-proxy connections import - --offline < connections.jsonl`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := p.openInput(args[0])
			if err != nil {
				return fmt.Errorf("opening the file to import: %w", err)
			}
			err = withNewConnections(cmd.Context(), p, opts.Offline, func(o *manage.Operator) error {
				report, err := o.Import(cmd.Context(), in, opts)
				return errors.Join(err, printImportReport(p, report))
			})
			return errors.Join(err, in.Close())
		},
	}
	cmd.Flags().BoolVar(&opts.Offline, "offline", false, "do not ask Pleo for the companies")
	cmd.Flags().BoolVar(&opts.AllowSharedCompany, "allow-shared-company", false, allowSharedUsage)
	return cmd
}

func noteImportResult(p *program, r manage.ImportResult) {
	name := ""
	if r.Name != nil {
		name = *r.Name + ": "
	}
	if r.Error != nil {
		p.notef("line %d: %serror: %s", r.Line, name, *r.Error)
	}
	if r.Warning != nil {
		p.notef("line %d: %swarning: %s", r.Line, name, *r.Warning)
	}
}

// printImportReport returns an error if a line failed.
func printImportReport(p *program, report manage.ImportReport) error {
	p.notef("imported %s; %s failed", plural(report.Imported, "connection"), plural(report.Failed, "line"))
	if report.Pending > 0 {
		p.notef("%d of them are pending: pleo-auth-proxy connect NAME prints a connect link for the customer", report.Pending)
	}
	if report.Tokens > 0 {
		p.notef("warning: from now on only this proxy may refresh the imported tokens; if another program refreshes them too, Pleo revokes the grant")
	}
	if p.asJSON {
		if err := p.printJSON(report); err != nil {
			return err
		}
	}
	if report.Failed > 0 {
		return fmt.Errorf("%s failed", plural(report.Failed, "line"))
	}
	return nil
}

func newExportCommand(p *program) *cobra.Command {
	var withSecrets bool
	cmd := &cobra.Command{
		Use:   "export [NAME...]",
		Short: "Export connections as JSON lines",
		Long: `Export connections as JSON lines for connections import: the named ones, or all.
Without secrets, each line makes a pending connection for the company that it has
now.

With --with-secrets the lines contain the tokens and keys, so that another program
or another store can take over. Each connection is disabled here in the same
transaction, because Pleo revokes the grant if two programs refresh the same tokens;
connections enable reverses that if the export was not used. A connection with a
refresh in flight or of unknown outcome, or with a rejected token, is skipped.
Protect the output as you would protect the keys.`,
		Example: `  pleo-auth-proxy connections export > connections.jsonl
  pleo-auth-proxy connections export acme --with-secrets > acme.jsonl`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withOperator(cmd.Context(), p, func(_ *config.Config, o *manage.Operator) error {
				return export(cmd, p, o, args, withSecrets)
			})
		},
	}
	cmd.Flags().BoolVar(&withSecrets, "with-secrets", false, "include tokens and keys, and disable the connections here")
	return cmd
}

func export(cmd *cobra.Command, p *program, o *manage.Operator, names []string, withSecrets bool) error {
	connections, err := selectConnections(cmd, o, names)
	if err != nil {
		return err
	}
	skipped := 0
	for _, c := range connections {
		line, staged := manage.NewConnectionLine(c), false
		if withSecrets {
			line, staged, err = o.Export(cmd.Context(), c)
		}
		if err != nil {
			skipped++
			p.notef("skipped: %v", err)
			continue
		}
		if staged {
			p.notef("warning: the staged key of connection %q is not exported", c.Name)
		}
		if err := line.Write(p.stdout); err != nil {
			return fmt.Errorf("writing connection %q: %w", c.Name, err)
		}
	}
	p.notef("exported %s", plural(len(connections)-skipped, "connection"))
	if withSecrets && len(connections) > skipped {
		p.notef("the exported connections are disabled here: if two programs refresh the same tokens, Pleo revokes the grant")
	}
	if skipped > 0 {
		return fmt.Errorf("skipped %s", plural(skipped, "connection"))
	}
	return nil
}

// selectConnections returns the named connections, or all.
func selectConnections(cmd *cobra.Command, o *manage.Operator, names []string) (selected []credstore.Connection, err error) {
	if len(names) == 0 {
		return o.ListAll(cmd.Context(), "")
	}
	for _, name := range names {
		c, err := o.Find(cmd.Context(), name)
		if err != nil {
			return nil, err
		}
		selected = append(selected, c)
	}
	return selected, nil
}
