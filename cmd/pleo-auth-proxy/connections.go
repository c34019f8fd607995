package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

func newConnectionsCommand(p *program) *cobra.Command {
	cmd := newCommandGroup(&cobra.Command{
		Use:   "connections",
		Short: "Manage connections",
		Long: `Manage the connections in the store. A running server applies each change within
a second.`,
		Example: `  pleo-auth-proxy connections add acme --kind oauth
  pleo-auth-proxy connections list`,
	})
	cmd.AddCommand(
		newAddCommand(p), newListCommand(p), newShowCommand(p), newCheckCommand(p), newHistoryCommand(p),
		newSetKeyCommand(p), newRefreshCommand(p), newRetryCommand(p), newDisableCommand(p), newEnableCommand(p),
		newImportCommand(p), newExportCommand(p), newRemoveCommand(p),
	)
	return cmd
}

func newListCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all connections",
		Example: `  pleo-auth-proxy connections list
  pleo-auth-proxy connections list --json`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withOperator(cmd.Context(), p, func(_ *config.Config, o *manage.Operator) error {
				all, err := o.ListAll(cmd.Context(), "")
				if err != nil {
					return err
				}
				return printConnections(p, all)
			})
		},
	}
}

func printConnections(p *program, connections []credstore.Connection) error {
	page := manage.DescribePage(credstore.Page{Connections: connections})
	if p.asJSON {
		return p.printJSON(page)
	}
	rows := [][]string{{"NAME", "KIND", "STATUS", "REASON", "COMPANY", "TENANT", "EXPIRES"}}
	for _, c := range page.Connections {
		company := c.CompanyName
		if company == nil {
			company = c.CompanyID
		}
		rows = append(rows, []string{
			c.Name, c.Kind, c.Status, terminalText(c.Reason), terminalText(company), terminalText(c.ExternalTenant), formatTime(c.ExpiresAt),
		})
	}
	return p.printTable(rows)
}

func newShowCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show one connection",
		Example: `  pleo-auth-proxy connections show acme`,
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withConnection(cmd.Context(), p, args[0], func(_ *manage.Operator, c credstore.Connection) error {
				return printConnection(p, c)
			})
		},
	}
}

// printConnection prints all that there is to know about a connection.
func printConnection(p *program, conn credstore.Connection) error {
	c := manage.Describe(conn)
	if p.asJSON {
		return p.printJSON(c)
	}
	version := dash
	if c.Version != nil {
		version = fmt.Sprint(*c.Version)
	}
	lastError := dash
	if f := c.LastError; f != nil {
		lastError = fmt.Sprintf("%s: %s (%s)", terminalText(&f.Code), terminalText(&f.Message), f.At.Format(time.RFC3339))
	}
	return p.printTable([][]string{
		{"name", c.Name},
		{"kind", c.Kind},
		{"status", c.Status},
		{"reason", terminalText(c.Reason)},
		{"company id", terminalText(c.CompanyID)},
		{"company name", terminalText(c.CompanyName)},
		{"subject", terminalText(c.Subject)},
		{"external tenant", terminalText(c.ExternalTenant)},
		{"version", version},
		{"expires at", formatTime(c.ExpiresAt)},
		{"refreshed at", formatTime(c.RefreshedAt)},
		{"last error", lastError},
		{"created at", formatTime(c.CreatedAt)},
	})
}

// printChanged prints a connection after a change that a message has described: as
// JSON, or not at all.
func printChanged(p *program, c credstore.Connection) error {
	if !p.asJSON {
		return nil
	}
	return p.printJSON(manage.Describe(c))
}

// statusOf returns the status of a connection with its reason.
func statusOf(c credstore.Connection) string {
	if c.Reason == "" {
		return string(c.Status)
	}
	return fmt.Sprintf("%s (%s)", c.Status, c.Reason)
}

// maxPageSize is the largest page of a history.
const maxPageSize = 200

