package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
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

// TestCommandsHaveHelp checks that every command has a short description in the
// imperative, and an example.
func TestCommandsHaveHelp(t *testing.T) {
	each(newRootCommand(&program{}), func(cmd *cobra.Command) {
		if cmd.Hidden || cmd.Name() == "help" || cmd.Parent() != nil && cmd.Parent().Name() == "completion" || cmd.Name() == "completion" {
			return // those of cobra
		}
		verb, _, _ := strings.Cut(cmd.Short, " ")
		if verb == "" || strings.HasSuffix(verb, "s") {
			t.Errorf("%s: the short description is %q, want one in the imperative", cmd.CommandPath(), cmd.Short)
		}
		if !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
	})
}
