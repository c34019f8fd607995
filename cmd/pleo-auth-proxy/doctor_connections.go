package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

const checkConnections = "connections"

const (
	// maxNames bounds how many connections a finding names.
	maxNames = 10
	// keyExpiryWarning is when a key is about to expire.
	keyExpiryWarning = 30 * 24 * time.Hour
	// refreshOverdue is how old a token pair gets in the hands of a server that
	// runs: it refreshes each within 7 days. Pleo's refresh tokens live 60 days.
	refreshOverdue = 14 * 24 * time.Hour
)

// connections tells of those that are not well.
func (d *doctor) connections(ctx context.Context, v *openedStore) {
	all, err := newOperator(d.cfg, v.store.Store).ListAll(ctx, "")
	if err != nil {
		d.reportError(checkConnections, "", err, d.storeFix(err))
		return
	}
	d.report(checkConnections, severityOK, "", plural(len(all), "connection")+" in the store", "")
	now := time.Now()
	for _, a := range connectionProblems() {
		d.reportProblem(all, a, now)
	}
	d.checkCredentials(ctx, v, slices.DeleteFunc(all, func(c credstore.Connection) bool {
		return c.Status != credstore.Active && c.Status != credstore.Degraded
	}))
}

// checkCredentials asks Pleo about connections that should be well.
func (d *doctor) checkCredentials(ctx context.Context, v *openedStore, some []credstore.Connection) {
	checker, err := openChecker(d.cfg, v.store.Store, zap.NewNop())
	if err != nil || !d.reached || d.checkLimit <= 0 || len(some) == 0 {
		return // why was said where it was found
	}
	asked := some[:min(d.checkLimit, len(some))]
	for _, c := range asked {
		found, err := checker.Check(ctx, c.ID)
		if err != nil {
			d.reportError(checkConnections, c.Name, err, d.storeFix(err))
			return
		}
		for _, f := range found.Findings {
			d.reportFinding(c, f)
		}
	}
	d.report(checkConnections, severityOK, "", fmt.Sprintf("Pleo was asked about %s of %d", plural(len(asked), "connection"), len(some)), "")
}

// reportFinding tells of what Pleo says against a connection.
func (d *doctor) reportFinding(c credstore.Connection, f refresh.Finding) {
	said := strings.ReplaceAll(f.Part, "_", " ") + ": " + f.Message
	switch {
	case f.Result == refresh.Valid, f.Result == refresh.Expired, f.Result == refresh.NotChecked:
	case f.Result == refresh.OtherCompany:
		d.report(checkConnections, severityError, c.Name, said, "find out which company is meant before any program uses the connection again")
	case f.Result == refresh.CheckFailed:
		d.report(checkConnections, severityWarning, c.Name, said, "see what is wrong with network and client above, and ask again: pleo-auth-proxy connections check")
	case f.Part == refresh.PartRefreshToken:
		d.report(checkConnections, severityError, c.Name, said+", and nobody here has spent it: revoked by the customer, or spent by another program that holds the same token",
			"look for a second owner of these tokens and stop it, then have the customer give consent again by way of pleo-auth-proxy connect NAME")
	case f.Part == refresh.PartAccessToken:
		d.report(checkConnections, severityWarning, c.Name, said+" although it has not expired", "nothing, if the refresh token is good: the next request has it refreshed; else look for a second owner")
	default:
		d.report(checkConnections, severityError, c.Name, said, "make a new key in Pleo, then run pleo-auth-proxy connections set-key NAME")
	}
}

// configKeys asks Pleo about the keys that the configuration holds.
func (d *doctor) configKeys(ctx context.Context) {
	api, err := openAPI(d.cfg)
	if err != nil || !d.reached {
		return // why was said where it was found
	}
	for _, c := range d.cfg.Connections {
		key, err := c.APIKey.Open()
		if err != nil {
			continue // said when the files were looked at
		}
		who, err := api.Introspect(ctx, pleo.AuthorizationHeader(c.Kind, credstore.Credential{APIKey: key.Secret()}))
		switch {
		case errors.Is(err, pleo.ErrUnauthorized):
			d.report(checkConnections, severityError, c.Name, "Pleo does not accept its key", fmt.Sprintf("make a new key in Pleo, for the environment %q, and put it into the configuration", d.cfg.Environment))
		case err != nil:
			d.report(checkConnections, severityWarning, c.Name, "Pleo could not be asked about its key: "+err.Error(), "try again later")
		default:
			d.report(checkConnections, severityOK, c.Name, "Pleo accepts its key, for "+cmp.Or(who.CompanyID, who.Subject, "a company that it does not name"), "")
		}
	}
}

