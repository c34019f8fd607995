package credstoretest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func testCreate(t *testing.T, data Data) {
	s := data.Open(t)
	n := pair("acme")
	n.ExternalTenant, n.Scope = "tenant-7", "expenses:read"
	n.Company = credstore.Company{ID: "c-1", Name: "Acme ApS", Subject: "urn:pleo:company:c-1"}
	before := time.Now().Add(-time.Second)
	created := create(t, s, n)
	want := credstore.Connection{
		ID: created.ID, Name: "acme", Kind: credstore.OAuth, Status: credstore.Active,
		CompanyID: "c-1", CompanyName: "Acme ApS", Subject: "urn:pleo:company:c-1",
		ExternalTenant: "tenant-7", Scope: "expenses:read", Version: 1,
		ExpiresAt: n.Credential.ExpiresAt, RefreshedAt: created.RefreshedAt, CreatedAt: created.CreatedAt,
	}
	wantSame(t, "Create", created, want)
	if created.ID == "" || created.CreatedAt.Before(before) || created.RefreshedAt.Before(before) {
		t.Errorf("Create = %+v, want an id and the current time", created)
	}
	found, err := s.Connections.Find(t.Context(), "acme")
	if err != nil {
		t.Fatalf("Find: %v", err)
	}
	wantSame(t, "Find", found, want)
	_, err = s.Connections.Find(t.Context(), "Acme")
	wantErr(t, `Find("Acme")`, err, credstore.ErrNotFound)
}

func testCreatePending(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, credstore.NewConnection{Name: "later", Kind: credstore.OAuth})
	if c.Status != credstore.Pending || c.Reason != credstore.ReasonNoCredential || c.Version != 0 {
		t.Errorf("Create without a credential = %+v, want it pending at version 0", c)
	}
	state := read(t, s, c.ID)
	wantSame(t, "the credential of a pending connection", state.Credential, credstore.Credential{})
}

func testCreateInvalid(t *testing.T, data Data) {
	s := data.Open(t)
	tokens, apiKey := pair("x").Credential, key("x").Credential
	for _, test := range []struct {
		name string
		new  credstore.NewConnection
	}{
		{"no name", credstore.NewConnection{Kind: credstore.OAuth}},
		{"name with a slash", credstore.NewConnection{Name: "a/b", Kind: credstore.OAuth}},
		{"no kind", credstore.NewConnection{Name: "a"}},
		{"oauth with a key", credstore.NewConnection{Name: "a", Kind: credstore.OAuth, Credential: apiKey}},
		{"key with tokens", credstore.NewConnection{Name: "a", Kind: credstore.StandaloneKey, Credential: tokens}},
		{"empty credential", credstore.NewConnection{Name: "a", Kind: credstore.OAuth, Credential: &credstore.NewCredential{}}},
	} {
		if c, err := s.Connections.Create(t.Context(), test.new); err == nil {
			t.Errorf("%s: Create = %+v, want an error", test.name, c)
		}
	}
	if names := listAll(t.Context(), t, s, credstore.Query{}); len(names) > 0 {
		t.Errorf("connections after rejected calls = %v, want none", names)
	}
}

// testOutOfRangeTimes checks that expiry times that JSON cannot encode are limited:
// one such connection would break every list that contains it.
func testOutOfRangeTimes(t *testing.T, data Data) {
	s := data.Open(t)
	for name, ends := range map[string]time.Time{
		"far-future": time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC),
		"far-past":   time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		n := key(name)
		n.Credential.ExpiresAt = ends
		c := create(t, s, n)
		for _, c := range []credstore.Connection{c, read(t, s, c.ID).Connection} {
			if text, err := json.Marshal(c); err != nil || c.ExpiresAt.IsZero() {
				t.Errorf("%s: %s, %v, want a time that can be encoded", name, text, err)
			}
		}
	}
}

func testNameTaken(t *testing.T, data Data) {
	s := data.Open(t)
	create(t, s, pair("Acme"))
	for _, name := range []string{"Acme", "acme", "ACME"} {
		_, err := s.Connections.Create(t.Context(), pair(name))
		wantConflict(t, fmt.Sprintf("Create(%q)", name), err, credstore.ErrNameTaken, "Acme")
	}
}

