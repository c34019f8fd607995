package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

const (
	// maxNames is how many connections a finding names.
	maxNames = 10
	// keyExpiryWarning is how long before its expiry a key is reported.
	keyExpiryWarning = 30 * 24 * time.Hour
	// refreshOverdue is the age of a token pair that no running server would let it
	// reach: it refreshes each within 7 days. Pleo's refresh tokens live 60 days.
	refreshOverdue = 14 * 24 * time.Hour
)

// checkStoredConnections reports the connections with problems, and asks Pleo about
// up to maxChecks others.
func checkStoredConnections(ctx context.Context, r *report, cfg *config.Config, v *setup.OpenedStore, maxChecks int) {
	all, err := setup.NewOperator(cfg, v.Store.Store).ListAll(ctx, "")
	if err != nil {
		r.addError(checkConnections, "", err, storeFix(cfg, err))
		return
	}
	r.add(checkConnections, OK, "", plural(len(all), "connection")+" in the store", "")
	reportProblems(r, all, time.Now())
	usable := slices.DeleteFunc(all, func(c credstore.Connection) bool {
		return c.Status != credstore.Active && c.Status != credstore.Degraded
	})
	if len(usable) > 0 && maxChecks > 0 {
		checkCredentials(ctx, r, cfg, v, usable, maxChecks)
	}
}

func checkCredentials(ctx context.Context, r *report, cfg *config.Config, v *setup.OpenedStore, usable []credstore.Connection, maxChecks int) {
	checker, err := setup.OpenChecker(cfg, v.Store.Store, zap.NewNop())
	if err != nil {
		return // checkInputs has reported it
	}
	checked := usable[:min(maxChecks, len(usable))]
	for _, c := range checked {
		result, err := checker.Check(ctx, c.ID)
		if err != nil {
			r.addError(checkConnections, c.Name, err, storeFix(cfg, err))
			return
		}
		for _, f := range result.Findings {
			reportCredential(r, c, f)
		}
	}
	r.add(checkConnections, OK, "", fmt.Sprintf("checked %s of %d with Pleo", plural(len(checked), "connection"), len(usable)), "")
}

const secondOwnerFix = "look for another program that has the same tokens and stop it, then let the customer give consent again: pleo-auth-proxy connect NAME"

// fixFor returns a fix with the name of the connection that it is for.
func fixFor(fix, name string) string { return strings.ReplaceAll(fix, "NAME", name) }

// reportCredential reports a part of a credential that Pleo does not accept.
func reportCredential(r *report, c credstore.Connection, f refresh.Finding) {
	message := strings.ReplaceAll(f.Part, "_", " ") + ": " + f.Message
	switch {
	case f.Result == refresh.Valid, f.Result == refresh.Expired, f.Result == refresh.NotChecked:
	case f.Result == refresh.OtherCompany:
		r.add(checkConnections, Error, c.Name, message, "find out which company is right before any program uses the connection again")
	case f.Result == refresh.CheckFailed:
		r.add(checkConnections, Warning, c.Name, message, "fix the network and client findings above, then run pleo-auth-proxy connections check "+c.Name)
	case f.Part == refresh.PartRefreshToken:
		r.add(checkConnections, Error, c.Name, message+", and no server has used it: it was revoked by the customer, or used by another program that has the same token", fixFor(secondOwnerFix, c.Name))
	case f.Part == refresh.PartAccessToken:
		r.add(checkConnections, Warning, c.Name, message+" although it has not expired", "nothing, if the refresh token is valid: the next request refreshes it; otherwise look for another program that has the same tokens")
	default:
		r.add(checkConnections, Error, c.Name, message, "create a new key in Pleo, then run pleo-auth-proxy connections set-key "+c.Name)
	}
}

// checkConfigKeys asks Pleo about the keys in the configuration.
func checkConfigKeys(ctx context.Context, r *report, cfg *config.Config) {
	api, err := setup.OpenAPI(cfg)
	if err != nil {
		return // checkInputs has reported it
	}
	for _, c := range cfg.Connections {
		key, err := c.APIKey.Open()
		if err != nil {
			continue // checkInputs has reported it
		}
		identity, err := api.Introspect(ctx, pleo.AuthorizationHeader(c.Kind, credstore.Credential{APIKey: key.Secret()}))
		switch {
		case errors.Is(err, pleo.ErrUnauthorized):
			r.add(checkConnections, Error, c.Name, "Pleo does not accept its key", fmt.Sprintf("create a new key in Pleo for the environment %q, and put it into the configuration", cfg.Environment))
		case err != nil:
			r.add(checkConnections, Warning, c.Name, "cannot check its key: "+err.Error(), "try again later")
		default:
			r.add(checkConnections, OK, c.Name, "Pleo accepts its key, for "+cmp.Or(identity.CompanyID, identity.Subject, "a company that it does not name"), "")
		}
	}
}

