package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// errUsage is wrapped by errors in flags and settings, which exit with status 2.
var errUsage = errors.New("wrong usage")

func exitCode(err error) int {
	if errors.Is(err, errUsage) {
		return 2
	}
	return 1
}

// options holds the values of the flags.
type options struct {
	listen, authListen, controlListen string
	tlsCert, tlsKey                   string
	settingsFile                      string
	companies                         int
	faults                            []string
	logLevel                          string

	// These override the settings file if their flags are given.
	client  simulator.Client
	latency simulator.Duration
	oauth   simulator.OAuthSettings
	api     simulator.APISettings
}

func newCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use: "pleo-sim", Short: "Serve a simulated Pleo to develop against", Long: longHelp, Example: exampleHelp,
		Args: usageArgs(cobra.NoArgs), SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sim, err := o.simulator(cmd)
			if err != nil {
				return err
			}
			return o.serve(cmd.Context(), sim, cmd.OutOrStdout())
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	o.addProgramFlags(cmd)
	o.addSettingsFlags(cmd)
	cmd.AddCommand(newSettingsCommand())
	return cmd
}

func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		return nil
	}
}

func newSettingsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "settings", Short: "Print example settings with every member",
		Long: "Print example settings to standard output.\n\nMembers with a fixed set of values (the first is the default):\n\n" +
			simulator.ExplainChoices(),
		Example: "  pleo-sim settings > sim.json",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := fmt.Fprint(cmd.OutOrStdout(), simulator.ExampleSettings()); err != nil {
				return fmt.Errorf("printing the settings: %w", err)
			}
			return nil
		},
	}
}

func (o *options) addProgramFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", "127.0.0.1:8490", "`address` of the API, and of everything without an address of its own; port 0: any free port")
	f.StringVar(&o.authListen, "auth-listen", "", "`address` of the authorization server (default: that of --listen)")
	f.StringVar(&o.controlListen, "control-listen", "", "`address` of the control endpoint (default: that of --listen)")
	f.StringVar(&o.tlsCert, "tls-cert", "", "certificate `file` (PEM) to serve API and authorization server over TLS")
	f.StringVar(&o.tlsKey, "tls-key", "", "key `file` (PEM) of the certificate")
	f.StringVar(&o.settingsFile, "settings", "", "settings `file` (JSON)")
	f.IntVar(&o.companies, "companies", 0, "`number` of companies to add")
	f.StringArrayVar(&o.faults, "fault", nil, "fault to start with (`JSON`, as for POST /_control/faults); repeatable")
	f.StringVar(&o.logLevel, "log-level", "info", "log `level`: debug, info, warn or error")
}

func (o *options) addSettingsFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	duration := func(d *simulator.Duration, name string, value time.Duration, usage string) {
		f.DurationVar((*time.Duration)(d), name, value, usage)
	}
	f.StringVar(&o.client.ID, "client-id", simulator.DefaultClientID, "id of the OAuth client")
	f.StringVar(&o.client.Secret, "client-secret", simulator.DefaultClientSecret, "secret of the OAuth client")
	f.StringArrayVar(&o.client.RedirectURIs, "redirect-uri", []string{simulator.DefaultRedirectURI}, "redirect URI of the OAuth client; repeatable")
	duration(&o.oauth.AccessTokenLifetime, "access-token-lifetime", 15*time.Minute, "lifetime of access tokens")
	duration(&o.oauth.RefreshTokenLifetime, "refresh-token-lifetime", 60*24*time.Hour, "lifetime of refresh tokens")
	duration(&o.oauth.CodeLifetime, "code-lifetime", time.Minute, "lifetime of authorization codes")
	duration(&o.oauth.Grace, "grace", 0, "how long a used refresh token is accepted once more")
	duration(&o.latency, "latency", 0, "delay of every response")
	f.StringSliceVar(&o.oauth.ClientAuth, "client-auth", []string{"basic"}, "accepted client authentication: basic, basic_plain, post")
	f.StringVar(&o.oauth.Consent, "consent", "auto", "decision at the authorization endpoint: auto, page or deny")
	f.StringVar(&o.oauth.ExpiresIn, "expires-in", "number", "form of expires_in: number, string, fraction, absent, null, zero, negative or huge")
	f.StringVar(&o.oauth.Reuse, "reuse", "revoke", "when a used refresh token is sent again: revoke the grant, or only reject the request")
	f.StringVar(&o.oauth.OldAccessToken, "old-access-token", "dies", "at a refresh the old access token dies or survives")
	f.StringVar(&o.oauth.RejectionCode, "rejection-code", "invalid_refresh_token", "error code for an invalid refresh token")
	f.IntVar(&o.oauth.RejectionStatus, "rejection-status", 400, "status code for an invalid refresh token")
	f.StringVar(&o.api.UnauthorizedBody, "unauthorized-body", "exception_info", "body of a 401: exception_info, empty or plain")
	f.StringVar(&o.oauth.Introspection, "introspection", "works", "token introspection: works, absent, access_only, always_active or always_inactive")
}

