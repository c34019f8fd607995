package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

func newConnectCommand(p *program) *cobra.Command {
	var r credstore.LinkRequest
	cmd := &cobra.Command{
		Use:   "connect NAME",
		Short: "Print a connect link for a customer",
		Long: `Print a connect link for a customer. Send it to the customer's admin, who gives
consent in Pleo or enters an API key. The link works once. The same link is
printed again while at least half of its time is left, unless it was used, --ttl
asks for another time, or --fresh for another link.

The link works for everyone who has it, so send it the way you would send a
password.`,
		Example: `  pleo-auth-proxy connect acme
  pleo-auth-proxy connect acme --ttl 24h --return-url https://books.example.com/done`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.TTL < 0 || r.TTL > credstore.MaxLinkTTL || r.TTL == 0 && cmd.Flags().Changed("ttl") {
				return &usageError{command: cmd.CommandPath(), err: errors.New("--ttl must be a time such as 1h, of 90 days at most")}
			}
			return withConnection(cmd.Context(), p, args[0], func(o *manage.Operator, c credstore.Connection) error {
				link, err := o.Link(cmd.Context(), c, r)
				if err != nil {
					return err
				}
				return printLink(p, c, link)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&r.ReturnURL, "return-url", "", "`URL` that the browser returns to at the end, one of connect.return_urls")
	flags.DurationVar(&r.TTL, "ttl", 0, "how long the link is valid (default connect.link_ttl)")
	flags.BoolVar(&r.ReplaceExisting, "fresh", false, "make a new link, and end the earlier ones")
	flags.BoolVar(&r.AllowOtherCompany, "allow-other-company", false, allowOtherUsage)
	flags.BoolVar(&r.AllowSharedCompany, "allow-shared-company", false, allowSharedUsage)
	return cmd
}

// linkResult is what connect prints with --json.
type linkResult struct {
	Connection string    `json:"connection"`
	ConnectURL string    `json:"connect_url"`
	ExpiresAt  time.Time `json:"expires_at"`
}

func printLink(p *program, c credstore.Connection, link manage.Link) error {
	if c.Status == credstore.Disabled && c.Reason != credstore.ReasonCompanyConflict {
		p.notef("warning: connection %q is disabled, so the link is not valid until you enable it", c.Name)
	}
	if p.asJSON {
		return p.printJSON(linkResult{Connection: c.Name, ConnectURL: link.URL.Reveal(), ExpiresAt: link.ExpiresAt.UTC()})
	}
	_, err := fmt.Fprintln(p.stdout, link.URL.Reveal())
	return err
}
