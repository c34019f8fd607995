package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/connect"
)

func (p *program) connectCommand() *cobra.Command {
	var r credstore.LinkRequest
	cmd := &cobra.Command{
		Use:   "connect NAME",
		Short: "Prints a link by which a customer connects or reconnects Pleo",
		Long: `Prints a connect link, and nothing else: send it to the customer's admin, who
approves in Pleo or enters an API key. It can be used once. The same link is
printed again while half of its time is left, unless it has been used, --ttl asks
for another time, or --fresh for another link.

Whoever has the link can use it, so send it the way that you would send a
password.`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.TTL < 0 || r.TTL > credstore.MaxLinkTTL || r.TTL == 0 && cmd.Flags().Changed("ttl") {
				return &usageError{command: cmd.CommandPath(), err: errors.New("--ttl wants a time such as 1h, of 90 days at most")}
			}
			return p.connect(cmd.Context(), args[0], r)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&r.ReturnURL, "return-url", "", "where the browser goes in the end, one of connect.return_urls")
	flags.DurationVar(&r.TTL, "ttl", 0, "how long the link can be used at most (default connect.link_ttl)")
	flags.BoolVar(&r.ReplaceExisting, "fresh", false, "make a new link, and end those before")
	flags.BoolVar(&r.AllowOtherCompany, "allow-other-company", false, "let the connection move to another Pleo company")
	flags.BoolVar(&r.AllowSharedCompany, "allow-shared-company", false, "let it have a Pleo company that another connection has")
	return cmd
}

// linkResult is what --json prints.
type linkResult struct {
	Connection string    `json:"connection"`
	ConnectURL string    `json:"connect_url"`
	ExpiresAt  time.Time `json:"expires_at"`
}

func (p *program) connect(ctx context.Context, name string, r credstore.LinkRequest) error {
	cfg, store, err := p.openStore(ctx)
	if err != nil {
		return err
	}
	return errors.Join(p.printLink(ctx, cfg, store.Store, name, r), store.Close())
}

func (p *program) printLink(ctx context.Context, cfg *config.Config, store credstore.Store, name string, r credstore.LinkRequest) error {
	c, err := find(ctx, store, name)
	if err != nil {
		return err
	}
	link, l, err := newLinker(cfg, store).Issue(ctx, c.ID, r)
	if errors.Is(err, connect.ErrNoPublicURL) {
		return &config.Error{Mistakes: []config.Mistake{{Key: "connect.public_url", Problem: "is needed for connect links: set it to where browsers reach connect.listen"}}}
	}
	if errors.Is(err, connect.ErrReturnURL) {
		return &usageError{command: "pleo-auth-proxy connect", err: err}
	}
	if err != nil {
		return fmt.Errorf("making a link for connection %q: %w", name, err)
	}
	if c.Status == credstore.Disabled && c.Reason != credstore.ReasonCompanyConflict {
		p.notef("warning: connection %q is disabled, so the link leads nowhere before connections enable", name)
	}
	if p.asJSON {
		return p.printJSON(linkResult{Connection: c.Name, ConnectURL: link, ExpiresAt: l.ExpiresAt.UTC()})
	}
	_, err = fmt.Fprintln(p.stdout, link)
	return err
}
