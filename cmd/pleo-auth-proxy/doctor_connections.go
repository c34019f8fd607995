package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const checkConnections = "connections"

const (
	// namesShown bounds how many connections a finding names.
	namesShown = 10
	// keySoon is when a key is about to expire.
	keySoon = 30 * 24 * time.Hour
	// refreshOverdue is how old a token pair gets in the hands of a server that
	// runs: it refreshes each within 7 days. Pleo's refresh tokens live 60 days.
	refreshOverdue = 14 * 24 * time.Hour
)

// connections tells of those that are not well.
func (d *doctor) connections(ctx context.Context, v *vault) {
	all, err := listAll(ctx, v.store, "")
	if err != nil {
		d.fail(checkConnections, "", err, storeMend(err))
		return
	}
	d.find(checkConnections, gradeOK, "", counted(len(all), "connection")+" in the store", "")
	now := time.Now()
	for _, a := range ailments() {
		d.suffering(all, a, now)
	}
}

// ailment is something that connections may suffer from.
type ailment struct {
	grade grade
	has   func(c credstore.Connection, now time.Time) bool
	found string // after the number of connections
	mend  string
}

// ailments returns all that a store knows about its connections. Those of one
// status come with the most precise first: a connection has one of them only.
func ailments() []ailment {
	status := func(s credstore.Status, reasons ...string) func(credstore.Connection, time.Time) bool {
		return func(c credstore.Connection, _ time.Time) bool {
			return c.Status == s && (len(reasons) == 0 || slices.Contains(reasons, c.Reason))
		}
	}
	return []ailment{
		{gradeError, status(credstore.ReauthorizationRequired, credstore.ReasonKeyRefused),
			"has a key that Pleo does not accept any more", "make a new key in Pleo, and add the connection anew with it"},
		{gradeError, status(credstore.ReauthorizationRequired, credstore.ReasonUninstalled),
			"was uninstalled by a request to Pleo", "have the customer give consent again, or remove the connection"},
		{gradeError, status(credstore.ReauthorizationRequired, credstore.ReasonInactive, credstore.ReasonRefused),
			"has a refresh token that Pleo has ended: revoked by the customer, or spent by another program that holds the same token",
			"look for a second owner of these tokens and stop it, then have the customer give consent again"},
		{gradeError, status(credstore.ReauthorizationRequired),
			"needs a person", "have the customer give consent again; connections show NAME says what happened"},
		{gradeWarning, status(credstore.Degraded, credstore.ReasonClientRefused),
			"waits for a client that Pleo accepts", "correct oauth.client_id and oauth.client_secret"},
		{gradeWarning, status(credstore.Degraded, credstore.ReasonMassRefusal),
			"waits because many connections were refused at once", "see whether Pleo is ill (status.pleo.io), or whether the client's registration or secret has changed"},
		{gradeWarning, status(credstore.Degraded),
			"cannot be refreshed at the moment", "see what is wrong with network and client above; it is tried again by itself"},
		{gradeWarning, status(credstore.Disabled, credstore.ReasonCompany),
			"was disabled: its credential belongs to a company that another connection is bound to", "find out which of the two is right, and remove the other one"},
		{gradeNote, status(credstore.Disabled), "is disabled", ""},
		{gradeNote, status(credstore.Pending), "has no credential yet", "have the customer give consent or enter a key"},
		{gradeWarning, isOverdue, "has not been refreshed for two weeks, and refresh tokens live about 60 days", "keep a server running: it refreshes each connection every week"},
		{gradeWarning, keyEnds, "has a key that ends within 30 days", "make a new key in Pleo in time"},
		{gradeNote, companyUnknown, "does not know its company", "see whether Pleo's API can be reached; the company is learned from it"},
	}
}

func isOverdue(c credstore.Connection, now time.Time) bool {
	return c.Kind == credstore.OAuth && c.Status == credstore.Active && !c.RefreshedAt.IsZero() && now.Sub(c.RefreshedAt) > refreshOverdue
}

func keyEnds(c credstore.Connection, now time.Time) bool {
	return c.Kind.IsKey() && c.Status == credstore.Active && !c.ExpiresAt.IsZero() && c.ExpiresAt.Sub(now) < keySoon
}

func companyUnknown(c credstore.Connection, _ time.Time) bool {
	return c.Status == credstore.Active && c.Subject == "" && c.CompanyID == ""
}

// suffering notes which connections have an ailment. A status is told by the
// first that fits.
func (d *doctor) suffering(all []credstore.Connection, a ailment, now time.Time) {
	var names []string
	for _, c := range all {
		if a.has(c, now) && !d.told[c.ID] {
			d.told[c.ID] = true
			names = append(names, c.Name)
		}
	}
	if len(names) == 0 {
		return
	}
	found := a.found
	if len(names) > 1 {
		found = "each " + found
	}
	d.find(checkConnections, a.grade, someOf(names), found, a.mend)
}

// someOf names a few of many.
func someOf(names []string) string {
	if len(names) <= namesShown {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:namesShown], ", "), len(names)-namesShown)
}