func newHistoryCommand(p *program) *cobra.Command {
	var (
		limit  int
		cursor string
	)
	cmd := &cobra.Command{
		Use:   "history NAME",
		Short: "Show the history of a connection",
		Long: `Show what happened to a connection and who did it, latest first: consents and
keys, refreshes and failures, changes by operators. Events are kept for 400 days,
also those of a removed connection; of frequent ones, only the latest are kept.`,
		Example: `  pleo-auth-proxy connections history acme
  pleo-auth-proxy connections history acme --limit 20`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 || limit > maxPageSize {
				return &usageError{command: cmd.CommandPath(), err: fmt.Errorf("--limit must be a number from 1 to %d", maxPageSize)}
			}
			return withOperator(cmd.Context(), p, func(_ *config.Config, o *manage.Operator) error {
				c, removed, err := o.FindWithRemoved(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				page, err := o.Store.Events(cmd.Context(), c.ID, cursor, limit)
				if err != nil {
					return err
				}
				if removed {
					p.notef("connection %q was removed; showing its last history", args[0])
				}
				return printHistory(p, page)
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", maxPageSize, "show at most `N` events")
	cmd.Flags().StringVar(&cursor, "cursor", "", "continue at the `CURSOR` that the previous page ended with")
	return cmd
}

func printHistory(p *program, page credstore.HistoryPage) error {
	if p.asJSON {
		return p.printJSON(manage.DescribeHistory(page))
	}
	rows := [][]string{{"TIME", "EVENT", "STATUS", "ACTOR", "CODE", "MESSAGE"}}
	for _, e := range manage.DescribeHistory(page).Events {
		rows = append(rows, []string{e.At.Format(time.RFC3339), e.Type, e.Status, e.Actor, terminalText(e.Code), terminalText(e.Message)})
	}
	if page.Next != "" {
		p.notef("there are more events: use --cursor %s", page.Next)
	}
	return p.printTable(rows)
}

func newDisableCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "disable NAME",
		Short: "Disable a connection",
		Long: `Disable a connection: requests that name it get 403, and it is not refreshed. Its
credential is kept until you enable or remove the connection. A refresh token
that is not used for 60 days may expire at Pleo.`,
		Example: `  pleo-auth-proxy connections disable acme`,
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withConnection(cmd.Context(), p, args[0], func(o *manage.Operator, c credstore.Connection) error {
				c, err := o.Disable(cmd.Context(), c)
				return reportStatus(p, c, err)
			})
		},
	}
}

func newEnableCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "enable NAME",
		Short: "Enable a disabled connection",
		Long: `Enable a disabled connection. It gets the status that it would have if it had not
been disabled. Do not enable a connection whose exported secrets are in use
elsewhere: if another program refreshes its tokens too, Pleo revokes the grant.`,
		Example: `  pleo-auth-proxy connections enable acme`,
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withConnection(cmd.Context(), p, args[0], func(o *manage.Operator, c credstore.Connection) error {
				c, err := o.Enable(cmd.Context(), c)
				return reportStatus(p, c, err)
			})
		},
	}
}

func reportStatus(p *program, c credstore.Connection, err error) error {
	if err != nil {
		return err
	}
	p.notef("connection %q is %s", c.Name, statusOf(c))
	return printChanged(p, c)
}

func newRemoveCommand(p *program) *cobra.Command {
	var uninstall bool
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a connection and its credential",
		Long: `Remove a connection and its credential. Pleo has no endpoint that revokes a grant
or a key: any copy of the credential stays valid until the customer removes the
integration or the key in Pleo.

With --uninstall, first uninstall the integration at the customer's company
(DELETE /v1/installations/me), which ends all tokens that your client has there; a
key may stay valid. The connection is removed even if that fails; the exit code is
then 1.`,
		Example: `  pleo-auth-proxy connections remove acme
  pleo-auth-proxy connections remove acme --uninstall`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withOperator(cmd.Context(), p, func(cfg *config.Config, o *manage.Operator) (err error) {
				if uninstall {
					if o.API, err = setup.OpenAPI(cfg); err != nil {
						return err
					}
				}
				c, err := o.Find(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				removal, err := o.Remove(cmd.Context(), c, uninstall)
				if err != nil {
					return errors.Join(err, removal.Err)
				}
				if removal.Err != nil {
					err = fmt.Errorf("removed connection %q. %s", c.Name, removal.Message)
				} else {
					p.notef("removed connection %q. %s", c.Name, removal.Message)
				}
				return errors.Join(printChanged(p, c), err)
			})
		},
	}
	cmd.Flags().BoolVar(&uninstall, "uninstall", false, "uninstall the integration at Pleo first")
	return cmd
}
