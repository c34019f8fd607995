package credstoretest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func testReplace(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	recordFailure(t, s, c.ID, failure(true))
	requireReauthorization(t, s, parentOf(t, s, c.ID), true)
	requestRefresh(t, s, c.ID)
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	recordIntent(t, s, l, parentOf(t, s, c.ID))

	g := grant("2")
	g.Scope, g.Company = "a b", credstore.Company{ID: "c-1", Name: "Acme ApS", Subject: "urn:pleo:company:c-1"}
	want := c
	want.Version, want.ExpiresAt, want.RefreshedAt, want.Scope = 2, g.Credential.ExpiresAt, g.ObtainedAt, "a b"
	want.CompanyID, want.CompanyName, want.Subject = "c-1", "Acme ApS", "urn:pleo:company:c-1"
	wantSame(t, "Replace", replace(t, s, l, g), want)
	wantSame(t, "the state in another process", read(t, data.Open(t), c.ID), credstore.State{
		Connection: want,
		Credential: credstore.Credential{
			ConnectionID: c.ID, Version: 2, AccessToken: g.Credential.AccessToken, RefreshToken: g.Credential.RefreshToken,
			ExpiresAt: g.Credential.ExpiresAt, ObtainedAt: g.ObtainedAt,
		},
	})
	wantSame(t, "a search for the company", listAll(t.Context(), t, s, credstore.Query{Search: "c-1"}), []string{"acme"})
	reports := watch(t, data.Open(t))
	kept := replace(t, s, l, grant("3"))
	await(t, "the replacement", reports, c.ID)
	if kept.CompanyID != "c-1" || kept.Scope != "a b" || kept.Version != 3 || !kept.CompanyUnverified {
		t.Errorf("Replace without company and scope = %+v, want both kept, and the company unverified", kept)
	}
	wantHistory(t, s, c.ID, len(history(t, s, c.ID))-2, credstore.EventRecovered, credstore.EventConnected)
}

func testReplacePending(t *testing.T, data Data) {
	s := data.Open(t)
	for _, test := range []struct {
		kind credstore.Kind
		with credstore.NewCredential
	}{
		{credstore.OAuth, grant("1").Credential},
		{credstore.StandaloneKey, credstore.NewCredential{APIKey: secret("k"), ExpiresAt: start().Add(time.Hour)}},
	} {
		c := create(t, s, credstore.NewConnection{Name: "new-" + string(test.kind), Kind: test.kind})
		l := acquire(t, s, c.ID, "me")
		got := replace(t, s, l, credstore.Replacement{Credential: test.with})
		if got.Status != credstore.Active || got.Reason != "" || got.Version != 1 || !got.ExpiresAt.Equal(test.with.ExpiresAt) {
			t.Errorf("Replace on a pending connection = %+v, want version 1, active", got)
		}
		state := read(t, s, c.ID)
		if cred := state.Credential; !cred.APIKey.Equal(test.with.APIKey) || !cred.RefreshToken.Equal(test.with.RefreshToken) {
			t.Errorf("%s: the credential differs from the replacement", test.kind)
		}
		if test.kind.IsKey() != state.Credential.ExpiresAt.IsZero() || test.kind.IsKey() != got.RefreshedAt.IsZero() {
			t.Errorf("%s: the credential expires %v, obtained %v; want these for tokens only", test.kind, state.Credential.ExpiresAt, got.RefreshedAt)
		}
		release(t, l)
		wantHistory(t, s, c.ID, 0, credstore.EventCreated, credstore.EventConnected)
	}
}

func testReplaceKey(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, key("legacy"))
	stage(t, s, c.ID, "staged")
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	replace(t, s, l, credstore.Replacement{Credential: credstore.NewCredential{APIKey: secret("new")}})
	got := read(t, s, c.ID).Credential
	wantSame(t, "the credential", got, credstore.Credential{ConnectionID: c.ID, Version: 2, APIKey: secret("new")})
	for name, wrong := range map[string]credstore.NewCredential{"tokens": grant("1").Credential, "nothing": {}} {
		if _, err := s.Connections.Replace(t.Context(), l, credstore.Replacement{Credential: wrong}); err == nil || errors.Is(err, credstore.ErrUnavailable) {
			t.Errorf("Replace of a key by %s = %v, want a permanent error", name, err)
		}
	}
	wantSame(t, "the credential", read(t, s, c.ID).Credential, got)
}