func testCompanyBound(t *testing.T, data Data) {
	s := data.Open(t)
	bind := func(n credstore.NewConnection, company string, shared bool) error {
		n.Company.ID, n.SharedCompany = company, shared
		_, err := s.Connections.Create(t.Context(), n)
		return err
	}
	for _, ok := range []error{
		bind(pair("first"), "c-1", false),
		bind(key("other-kind"), "c-1", false),
		bind(pair("shared"), "c-1", true),
		bind(pair("unbound-1"), "", false),
		bind(pair("unbound-2"), "", false),
	} {
		if ok != nil {
			t.Fatalf("Create: %v", ok)
		}
	}
	wantConflict(t, "Create for a bound company", bind(pair("second"), "c-1", false), credstore.ErrCompanyBound, "first")
}

func testTokenTaken(t *testing.T, data Data) {
	s := data.Open(t)
	first := create(t, s, pair("first"))
	again := pair("second")
	again.Credential.RefreshToken = pair("first").Credential.RefreshToken
	_, err := s.Connections.Create(t.Context(), again)
	wantConflict(t, "Create with the refresh token of another connection", err, credstore.ErrTokenTaken, "first")
	save(t, s, next(parentOf(t, s, first.ID), "2"))
	_, err = s.Connections.Create(t.Context(), again)
	wantConflict(t, "Create with a used refresh token of another connection", err, credstore.ErrTokenTaken, "first")
}

func testRead(t *testing.T, data Data) {
	s := data.Open(t)
	oauth, apiKey := create(t, s, pair("acme")), create(t, s, key("legacy"))
	other := data.Open(t)
	wantSame(t, "Read of a token pair in another process", read(t, other, oauth.ID), credstore.State{
		Connection: oauth,
		Credential: credstore.Credential{
			ConnectionID: oauth.ID, Version: 1, AccessToken: secret("access-1-acme"), RefreshToken: secret("refresh-1-acme"),
			ExpiresAt: oauth.ExpiresAt, ObtainedAt: oauth.RefreshedAt,
		},
	})
	wantSame(t, "Read of a key in another process", read(t, other, apiKey.ID), credstore.State{
		Connection: apiKey,
		Credential: credstore.Credential{ConnectionID: apiKey.ID, Version: 1, APIKey: secret("key-legacy")},
	})
}

func testReadUnknown(t *testing.T, data Data) {
	_, err := data.Open(t).Connections.Read(t.Context(), "nothing")
	wantErr(t, "Read of an unknown id", err, credstore.ErrNotFound)
}

// names returns n names in sorted order.
func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("c-%03d", i)
	}
	return all
}

func testPages(t *testing.T, data Data) {
	s := data.Open(t)
	all := names(7)
	for i := range all {
		create(t, s, key(all[len(all)-1-i]))
	}
	for _, limit := range []int{0, 1, 3, 7, 200} {
		got := listAll(t.Context(), t, s, credstore.Query{Limit: limit})
		wantSame(t, fmt.Sprintf("List with limit %d", limit), got, all)
	}
	page, err := s.Connections.List(t.Context(), credstore.Query{Limit: 7})
	if err != nil || page.Next != "" {
		t.Errorf("List with a limit of all connections = next %q, %v, want no next page", page.Next, err)
	}
}

func testPagesWhileChanging(t *testing.T, data Data) {
	s := data.Open(t)
	ids := map[string]string{} // name → id
	for _, name := range names(6) {
		ids[name] = create(t, s, key(name)).ID
	}
	page, err := s.Connections.List(t.Context(), credstore.Query{Limit: 3})
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	// Remove the last connection of the page and one of the next page, and create
	// one before and one after them.
	for _, name := range []string{"c-002", "c-004"} {
		if err := s.Connections.Remove(t.Context(), ids[name]); err != nil {
			t.Fatalf("Remove(%q): %v", name, err)
		}
	}
	create(t, s, key("b"))
	create(t, s, key("d"))
	rest := listAll(t.Context(), t, s, credstore.Query{Limit: 3, Cursor: page.Next})
	wantSame(t, "the pages after changes", rest, []string{"c-003", "c-005", "d"})
}