// problem is what can be wrong with a stored connection.
type problem struct {
	severity Severity
	has      func(c credstore.Connection, now time.Time) bool
	message  string // after the names of the connections
	fix      string
}

// problems returns all problems. A connection is reported with the first that it has,
// so the specific ones come first.
func problems() []problem {
	status := func(s credstore.Status, reasons ...string) func(credstore.Connection, time.Time) bool {
		return func(c credstore.Connection, _ time.Time) bool {
			return c.Status == s && (len(reasons) == 0 || slices.Contains(reasons, c.Reason))
		}
	}
	return []problem{
		{Error, status(credstore.ReauthorizationRequired, credstore.ReasonKeyRejected),
			"has a key that Pleo no longer accepts", "create a new key in Pleo, then run pleo-auth-proxy connections set-key NAME, or let the customer enter it: pleo-auth-proxy connect NAME"},
		{Error, status(credstore.ReauthorizationRequired, credstore.ReasonUninstalled),
			"was uninstalled by a request to Pleo", "let the customer give consent again (pleo-auth-proxy connect NAME), or remove the connection"},
		{Error, status(credstore.ReauthorizationRequired, credstore.ReasonRefreshTokenInactive, credstore.ReasonRefreshTokenRejected),
			"has a refresh token that is no longer valid: it was revoked by the customer, or used by another program that has the same token", secondOwnerFix},
		{Error, status(credstore.ReauthorizationRequired),
			"requires reauthorization", "see pleo-auth-proxy connections show NAME, then let the customer give consent again: pleo-auth-proxy connect NAME"},
		{Warning, status(credstore.Degraded, credstore.ReasonClientRejected),
			"cannot be refreshed, because Pleo rejects the client", "correct oauth.client_id and oauth.client_secret"},
		{Warning, status(credstore.Degraded, credstore.ReasonCircuitBreakerOpen),
			"is not refreshed, because many connections were rejected at once", "check whether Pleo has an incident (status.pleo.io), or whether the client's registration or secret has changed"},
		{Warning, status(credstore.Degraded),
			"cannot be refreshed at the moment", "fix the network and client findings above; the server tries again by itself"},
		{Warning, status(credstore.Disabled, credstore.ReasonCompanyConflict),
			"was disabled: its credential belongs to a company that another connection has", "let the right company connect (pleo-auth-proxy connect NAME), or find out which of the two is right and remove the other one"},
		{Note, status(credstore.Disabled), "is disabled", "if that is not intended: pleo-auth-proxy connections enable NAME"},
		{Note, status(credstore.Pending), "has no credential yet", "let the customer give consent or enter a key: pleo-auth-proxy connect NAME"},
		{Warning, isOverdue, "has not been refreshed for two weeks, and refresh tokens live about 60 days", "keep a server running: it refreshes each connection every week"},
		{Warning, expiresSoon, "has a key that expires within 30 days", "create a new key in Pleo, then run pleo-auth-proxy connections set-key NAME --next"},
		{Note, lacksCompany, "belongs to a company that is not known yet", "check whether Pleo's API can be reached: it identifies the company"},
	}
}

func isOverdue(c credstore.Connection, now time.Time) bool {
	return c.Kind == credstore.OAuth && c.Status == credstore.Active && !c.RefreshedAt.IsZero() && now.Sub(c.RefreshedAt) > refreshOverdue
}

func expiresSoon(c credstore.Connection, now time.Time) bool {
	return c.Kind.IsKey() && c.Status == credstore.Active && !c.ExpiresAt.IsZero() && c.ExpiresAt.Sub(now) < keyExpiryWarning
}

func lacksCompany(c credstore.Connection, _ time.Time) bool {
	return c.Status == credstore.Active && c.Subject == "" && c.CompanyID == ""
}

// reportProblems adds one finding for all connections with the same problem.
func reportProblems(r *report, all []credstore.Connection, now time.Time) {
	reported := map[string]bool{} // ids
	for _, p := range problems() {
		var names []string
		for _, c := range all {
			if !reported[c.ID] && p.has(c, now) {
				reported[c.ID] = true
				names = append(names, c.Name)
			}
		}
		switch {
		case len(names) == 1:
			r.add(checkConnections, p.severity, names[0], p.message, fixFor(p.fix, names[0]))
		case len(names) > maxNames:
			names = append(names[:maxNames:maxNames], fmt.Sprintf("and %d more", len(names)-maxNames))
			fallthrough
		case len(names) > 1:
			r.add(checkConnections, p.severity, strings.Join(names, ", "), "each "+p.message, p.fix)
		}
	}
}
