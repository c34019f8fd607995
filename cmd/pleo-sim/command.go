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

const longHelp = `pleo-sim plays Pleo on this machine: the authorization server, the API and a
control endpoint, all in memory, for programs in any language.

When it is ready it prints one line of JSON to standard output:

  {"api_url":"http://127.0.0.1:8490","auth_url":…,"control_url":…,
   "client_id":…,"client_secret":…,"redirect_uris":[…],
   "companies":[{"id":…,"name":…,…}],"keys":[{"id":…,"kind":…,"key":…,…}]}

Logs go to standard error. SIGTERM and SIGINT end it with exit status 0.

Endpoints
  auth_url     GET /oauth/authorize, POST /oauth/token, POST /oauth/token/introspect
  api_url      /v1/introspect  /v1/installations/me  /v1/installations/me:activate
               /v1/installations/completions  /v2/employees  /v1/companies
               /v3/export-jobs  /v3/export-job-events  /v3/export-items
               /v2/accounting-entries:enrich
               /echo and below: tells what arrived, any method
  control_url  below, from this machine only

Control (JSON in, JSON out)
  GET    /_control/settings
  PATCH  /_control/settings               {"oauth":{"reuse":"refuse"}}
  GET    /_control/companies
  POST   /_control/companies              {"name":"Acme"}
  POST   /_control/clients                {"id":"c1","secret":"s","redirect_uris":["http://127.0.0.1/cb"]}
  GET    /_control/grants
  POST   /_control/grants                 {"company":"Acme","access_token_lifetime":"4s"}; {} makes a company too
  DELETE /_control/grants/g1              the customer revokes the grant
  POST   /_control/grants/revoke          {"grant":"g1"} or {"company_id":"…"}; {} revokes all
  POST   /_control/keys                   {"kind":"integrated_key","company":"Acme","expires_in":"1h"}
  DELETE /_control/keys/k1
  POST   /_control/access-tokens/kill     {"grant":"g1"} or {"company_id":"…"}; {} kills all
  POST   /_control/refresh-tokens/expire  the same
  GET    /_control/faults
  POST   /_control/faults                 see below
  DELETE /_control/faults/f1              clears it and releases what hangs on it; without an id: all
  GET    /_control/counters               DELETE sets them to zero
  GET    /_control/events?after=0&wait=30s&phase=received|held|committed|refused|answered&grant=g1

Faults
  target  token (default), introspection, api, all
  kind    delay, hang, drop, reset, truncate, status, html, garbage, unauthorized
  when    before_commit (default) or after_commit: before or after the request took effect
  and     count (0: until cleared), skip, grant (or key), company_id, path, delay, abandon,
          cut, cut_behind, cut_reset, status, body, retry_after (seconds|date|none), wait
  {"kind":"drop","when":"after_commit","count":1}          rotated, but the answer is lost
  {"kind":"truncate","cut_behind":"refresh_token"}
  {"kind":"status","status":429,"retry_after":"seconds","wait":"7s","target":"api"}
  {"kind":"unauthorized","target":"api","count":3}         401 for good tokens

Settings are a JSON file; "pleo-sim settings" prints one that shows every member,
and the words that each takes. Flags win over the file.`

const exampleHelp = `  pleo-sim
  pleo-sim --access-token-lifetime 4s --client-auth basic,post
  pleo-sim --listen 127.0.0.1:0 --fault '{"kind":"status","status":503,"count":2}'
  pleo-sim settings > sim.json && pleo-sim --settings sim.json
  curl -d '{}' http://127.0.0.1:8490/_control/grants`

// errUsage is wrapped by the errors about flags and settings: exit status 2.
var errUsage = errors.New("wrong usage")

func exitCode(err error) int {
	if errors.Is(err, errUsage) {
		return 2
	}
	return 1
}

// options is what the flags say.
type options struct {
	listen, authListen, controlListen string
	tlsCert, tlsKey                   string
	settingsFile                      string
	companies                         int
	faults                            []string
	logLevel                          string

	clientID, clientSecret        string
	redirectURIs                  []string
	accessLifetime, refreshLife   time.Duration
	codeLifetime, grace, latency  time.Duration
	clientAuth                    []string
	consent, expiresIn, reuse     string
	oldAccessToken, refusalCode   string
	refusalStatus                 int
	unauthorizedBody, introspects string
}

func newCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use: "pleo-sim", Short: "A Pleo to develop against", Long: longHelp, Example: exampleHelp,
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
	o.addPleoFlags(cmd)
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
		Use: "settings", Short: "Print example settings that show every member",
		Long: "Prints example settings to standard output.\n\nMembers that take one of a few words (the first is the default):\n\n" +
			simulator.ExplainChoices(),
		Args: usageArgs(cobra.NoArgs),
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
	f.StringVar(&o.listen, "listen", "127.0.0.1:8490", "address of the API, and of all that has no address of its own; port 0: any free one")
	f.StringVar(&o.authListen, "auth-listen", "", "address of the authorization server (default: that of --listen)")
	f.StringVar(&o.controlListen, "control-listen", "", "address of the control endpoint (default: that of --listen)")
	f.StringVar(&o.tlsCert, "tls-cert", "", "certificate file (PEM): serve API and authorization server over TLS")
	f.StringVar(&o.tlsKey, "tls-key", "", "key file (PEM) of the certificate")
	f.StringVar(&o.settingsFile, "settings", "", "settings file (JSON)")
	f.IntVar(&o.companies, "companies", 0, "make that many companies more")
	f.StringArrayVar(&o.faults, "fault", nil, "fault to start with (JSON, as for POST /_control/faults); may be repeated")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
}

func (o *options) addPleoFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.clientID, "client-id", simulator.DefaultClientID, "id of the OAuth client")
	f.StringVar(&o.clientSecret, "client-secret", simulator.DefaultClientSecret, "secret of the OAuth client")
	f.StringArrayVar(&o.redirectURIs, "redirect-uri", []string{simulator.DefaultRedirectURI}, "redirect URI of the OAuth client; may be repeated")
	f.DurationVar(&o.accessLifetime, "access-token-lifetime", 15*time.Minute, "life of access tokens")
	f.DurationVar(&o.refreshLife, "refresh-token-lifetime", 60*24*time.Hour, "life of refresh tokens")
	f.DurationVar(&o.codeLifetime, "code-lifetime", time.Minute, "life of authorization codes")
	f.DurationVar(&o.grace, "grace", 0, "how long a spent refresh token is accepted once more")
	f.DurationVar(&o.latency, "latency", 0, "added to every answer")
	f.StringSliceVar(&o.clientAuth, "client-auth", []string{"basic"}, "how clients may prove themselves: basic, basic_plain, post")
	f.StringVar(&o.consent, "consent", "auto", "at the authorize page: auto, page or deny")
	f.StringVar(&o.expiresIn, "expires-in", "number", "form of expires_in: number, string, fraction, absent, null, zero, negative or huge")
	f.StringVar(&o.reuse, "reuse", "revoke", "a spent refresh token comes again: revoke (the grant) or refuse")
	f.StringVar(&o.oldAccessToken, "old-access-token", "dies", "at a refresh the old access token dies or survives")
	f.StringVar(&o.refusalCode, "refusal-code", "invalid_refresh_token", "error code for a dead refresh token")
	f.IntVar(&o.refusalStatus, "refusal-status", 400, "status for a dead refresh token")
	f.StringVar(&o.unauthorizedBody, "unauthorized-body", "exception_info", "body of 401: exception_info, empty or plain")
	f.StringVar(&o.introspects, "introspection", "works", "of tokens: works, absent, access_only, always_active or always_inactive")
}

// settings reads the file and lays the flags that were given over it.
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

// overrides maps flags to what they change in the settings.
func (o *options) overrides(s *simulator.Settings) map[string]func() {
	return map[string]func(){
		"client-id":              func() { o.client(s).ID = o.clientID },
		"client-secret":          func() { o.client(s).Secret = o.clientSecret },
		"redirect-uri":           func() { o.client(s).RedirectURIs = o.redirectURIs },
		"access-token-lifetime":  func() { s.OAuth.AccessTokenLifetime = simulator.Duration(o.accessLifetime) },
		"refresh-token-lifetime": func() { s.OAuth.RefreshTokenLifetime = simulator.Duration(o.refreshLife) },
		"code-lifetime":          func() { s.OAuth.CodeLifetime = simulator.Duration(o.codeLifetime) },
		"grace":                  func() { s.OAuth.Grace = simulator.Duration(o.grace) },
		"latency":                func() { s.Latency = simulator.Duration(o.latency) },
		"client-auth":            func() { s.OAuth.ClientAuth = o.clientAuth },
		"consent":                func() { s.OAuth.Consent = o.consent },
		"expires-in":             func() { s.OAuth.ExpiresIn = o.expiresIn },
		"reuse":                  func() { s.OAuth.Reuse = o.reuse },
		"old-access-token":       func() { s.OAuth.OldAccessToken = o.oldAccessToken },
		"refusal-code":           func() { s.OAuth.RejectionCode = o.refusalCode },
		"refusal-status":         func() { s.OAuth.RejectionStatus = o.refusalStatus },
		"unauthorized-body":      func() { s.API.UnauthorizedBody = o.unauthorizedBody },
		"introspection":          func() { s.OAuth.Introspection = o.introspects },
	}
}

// client returns the first client of the settings, making it where there is
// none.
func (o *options) client(s *simulator.Settings) *simulator.Client {
	if len(s.Clients) == 0 {
		s.Clients = []simulator.Client{{
			ID: o.clientID, Secret: o.clientSecret, Name: "Simulated integration", RedirectURIs: o.redirectURIs,
		}}
	}
	return &s.Clients[0]
}

// simulator makes the simulator with its companies and faults.
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
			return nil, fmt.Errorf("making companies: %w", err)
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
