package credstoretest

import (
	"encoding/base64"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func openLink(t *testing.T, s Store, id string, r credstore.LinkRequest) credstore.Secret {
	t.Helper()
	if r.TTL == 0 {
		r.TTL = time.Hour
	}
	token, l, err := s.Links.OpenLink(t.Context(), id, r)
	if err != nil {
		t.Fatalf("OpenLink(%q, %+v): %v", id, r, err)
	}
	found, err := s.Links.FindLink(t.Context(), token)
	if err != nil {
		t.Fatalf("FindLink: %v", err)
	}
	wantSame(t, "the link that was opened", found, l)
	return token
}

func begin(t *testing.T, s Store, c credstore.Consent) {
	t.Helper()
	if err := s.Links.BeginConsent(t.Context(), c); err != nil {
		t.Fatalf("BeginConsent: %v", err)
	}
}

func replace(t *testing.T, s Store, l credstore.Lease, r credstore.Replacement) credstore.Connection {
	t.Helper()
	c, err := s.Connections.Replace(t.Context(), l, r)
	if err != nil {
		t.Fatalf("Replace(%q): %v", l.ConnectionID(), err)
	}
	return c
}

// grant returns a replacement with a token pair.
func grant(tokens string) credstore.Replacement {
	return credstore.Replacement{
		Credential: credstore.NewCredential{
			AccessToken: secret("granted-access-" + tokens), RefreshToken: secret("granted-refresh-" + tokens), ExpiresAt: start().Add(time.Hour),
		},
		ObtainedAt: start(),
	}
}

func testLinks(t *testing.T, data Data) {
	s, other := data.Open(t), data.Open(t)
	c, d := create(t, s, credstore.NewConnection{Name: "acme", Kind: credstore.OAuth}), create(t, s, key("legacy"))
	request := credstore.LinkRequest{TTL: time.Hour, ReturnURL: "https://example.com/done", AllowOtherCompany: true, AllowSharedCompany: true}
	token, l, err := s.Links.OpenLink(t.Context(), c.ID, request)
	if err != nil {
		t.Fatalf("OpenLink: %v", err)
	}
	want := credstore.Link{
		ConnectionID: c.ID, CreatedAt: l.CreatedAt, ExpiresAt: l.CreatedAt.Add(time.Hour),
		ReturnURL: request.ReturnURL, AllowOtherCompany: true, AllowSharedCompany: true,
	}
	wantSame(t, "OpenLink", l, want)
	wantSame(t, "the message of the event", history(t, s, c.ID)[1].Message, "valid until "+l.ExpiresAt.Format(time.RFC3339)+
		", also for another company, also for a company of another connection")
	if bits, err := base64.RawURLEncoding.DecodeString(token.Reveal()); err == nil && len(bits) < 32 || time.Since(l.CreatedAt).Abs() > time.Minute {
		t.Errorf("the token has %d bytes, created %v, want 32 bytes, created now", len(bits), l.CreatedAt)
	}
	for range 2 { // finding a link does not use it up
		found, err := other.Links.FindLink(t.Context(), token)
		if err != nil {
			t.Fatalf("FindLink: %v", err)
		}
		wantSame(t, "FindLink", found, want)
	}
	if again := openLink(t, other, c.ID, request); !again.Equal(token) {
		t.Error("OpenLink of the same request returned another link")
	}
	plain := openLink(t, s, c.ID, credstore.LinkRequest{})
	if plain.Equal(token) || openLink(t, s, d.ID, request).Equal(token) {
		t.Error("OpenLink of another request or for another connection returned the same link")
	}
	brief := request
	brief.TTL = time.Minute
	if short := openLink(t, s, c.ID, brief); short.Equal(token) || !openLink(t, other, c.ID, request).Equal(token) {
		t.Error("OpenLink with a shorter TTL returned the same link, or replaced the longer one")
	}
	lasting := request
	lasting.MinRemaining = 30 * time.Minute
	if !openLink(t, other, c.ID, lasting).Equal(token) {
		t.Error("OpenLink did not return the existing link, which lasts long enough")
	}
	lasting.TTL, lasting.MinRemaining = 4*time.Hour, 2*time.Hour
	if longer := openLink(t, other, c.ID, lasting); longer.Equal(token) || findErr(t, s, token) != nil {
		t.Error("OpenLink returned a link that ends too soon, or ended that link")
	}
	_, err = s.Links.FindLink(t.Context(), secret("nothing"))
	wantErr(t, "FindLink of an unknown token", err, credstore.ErrNotFound)
	_, _, err = s.Links.OpenLink(t.Context(), "nothing", request)
	wantErr(t, "OpenLink for an unknown id", err, credstore.ErrNotFound)
	for _, ttl := range []time.Duration{0, -time.Hour, credstore.MaxLinkTTL + 1} {
		if _, _, err := s.Links.OpenLink(t.Context(), c.ID, credstore.LinkRequest{TTL: ttl}); err == nil {
			t.Errorf("OpenLink with a time to live of %v = nil, want an error", ttl)
		}
	}
	wantHistory(t, s, c.ID, 1, credstore.EventLinkCreated, credstore.EventLinkCreated, credstore.EventLinkCreated, credstore.EventLinkCreated)
}

func testReplaceExistingLinks(t *testing.T, data Data) {
	s := data.Open(t)
	c, d := create(t, s, pair("acme")), create(t, s, pair("other"))
	first, other := openLink(t, s, c.ID, credstore.LinkRequest{}), openLink(t, s, d.ID, credstore.LinkRequest{})
	second := openLink(t, s, c.ID, credstore.LinkRequest{ReturnURL: "https://example.com"})
	fresh := openLink(t, s, c.ID, credstore.LinkRequest{ReplaceExisting: true})
	for _, token := range []credstore.Secret{first, second} {
		l, err := s.Links.FindLink(t.Context(), token)
		wantErr(t, "FindLink of a replaced link", err, credstore.ErrLinkExpired)
		if l.ConnectionID != c.ID {
			t.Errorf("replaced link = %+v, want its connection", l)
		}
	}
	if _, err := s.Links.FindLink(t.Context(), other); err != nil {
		t.Errorf("FindLink of another connection's link: %v", err)
	}
	if again := openLink(t, s, c.ID, credstore.LinkRequest{}); !again.Equal(fresh) {
		t.Error("OpenLink did not return the new link")
	}
	if err := s.Connections.Remove(t.Context(), c.ID); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	_, err := s.Links.FindLink(t.Context(), fresh)
	wantErr(t, "FindLink of a removed connection's link", err, credstore.ErrNotFound)
}

func testLinkExpires(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	token, _, err := s.Links.OpenLink(t.Context(), c.ID, credstore.LinkRequest{TTL: time.Millisecond})
	if err != nil {
		t.Fatalf("OpenLink: %v", err)
	}
	for err == nil {
		_, err = s.Links.FindLink(t.Context(), token)
	}
	wantErr(t, "FindLink", err, credstore.ErrLinkExpired)
	wantErr(t, "BeginConsent", s.Links.BeginConsent(t.Context(), attempt(token, "s")), credstore.ErrLinkExpired)
	if openLink(t, s, c.ID, credstore.LinkRequest{}).Equal(token) {
		t.Error("OpenLink returned an expired link")
	}
}

func testLinksBounded(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	first := openLink(t, s, c.ID, credstore.LinkRequest{})
	opened := []credstore.Secret{first}
	for i := range credstore.MaxLinks {
		wantErr(t, fmt.Sprintf("FindLink of the first of %d", i+1), findErr(t, s, first), nil)
		opened = append(opened, openLink(t, s, c.ID, credstore.LinkRequest{ReturnURL: fmt.Sprint("https://example.com/", i)}))
	}
	kept := 0
	for _, token := range opened {
		if findErr(t, s, token) == nil {
			kept++
		}
	}
	wantErr(t, "FindLink of the last of many", findErr(t, s, opened[len(opened)-1]), nil)
	if kept != credstore.MaxLinks {
		t.Errorf("%d links are valid, want %d", kept, credstore.MaxLinks)
	}
}

func testConsentsBounded(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	link := openLink(t, s, c.ID, credstore.LinkRequest{})
	const begun = credstore.MaxConsents + 5
	for i := range begun {
		begin(t, s, attempt(link, fmt.Sprint(i)))
	}
	kept := 0
	for i := range begun {
		_, err := s.Links.TakeConsent(t.Context(), secret(fmt.Sprint("state-", i)), []byte("browser"))
		if err == nil {
			kept++
		} else if i == begun-1 {
			t.Errorf("TakeConsent of the latest = %v, want nil", err)
		}
	}
	if kept != credstore.MaxConsents {
		t.Errorf("%d consents are stored, want %d", kept, credstore.MaxConsents)
	}
}

func findErr(t *testing.T, s Store, token credstore.Secret) error {
	t.Helper()
	_, err := s.Links.FindLink(t.Context(), token)
	return err
}

// attempt returns a consent that begins at the link.
func attempt(link credstore.Secret, state string) credstore.Consent {
	return credstore.Consent{
		State: secret("state-" + state), Link: link, Verifier: secret("verifier-" + state), Browser: []byte("browser"),
		RedirectURI: "https://example.com/oauth/callback",
	}
}

func testConsent(t *testing.T, data Data) {
	s, other := data.Open(t), data.Open(t)
	c := create(t, s, credstore.NewConnection{Name: "acme", Kind: credstore.OAuth})
	want := attempt(openLink(t, s, c.ID, credstore.LinkRequest{}), "1")
	want.ExpiresAt = start().Add(time.Minute)
	begin(t, s, want)
	want.ConnectionID = c.ID

	_, err := other.Links.TakeConsent(t.Context(), want.State, []byte("another"))
	wantErr(t, "TakeConsent in another browser", err, credstore.ErrOtherBrowser)
	_, err = other.Links.TakeConsent(t.Context(), want.State, nil)
	wantErr(t, "TakeConsent without a browser", err, credstore.ErrOtherBrowser)
	_, err = other.Links.TakeConsent(t.Context(), secret("another"), want.Browser)
	wantErr(t, "TakeConsent of an unknown state", err, credstore.ErrNotFound)
	got, err := other.Links.TakeConsent(t.Context(), want.State, want.Browser)
	if err != nil {
		t.Fatalf("TakeConsent in another process: %v", err)
	}
	wantSame(t, "TakeConsent", got, want)
	for _, browser := range []string{"browser", "another"} {
		_, err = s.Links.TakeConsent(t.Context(), want.State, []byte(browser))
		wantErr(t, "second TakeConsent", err, credstore.ErrNotFound)
	}
}

func testConsentErrors(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	link := openLink(t, s, c.ID, credstore.LinkRequest{})
	wantErr(t, "BeginConsent by an unknown link", s.Links.BeginConsent(t.Context(), attempt(secret("nothing"), "1")), credstore.ErrNotFound)

	begin(t, s, attempt(link, "late"))
	got, err := s.Links.TakeConsent(t.Context(), secret("state-late"), []byte("browser"))
	if err != nil || got.ExpiresAt.IsZero() || time.Until(got.ExpiresAt) > credstore.ConsentTimeout {
		t.Errorf("TakeConsent = until %v, %v, want at most %v", got.ExpiresAt, err, credstore.ConsentTimeout)
	}
	past := attempt(link, "past")
	past.ExpiresAt = start().Add(-time.Second)
	begin(t, s, past)
	_, err = s.Links.TakeConsent(t.Context(), past.State, past.Browser)
	wantErr(t, "TakeConsent of an expired one", err, credstore.ErrNotFound)

	begin(t, s, attempt(link, "concurrent"))
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	g := grant("1")
	g.LinkToken = link
	replace(t, s, l, g)
	wantErr(t, "BeginConsent by a used link", s.Links.BeginConsent(t.Context(), attempt(link, "2")), credstore.ErrLinkUsed)
	if _, err := s.Links.TakeConsent(t.Context(), secret("state-concurrent"), []byte("browser")); err != nil {
		t.Errorf("TakeConsent after its link was used = %v, want nil", err)
	}
	begin(t, s, attempt(openLink(t, s, c.ID, credstore.LinkRequest{}), "removed"))
	if err := s.Connections.Remove(t.Context(), c.ID); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	_, err = s.Links.TakeConsent(t.Context(), secret("state-removed"), []byte("browser"))
	wantErr(t, "TakeConsent for a removed connection", err, credstore.ErrNotFound)
}

// testConsentOnce checks that exactly one of several concurrent calls takes a consent.
func testConsentOnce(t *testing.T, data Data) {
	s, other := data.Open(t), data.Open(t)
	c := create(t, s, pair("acme"))
	link := openLink(t, s, c.ID, credstore.LinkRequest{})
	for i := range 20 {
		a := attempt(link, fmt.Sprint(i))
		begin(t, s, a)
		errs := make(chan error, 4)
		for _, store := range []Store{s, other, s, other} {
			go func() {
				_, err := store.Links.TakeConsent(t.Context(), a.State, a.Browser)
				errs <- err
			}()
		}
		taken := 0
		for range 4 {
			err := <-errs
			if err == nil {
				taken++
			} else if !errors.Is(err, credstore.ErrNotFound) {
				t.Fatalf("TakeConsent = %v, want nil or %v", err, credstore.ErrNotFound)
			}
		}
		if taken != 1 {
			t.Fatalf("the consent was taken %d times, want once", taken)
		}
	}
}
