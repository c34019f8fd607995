package manage

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// fakeLinks issues one link.
type fakeLinks struct{}

func (fakeLinks) Issue(context.Context, string, credstore.LinkRequest) (string, credstore.Link, error) {
	return "https://connect.example.com/connect/token", credstore.Link{ExpiresAt: time.Unix(1e9, 0)}, nil
}

// TestReturnURLMustBeConfigured checks that return URLs are compared character by
// character.
func TestReturnURLMustBeConfigured(t *testing.T) {
	const returnURL = "https://books.example.com/done?from=pleo"
	o := &Operator{Links: fakeLinks{}, ReturnURLs: []string{returnURL}}
	for _, url := range []string{returnURL, ""} {
		if link, err := o.Link(t.Context(), credstore.Connection{}, credstore.LinkRequest{ReturnURL: url}); err != nil || link.URL.IsZero() {
			t.Errorf("Link with return URL %q = %v, want a link", url, err)
		}
	}
	for _, url := range []string{
		returnURL + "&x=1", "https://books.example.com/done", returnURL + "/", "https://books.example.com.evil.example/done?from=pleo",
		strings.ToUpper(returnURL), "javascript:alert(1)",
	} {
		if _, err := o.Link(t.Context(), credstore.Connection{}, credstore.LinkRequest{ReturnURL: url}); !errors.Is(err, ErrReturnURL) {
			t.Errorf("Link with return URL %q = %v, want ErrReturnURL", url, err)
		}
	}
	if _, err := new(Operator).Link(t.Context(), credstore.Connection{}, credstore.LinkRequest{}); !errors.Is(err, ErrNoLinks) {
		t.Errorf("Link without pages = %v, want ErrNoLinks", err)
	}
}

// readingStore has one connection.
type readingStore struct {
	Store
	name string
}

func (s readingStore) Read(context.Context, string) (credstore.State, error) {
	return credstore.State{Connection: credstore.Connection{Name: s.name}}, nil
}

// linkStore creates links.
type linkStore struct{ created int }

func (s *linkStore) OpenLink(context.Context, string, credstore.LinkRequest) (credstore.Secret, credstore.Link, error) {
	s.created++
	return credstore.NewSecret("token"), credstore.Link{}, nil
}

func TestNoLinkForKeyInConfiguration(t *testing.T) {
	links := &linkStore{}
	for _, name := range []string{"acme", "other"} {
		s := ConfigLinkStore{LinkStore: links, Store: readingStore{name: name}, InConfig: func(name string) bool { return name == "acme" }}
		_, _, err := s.OpenLink(t.Context(), "id", credstore.LinkRequest{})
		var notPossible *NotPossibleError
		if errors.As(err, &notPossible) != (name == "acme") {
			t.Errorf("OpenLink for %s = %v", name, err)
		}
	}
	if links.created != 1 {
		t.Errorf("created %d links, want 1", links.created)
	}
}