func testReplaceDisabled(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	requireReauthorization(t, s, parentOf(t, s, c.ID), true)
	if err := s.Connections.Disable(t.Context(), c.ID, credstore.ReasonOperator); err != nil {
		t.Fatalf("Disable: %v", err)
	}
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	if got := replace(t, s, l, grant("2")); got.Status != credstore.Disabled || got.Reason != credstore.ReasonOperator {
		t.Errorf("Replace on a disabled connection = %s (%s), want it to stay disabled", got.Status, got.Reason)
	}
	if err := s.Connections.Enable(t.Context(), c.ID); err != nil {
		t.Fatalf("Enable: %v", err)
	}
	if got := read(t, s, c.ID).Connection; got.Status != credstore.Active {
		t.Errorf("status after Enable = %s, want active", got.Status)
	}
	wantHistory(t, s, c.ID, 2, credstore.EventDisabled, credstore.EventConnected, credstore.EventEnabled, credstore.EventRecovered)
}

// testReplaceErrors checks that a Replace that fails changes nothing and leaves the link
// usable.
func testReplaceErrors(t *testing.T, data Data) {
	s := data.Open(t)
	n := pair("acme")
	n.Company = credstore.Company{ID: "c-1", Name: "Acme"}
	c := create(t, s, n)
	n = pair("other")
	n.Company.ID = "c-2"
	other := create(t, s, n)
	loose := create(t, s, pair("loose"))
	save(t, s, next(parentOf(t, s, other.ID), "other-2"))
	link, looseLink := openLink(t, s, c.ID, credstore.LinkRequest{}), openLink(t, s, loose.ID, credstore.LinkRequest{})
	with := func(change func(*credstore.Replacement)) credstore.Replacement {
		g := grant("2")
		g.LinkToken = link
		change(&g)
		return g
	}
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	want, events := read(t, s, c.ID), len(history(t, s, c.ID))
	for _, test := range []struct {
		name string
		by   credstore.Replacement
		want error
	}{
		{"another company", with(func(g *credstore.Replacement) { g.Company.ID = "c-3" }), credstore.ErrOtherCompany},
		{"an organisation", with(func(g *credstore.Replacement) { g.Company.Subject = "urn:pleo:organisation:1" }), credstore.ErrOtherCompany},
		{"a bound company", with(func(g *credstore.Replacement) { g.Company.ID, g.AllowOtherCompany = "c-2", true }), credstore.ErrCompanyBound},
		{"a refresh token of another connection", with(func(g *credstore.Replacement) { g.Credential.RefreshToken = secret("refresh-other-2") }), credstore.ErrTokenTaken},
		{"a used refresh token of another connection", with(func(g *credstore.Replacement) { g.Credential.RefreshToken = secret("refresh-1-other") }), credstore.ErrTokenTaken},
		{"a link of another connection", with(func(g *credstore.Replacement) { g.LinkToken = looseLink }), credstore.ErrLinkExpired},
		{"an unknown link", with(func(g *credstore.Replacement) { g.LinkToken = secret("nothing") }), credstore.ErrLinkExpired},
	} {
		_, err := s.Connections.Replace(t.Context(), l, test.by)
		wantErr(t, "Replace by "+test.name, err, test.want)
		wantSame(t, "the state after "+test.name, read(t, s, c.ID), want)
	}
	for _, token := range []credstore.Secret{link, looseLink} {
		wantErr(t, "FindLink", findErr(t, s, token), nil)
	}
	wantHistory(t, s, c.ID, events)
	_, err := data.Open(t).Connections.Replace(t.Context(), l, grant("2"))
	wantErr(t, "Replace with the lease of another process", err, credstore.ErrLeaseLost)
}

func testReplaceLeaseLost(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	l := acquire(t, s, c.ID, "me")
	release(t, l)
	_, err := s.Connections.Replace(t.Context(), l, grant("2"))
	wantErr(t, "Replace with a released lease", err, credstore.ErrLeaseLost)
	l = acquire(t, s, c.ID, "me")
	if err := s.Connections.Remove(t.Context(), c.ID); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	_, err = s.Connections.Replace(t.Context(), l, grant("2"))
	wantErr(t, "Replace of a removed connection", err, credstore.ErrNotFound)
	release(t, l)
}

func testReplaceOverrides(t *testing.T, data Data) {
	s := data.Open(t)
	n := pair("first")
	n.Company.ID = "c-1"
	create(t, s, n)
	n = pair("second")
	n.Company.ID = "c-2"
	c := create(t, s, n)
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	g := grant("2")
	g.Company = credstore.Company{ID: "c-1"}
	g.AllowOtherCompany, g.AllowSharedCompany = true, true
	got := replace(t, s, l, g)
	if got.CompanyID != "c-1" || !got.SharedCompany {
		t.Errorf("Replace = %+v, want the shared company c-1", got)
	}
	g = grant("3")
	g.Company, g.AllowOtherCompany = credstore.Company{ID: "C-1"}, true
	if got := replace(t, s, l, g); !got.SharedCompany || got.Version != 3 {
		t.Errorf("Replace of the same company = %+v, want version 3, still shared", got)
	}
	wantHistory(t, s, c.ID, 1, credstore.EventCompanyOverride, credstore.EventConnected, credstore.EventConnected)
	testSharingEndsWithTheCompany(t, s, l)
}

