package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/listen"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func TestExitCodes(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		want int
	}{
		{"done", nil, 0},
		{"anything else", errors.New("x"), 1},
		{"name taken", &credstore.ConflictError{Err: credstore.ErrNameTaken, With: "a"}, 1},
		{"store unavailable", fmt.Errorf("reading: %w", credstore.ErrUnavailable), 1},
		{"usage", &usageError{err: errors.New("x")}, 2},
		{"configuration", &config.Error{}, 2},
		{"keyset or schema", fmt.Errorf("opening: %w", &credstore.SetupError{Err: errors.New("x")}), 2},
		{"not found", fmt.Errorf("finding: %w", credstore.ErrNotFound), 3},
		{"closing failed too", errors.Join(fmt.Errorf("finding: %w", credstore.ErrNotFound), errors.New("x")), 3},
	} {
		if got := exitCode(test.err); got != test.want {
			t.Errorf("%s: exitCode(%v) = %d, want %d", test.name, test.err, got, test.want)
		}
	}
}

func TestTerminalEscapesAreQuoted(t *testing.T) {
	for written, want := range map[string]string{
		"Acme ApS":       "Acme ApS",
		"Smørrebrød & ✓": "Smørrebrød & ✓",
		"a\x1b[2Jb":      `"a\x1b[2Jb"`,
		"two\nlines":     `"two\nlines"`,
	} {
		if got := terminalText(&written); got != want {
			t.Errorf("text(%q) = %s, want %s", written, got, want)
		}
	}
}

func TestHealthcheckListener(t *testing.T) {
	for address, want := range map[string]string{
		":8487":          "127.0.0.1:8487",
		"0.0.0.0:8487":   "127.0.0.1:8487",
		"[::]:8487":      "[::1]:8487",
		"10.0.0.1:8487":  "10.0.0.1:8487",
		"localhost:8487": "localhost:8487",
	} {
		if got := listen.DialAddress(config.Listen{Network: "tcp", Address: address}); got != want {
			t.Errorf("dialable(%q) = %q, want %q", address, got, want)
		}
	}
}

func TestIgnoredProxyVariables(t *testing.T) {
	got := setup.IgnoredProxyVariables([]string{"HTTP_PROXY=http://u:p@h", "https_proxy=x", "ALL_PROXY=", "NO_PROXY=x", "HTTP_PROXYX=x"})
	if diff := cmp.Diff([]string{"HTTP_PROXY", "https_proxy"}, got); diff != "" {
		t.Errorf("ignored (-want +got), names only:\n%s", diff)
	}
}