// connectionProblem is something that connections may suffer from.
type connectionProblem struct {
	severity severity
	has      func(c credstore.Connection, now time.Time) bool
	message  string // after the number of connections
	fix      string
}

// connectionProblems returns all that a store knows about its connections. Those of one
// status come with the most precise first: a connection has one of them only.
func connectionProblems() []connectionProblem {
	status := func(s credstore.Status, reasons ...string) func(credstore.Connection, time.Time) bool {
		return func(c credstore.Connection, _ time.Time) bool {
			return c.Status == s && (len(reasons) == 0 || slices.Contains(reasons, c.Reason))
		}
	}
	return []connectionProblem{
		{severityError, status(credstore.ReauthorizationRequired, credstore.ReasonKeyRejected),
			"has a key that Pleo does not accept any more", "make a new key in Pleo, then run pleo-auth-proxy connections set-key NAME, or have it entered by way of pleo-auth-proxy connect NAME"},
		{severityError, status(credstore.ReauthorizationRequired, credstore.ReasonUninstalled),
			"was uninstalled by a request to Pleo", "have the customer give consent again by way of pleo-auth-proxy connect NAME, or remove the connection"},
		{severityError, status(credstore.ReauthorizationRequired, credstore.ReasonRefreshTokenInactive, credstore.ReasonRefreshTokenRejected),
			"has a refresh token that Pleo has ended: revoked by the customer, or spent by another program that holds the same token",
			"look for a second owner of these tokens and stop it, then have the customer give consent again by way of pleo-auth-proxy connect NAME"},
		{severityError, status(credstore.ReauthorizationRequired),
			"needs a person", "see pleo-auth-proxy connections show NAME, then have the customer give consent again by way of pleo-auth-proxy connect NAME"},
		{severityWarning, status(credstore.Degraded, credstore.ReasonClientRejected),
			"waits for a client that Pleo accepts", "correct oauth.client_id and oauth.client_secret"},
		{severityWarning, status(credstore.Degraded, credstore.ReasonCircuitBreakerOpen),
			"waits because many connections were refused at once", "see whether Pleo is ill (status.pleo.io), or whether the client's registration or secret has changed"},
		{severityWarning, status(credstore.Degraded),
			"cannot be refreshed at the moment", "see what is wrong with network and client above; it is tried again by itself"},
		{severityWarning, status(credstore.Disabled, credstore.ReasonCompanyConflict),
			"was disabled: its credential belongs to a company that another connection is bound to", "have the right company connected by way of pleo-auth-proxy connect NAME, or find out which of the two is right and remove the other one"},
		{severityNote, status(credstore.Disabled), "is disabled", "where that is not meant: pleo-auth-proxy connections enable NAME"},
		{severityNote, status(credstore.Pending), "has no credential yet", "have the customer give consent, or enter a key, by way of pleo-auth-proxy connect NAME"},
		{severityWarning, isOverdue, "has not been refreshed for two weeks, and refresh tokens live about 60 days", "keep a server running: it refreshes each connection every week"},
		{severityWarning, keyEnds, "has a key that ends within 30 days", "make a new key in Pleo, then run pleo-auth-proxy connections set-key NAME --next"},
		{severityNote, companyUnknown, "does not know its company", "see whether Pleo's API can be reached; the company is learned from it"},
	}
}

func isOverdue(c credstore.Connection, now time.Time) bool {
	return c.Kind == credstore.OAuth && c.Status == credstore.Active && !c.RefreshedAt.IsZero() && now.Sub(c.RefreshedAt) > refreshOverdue
}

func keyEnds(c credstore.Connection, now time.Time) bool {
	return c.Kind.IsKey() && c.Status == credstore.Active && !c.ExpiresAt.IsZero() && c.ExpiresAt.Sub(now) < keyExpiryWarning
}

func companyUnknown(c credstore.Connection, _ time.Time) bool {
	return c.Status == credstore.Active && c.Subject == "" && c.CompanyID == ""
}

// reportProblem notes which connections have an ailment. A status is told by the
// first that fits.
func (d *doctor) reportProblem(all []credstore.Connection, a connectionProblem, now time.Time) {
	var names []string
	for _, c := range all {
		if a.has(c, now) && !d.reported[c.ID] {
			d.reported[c.ID] = true
			names = append(names, c.Name)
		}
	}
	if len(names) == 0 {
		return
	}
	found := a.message
	if len(names) > 1 {
		found = "each " + found
	}
	d.report(checkConnections, a.severity, joinNames(names), found, a.fix)
}

// joinNames names a few of many.
func joinNames(names []string) string {
	if len(names) <= maxNames {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNames], ", "), len(names)-maxNames)
}