// testSharingEndsWithTheCompany checks that the permission to share one company does
// not extend to another company.
func testSharingEndsWithTheCompany(t *testing.T, s Store, shared credstore.Lease) {
	n := pair("third")
	n.Company.ID = "c-3"
	create(t, s, n)
	g := grant("4")
	g.Company, g.AllowOtherCompany = credstore.Company{ID: "c-3"}, true
	_, err := s.Connections.Replace(t.Context(), shared, g)
	wantErr(t, "Replace with a company of another connection, after a shared company", err, credstore.ErrCompanyBound)
	g.Company.ID = "c-4"
	if got := replace(t, s, shared, g); got.CompanyID != "c-4" || got.SharedCompany {
		t.Errorf("Replace with a company of no other connection = %+v, want it not to be shared", got)
	}
}

func testReplaceSpendsLinks(t *testing.T, data Data) {
	s := data.Open(t)
	c, d := create(t, s, pair("acme")), create(t, s, pair("other"))
	link, second := openLink(t, s, c.ID, credstore.LinkRequest{}), openLink(t, s, c.ID, credstore.LinkRequest{ReturnURL: "https://example.com"})
	other := openLink(t, s, d.ID, credstore.LinkRequest{})
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	g := grant("2")
	g.LinkToken = link
	for range 2 { // as after a lost response to COMMIT
		if got := replace(t, s, l, g); got.Version != 2 {
			t.Errorf("Replace = version %d, want 2", got.Version)
		}
	}
	used, err := s.Links.FindLink(t.Context(), link)
	wantErr(t, "FindLink of the link", err, credstore.ErrLinkUsed)
	if used.UsedAt.IsZero() {
		t.Error("UsedAt is zero")
	}
	wantErr(t, "FindLink of the second link", findErr(t, s, second), credstore.ErrLinkExpired)
	wantErr(t, "FindLink of a link of another connection", findErr(t, s, other), nil)

	again := grant("3")
	again.LinkToken = link
	_, err = s.Connections.Replace(t.Context(), l, again)
	wantErr(t, "Replace with a used link", err, credstore.ErrLinkUsed)
	open := openLink(t, s, c.ID, credstore.LinkRequest{})
	replace(t, s, l, grant("4"))
	wantErr(t, "FindLink after a replacement without a link", findErr(t, s, open), credstore.ErrLinkExpired)
}

func testSaveOnPending(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, credstore.NewConnection{Name: "acme", Kind: credstore.OAuth})
	parent := read(t, s, c.ID).Parent()
	if parent.ConnectionID != c.ID || parent.Version != 0 {
		t.Fatalf("Parent of a pending connection = %+v, want version 0", parent)
	}
	n := next(parent, "1")
	n.Consent = true
	for range 2 {
		if got := save(t, s, n); got.Version != 1 || got.Status != credstore.Active || !got.CompanyUnverified {
			t.Errorf("Save = %+v, want version 1, active, with an unverified company", got)
		}
	}
	if err := s.Connections.SetCompany(t.Context(), c.ID, credstore.Company{}); err != nil {
		t.Errorf("SetCompany without a company: %v", err)
	}
	if got := read(t, s, c.ID).Connection; got.CompanyUnverified || got.Status != credstore.Active || !got.Company().IsZero() {
		t.Errorf("after SetCompany without a company: %+v, want it active and verified without a company", got)
	}
	if got := read(t, s, c.ID).Credential; !got.RefreshToken.Equal(n.RefreshToken) || got.ConnectionID != c.ID {
		t.Errorf("credential = %+v, want the pair", got)
	}
	_, err := s.Credentials.Save(t.Context(), next(parent, "other"))
	wantErr(t, "Save of another pair", err, credstore.ErrSuperseded)
	wantHistory(t, s, c.ID, 1, credstore.EventConnected)

	apiKey := create(t, s, credstore.NewConnection{Name: "legacy", Kind: credstore.IntegratedKey})
	_, err = s.Credentials.Save(t.Context(), next(read(t, s, apiKey.ID).Parent(), "2"))
	wantErr(t, "Save onto a pending key", err, credstore.ErrSuperseded)
}