// settings reads the settings file and applies the flags that were given.
func (o *options) settings(cmd *cobra.Command) (simulator.Settings, error) {
	s, err := o.readSettings()
	if err != nil {
		return simulator.Settings{}, err
	}
	for name, apply := range o.overrides(&s) {
		if cmd.Flags().Changed(name) {
			apply()
		}
	}
	return s, nil
}

func (o *options) readSettings() (simulator.Settings, error) {
	if o.settingsFile == "" {
		return simulator.Settings{}, nil
	}
	f, err := os.Open(o.settingsFile)
	if err != nil {
		return simulator.Settings{}, fmt.Errorf("%w: opening the settings: %w", errUsage, err)
	}
	defer func() { _ = f.Close() }() // only read
	s, err := simulator.ReadSettings(f)
	if err != nil {
		return simulator.Settings{}, fmt.Errorf("%w: %s: %w", errUsage, o.settingsFile, err)
	}
	return s, nil
}

// overrides maps the names of flags to functions that apply them to the settings.
func (o *options) overrides(s *simulator.Settings) map[string]func() {
	to, from := &s.OAuth, &o.oauth
	return map[string]func(){
		"client-id":              func() { o.firstClient(s).ID = o.client.ID },
		"client-secret":          func() { o.firstClient(s).Secret = o.client.Secret },
		"redirect-uri":           func() { o.firstClient(s).RedirectURIs = o.client.RedirectURIs },
		"latency":                func() { s.Latency = o.latency },
		"unauthorized-body":      func() { s.API = o.api },
		"access-token-lifetime":  func() { to.AccessTokenLifetime = from.AccessTokenLifetime },
		"refresh-token-lifetime": func() { to.RefreshTokenLifetime = from.RefreshTokenLifetime },
		"code-lifetime":          func() { to.CodeLifetime = from.CodeLifetime },
		"grace":                  func() { to.Grace = from.Grace },
		"client-auth":            func() { to.ClientAuth = from.ClientAuth },
		"consent":                func() { to.Consent = from.Consent },
		"expires-in":             func() { to.ExpiresIn = from.ExpiresIn },
		"reuse":                  func() { to.Reuse = from.Reuse },
		"old-access-token":       func() { to.OldAccessToken = from.OldAccessToken },
		"rejection-code":         func() { to.RejectionCode = from.RejectionCode },
		"rejection-status":       func() { to.RejectionStatus = from.RejectionStatus },
		"introspection":          func() { to.Introspection = from.Introspection },
	}
}

// firstClient returns the first client of the settings, and adds one if there is
// none.
func (o *options) firstClient(s *simulator.Settings) *simulator.Client {
	if len(s.Clients) == 0 {
		c := o.client
		c.Name = "Simulated integration"
		s.Clients = []simulator.Client{c}
	}
	return &s.Clients[0]
}

// simulator returns the simulator with its companies and faults.
func (o *options) simulator(cmd *cobra.Command) (*simulator.Simulator, error) {
	settings, err := o.settings(cmd)
	if err != nil {
		return nil, err
	}
	logger, err := newLogger(o.logLevel, cmd.ErrOrStderr())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	sim, err := simulator.New(simulator.Config{Settings: settings, Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	for range o.companies {
		if _, err := sim.AddCompany(simulator.Company{}); err != nil {
			return nil, fmt.Errorf("adding companies: %w", err)
		}
	}
	return sim, o.setFaults(sim)
}

func (o *options) setFaults(sim *simulator.Simulator) error {
	for _, text := range o.faults {
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		var f simulator.Fault
		if err := d.Decode(&f); err != nil {
			return fmt.Errorf("%w: reading --fault %s: %w", errUsage, text, err)
		}
		if _, err := sim.SetFault(f); err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
	}
	return nil
}