func testSearch(t *testing.T, data Data) {
	s := data.Open(t)
	for _, n := range []credstore.NewConnection{
		{Name: "Alpha", Kind: credstore.OAuth, ExternalTenant: "Tenant_7"},
		{Name: "beta", Kind: credstore.OAuth, Company: credstore.Company{ID: "C-42", Name: "Ærlig ØL"}},
		{Name: "gamma", Kind: credstore.OAuth, ExternalTenant: "100%"},
		key("delta"),
	} {
		create(t, s, n)
	}
	for _, test := range []struct {
		query credstore.Query
		want  []string
	}{
		{credstore.Query{Search: "ALPH"}, []string{"Alpha"}},
		{credstore.Query{Search: "tenant_"}, []string{"Alpha"}},
		{credstore.Query{Search: "ærlig øl"}, []string{"beta"}},
		{credstore.Query{Search: "c-42"}, []string{"beta"}},
		{credstore.Query{Search: "%"}, []string{"gamma"}},
		{credstore.Query{Search: `\`}, []string{}},
		{credstore.Query{Search: "alpha\x00"}, []string{}}, // no stored text contains these bytes, and some databases reject them
		{credstore.Query{Search: "alpha\xff"}, []string{}},
		{credstore.Query{Search: strings.Repeat("alpha", 20_000)}, []string{}},
		{credstore.Query{Search: "ta"}, []string{"beta", "delta"}},
		{credstore.Query{Search: "ta", Status: credstore.Active}, []string{"delta"}},
		{credstore.Query{Status: credstore.Pending}, []string{"Alpha", "beta", "gamma"}},
		{credstore.Query{Status: credstore.Disabled}, []string{}},
	} {
		for _, limit := range []int{1, 50} {
			test.query.Limit = limit
			wantSame(t, fmt.Sprintf("List(%+v)", test.query), listAll(t.Context(), t, s, test.query), test.want)
		}
	}
}

func testListByReason(t *testing.T, data Data) {
	s := data.Open(t)
	create(t, s, pair("working"))
	for name, reason := range map[string]string{
		"a": credstore.ReasonCompanyConflict, "b": credstore.ReasonOperator, "c": credstore.ReasonCompanyConflict,
	} {
		if err := s.Connections.Disable(t.Context(), create(t, s, pair(name)).ID, reason); err != nil {
			t.Fatalf("Disable: %v", err)
		}
	}
	for _, test := range []struct {
		query credstore.Query
		want  []string
	}{
		{credstore.Query{Reason: credstore.ReasonCompanyConflict}, []string{"a", "c"}},
		{credstore.Query{Reason: credstore.ReasonCompanyConflict, Status: credstore.Disabled, Kind: credstore.OAuth}, []string{"a", "c"}},
		{credstore.Query{Reason: credstore.ReasonCompanyConflict, Search: "c"}, []string{"c"}},
		{credstore.Query{Reason: credstore.ReasonCompanyConflict, Status: credstore.Active}, []string{}},
		{credstore.Query{Reason: credstore.ReasonExported}, []string{}},
	} {
		test.query.Limit = 1
		wantSame(t, fmt.Sprintf("List(%+v)", test.query), listAll(t.Context(), t, s, test.query), test.want)
	}
}

func testBadPages(t *testing.T, data Data) {
	s := data.Open(t)
	for _, q := range []credstore.Query{
		{Limit: -1}, {Limit: 201}, {Cursor: "!"}, {Cursor: "YWZ0ZXI"}, {Cursor: strings.Repeat("A", 5000)},
	} {
		_, err := s.Connections.List(t.Context(), q)
		wantErr(t, fmt.Sprintf("List(%+.40v)", q), err, credstore.ErrBadQuery)
	}
}

func testCount(t *testing.T, data Data) {
	s := data.Open(t)
	create(t, s, pair("a"))
	create(t, s, pair("b"))
	create(t, s, key("c"))
	create(t, s, credstore.NewConnection{Name: "d", Kind: credstore.OAuth})
	got, err := s.Connections.Count(t.Context())
	if err != nil {
		t.Fatalf("Count: %v", err)
	}
	wantSame(t, "Count", got, map[credstore.Group]int{
		{Kind: credstore.OAuth, Status: credstore.Active}:         2,
		{Kind: credstore.OAuth, Status: credstore.Pending}:        1,
		{Kind: credstore.IntegratedKey, Status: credstore.Active}: 1,
	})
}

func testSetCompany(t *testing.T, data Data) {
	s := data.Open(t)
	want := create(t, s, pair("acme"))
	company := credstore.Company{ID: "c-9", Name: "Neuf", Subject: "urn:pleo:company:c-9"}
	for range 2 { // setting the same company again is not a conflict
		if err := s.Connections.SetCompany(t.Context(), want.ID, company); err != nil {
			t.Fatalf("SetCompany: %v", err)
		}
	}
	want.CompanyID, want.CompanyName, want.Subject = "c-9", "Neuf", "urn:pleo:company:c-9"
	wantSame(t, "the connection", read(t, s, want.ID).Connection, want)
	wantSame(t, "a search for the company", listAll(t.Context(), t, s, credstore.Query{Search: "neuf"}), []string{"acme"})
	wantErr(t, "SetCompany of an unknown id", s.Connections.SetCompany(t.Context(), "nothing", company), credstore.ErrNotFound)
}

func testSetCompanyConflict(t *testing.T, data Data) {
	s := data.Open(t)
	n := pair("first")
	n.Company.ID = "c-1"
	create(t, s, n)
	second := create(t, s, pair("second"))
	shared := pair("third")
	shared.SharedCompany = true
	third := create(t, s, shared)

	err := s.Connections.SetCompany(t.Context(), second.ID, credstore.Company{ID: "c-1"})
	wantConflict(t, "SetCompany with a bound company", err, credstore.ErrCompanyBound, "first")
	c := read(t, s, second.ID).Connection
	if c.CompanyID != "" || c.Status != credstore.Disabled || c.Reason != credstore.ReasonCompanyConflict {
		t.Errorf("connection = %+v, want it disabled with reason %s, without a company", c, credstore.ReasonCompanyConflict)
	}
	if err := s.Connections.SetCompany(t.Context(), third.ID, credstore.Company{ID: "c-1"}); err != nil {
		t.Errorf("SetCompany of a connection that may share: %v", err)
	}
}

func testRemove(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	parent := parentOf(t, s, c.ID)
	if err := s.Connections.Remove(t.Context(), c.ID); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	_, err := s.Connections.Find(t.Context(), "acme")
	wantErr(t, "Find of a removed connection", err, credstore.ErrNotFound)
	_, err = s.Connections.Read(t.Context(), c.ID)
	wantErr(t, "Read of a removed connection", err, credstore.ErrNotFound)
	wantErr(t, "second Remove", s.Connections.Remove(t.Context(), c.ID), credstore.ErrNotFound)
	_, err = s.Credentials.Save(t.Context(), next(parent, "2"))
	wantErr(t, "Save to a removed connection", err, credstore.ErrSuperseded)

	again := create(t, s, pair("acme"))
	if again.ID == c.ID {
		t.Errorf("the id %q was reused", c.ID)
	}
	_, err = s.Credentials.Save(t.Context(), next(parent, "2"))
	wantErr(t, "Save to a removed connection whose name is in use again", err, credstore.ErrSuperseded)
}

func testFacts(t *testing.T, data Data) {
	s := data.Open(t)
	for _, value := range []string{"", "yes", "no"} {
		if value != "" {
			if err := s.Changes.SetFact(t.Context(), "token_introspection", value); err != nil {
				t.Fatalf("SetFact(%q): %v", value, err)
			}
		}
		got, err := data.Open(t).Changes.Fact(t.Context(), "token_introspection")
		if err != nil || got != value {
			t.Errorf("Fact = %q, %v, want %q", got, err, value)
		}
	}
}

func testPing(t *testing.T, data Data) {
	s := data.Open(t)
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("Ping = %v, want nil", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Ping(ended); !errors.Is(err, credstore.ErrUnavailable) {
		t.Errorf("Ping with a canceled context = %v, want %v", err, credstore.ErrUnavailable)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if err := s.Ping(t.Context()); !errors.Is(err, credstore.ErrUnavailable) {
		t.Errorf("Ping after Close = %v, want %v", err, credstore.ErrUnavailable)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close = %v, want nil", err)
	}
}

func testPosition(t *testing.T, data Data) {
	s, other := data.Open(t), data.Open(t)
	id, before, err := s.Changes.Position(t.Context())
	if err != nil || id == "" {
		t.Fatalf("Position = %q, %d, %v, want an id", id, before, err)
	}
	create(t, other, pair("acme"))
	sameID, after, err := s.Changes.Position(t.Context())
	if err != nil || sameID != id || after <= before {
		t.Errorf("Position after a change = %q, %d, %v, want %q and more than %d", sameID, after, err, id, before)
	}
}