// testSaveConsent checks that the company of a consent that was saved before the API
// confirmed it is unverified until SetCompany or Replace.
func testSaveConsent(t *testing.T, data Data) {
	s := data.Open(t)
	company, other := credstore.Company{ID: "c-1", Name: "Acme"}, credstore.Company{ID: "c-2", Name: "Other"}
	for _, test := range []struct {
		name  string
		found credstore.Company
		want  error
	}{{"same", company, nil}, {"other", other, credstore.ErrOtherCompany}} {
		n := pair(test.name)
		n.Company, n.SharedCompany = company, true
		c := create(t, s, n)
		successor := next(parentOf(t, s, c.ID), "2-"+test.name)
		successor.Consent = true
		if got := save(t, s, successor); !got.CompanyUnverified || got.CompanyID != "c-1" {
			t.Fatalf("Save of a consent = %+v, want the company unverified", got)
		}
		if got := save(t, s, next(parentOf(t, s, c.ID), "3-"+test.name)); !got.CompanyUnverified {
			t.Fatal("a refresh verified the company")
		}
		err := s.Connections.SetCompany(t.Context(), c.ID, test.found)
		got := read(t, s, c.ID).Connection
		wantErr(t, "SetCompany", err, test.want)
		if disabled := got.Status == credstore.Disabled; disabled != (test.want != nil) || got.CompanyUnverified != disabled || got.CompanyID != "c-1" {
			t.Errorf("%s: connection = %+v, want it disabled and unverified only if the company differs", test.name, got)
		}
		if test.want == nil {
			continue
		}
		l := acquire(t, s, c.ID, "me")
		g := grant("4")
		g.Company = company
		if got := replace(t, s, l, g); got.CompanyUnverified {
			t.Error("the company is unverified after Replace")
		}
		release(t, l)
	}
}

// testCompanyConflictEnds checks that a connection that was disabled because of a company
// conflict becomes active with a credential of a permitted company. One that an operator
// disabled stays disabled.
func testCompanyConflictEnds(t *testing.T, data Data) {
	s := data.Open(t)
	taken := pair("taken")
	taken.Company.ID = "c-1"
	create(t, s, taken)
	c := create(t, s, credstore.NewConnection{Name: "acme", Kind: credstore.OAuth})
	first := next(read(t, s, c.ID).Parent(), "1")
	first.Consent = true
	save(t, s, first)
	wantErr(t, "SetCompany", s.Connections.SetCompany(t.Context(), c.ID, credstore.Company{ID: "c-1"}), credstore.ErrCompanyBound)
	if got := read(t, s, c.ID).Connection; got.Status != credstore.Disabled || got.Reason != credstore.ReasonCompanyConflict {
		t.Fatalf("after a conflict: %+v, want it disabled because of its company", got)
	}
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	if got := replace(t, s, l, grant("2")); got.Status != credstore.Disabled {
		t.Errorf("after a credential of an unknown company: %+v, want it still disabled", got)
	}
	g := grant("3")
	g.Company = credstore.Company{ID: "c-2"}
	if got := replace(t, s, l, g); got.Status != credstore.Active || got.Reason != "" || got.CompanyUnverified || got.CompanyID != "c-2" {
		t.Errorf("after a credential of a permitted company: %+v, want it active", got)
	}
	wantHistory(t, s, c.ID, 1, credstore.EventConnected, credstore.EventDisabled, credstore.EventReauthorizationRequired,
		credstore.EventConnected, credstore.EventRecovered)
	if err := s.Connections.Disable(t.Context(), c.ID, credstore.ReasonOperator); err != nil {
		t.Fatal(err)
	}
	g = grant("4")
	g.Company = credstore.Company{ID: "c-2"}
	if got := replace(t, s, l, g); got.Status != credstore.Disabled || got.Reason != credstore.ReasonOperator {
		t.Errorf("status after a new credential = %s, want disabled", got.Status)
	}
}

// testReplaceDuringRefresh checks that a new consent wins over a concurrent refresh of the
// old grant, in whichever order the two are saved (F22).
func testReplaceDuringRefresh(t *testing.T, data Data) {
	s, other := data.Open(t), data.Open(t)
	c := create(t, s, pair("acme"))
	for i := range 100 {
		parent := parentOf(t, s, c.ID)
		l := acquire(t, other, c.ID, "consent")
		saved, replaced := make(chan error, 1), make(chan error, 1)
		g := grant(fmt.Sprint(i))
		go func() {
			_, err := s.Credentials.Save(t.Context(), next(parent, fmt.Sprint("late-", i)))
			saved <- err
		}()
		go func() {
			_, err := other.Connections.Replace(t.Context(), l, g)
			replaced <- err
		}()
		if err := <-replaced; err != nil {
			t.Fatalf("Replace: %v", err)
		}
		if err := <-saved; err != nil && !errors.Is(err, credstore.ErrSuperseded) {
			t.Fatalf("Save = %v, want nil or %v", err, credstore.ErrSuperseded)
		}
		release(t, l)
		if got := read(t, s, c.ID).Credential; !got.RefreshToken.Equal(g.Credential.RefreshToken) {
			t.Fatalf("attempt %d: the new grant was overwritten", i)
		}
	}
}
