package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// mention is a command in the text of a page, as `pleo-auth-proxy store backup
// FILE`. Those in blocks of their own are run by the tests of docs.
var mention = regexp.MustCompile("`pleo-auth-proxy ([^`]+)`")

// TestMentionedCommandsExist: what a page tells to run can be run.
func TestMentionedCommandsExist(t *testing.T) {
	var pages []string
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../examples/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	mentions := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range mention.FindAllStringSubmatch(string(text), -1) {
			mentions++
			if problem := wrongCommand((&program{}).rootCommand(), strings.Fields(m[1])); problem != "" {
				t.Errorf("%s: `pleo-auth-proxy %s`: %s", filepath.Base(page), m[1], problem)
			}
		}
	}
	if mentions < 20 {
		t.Errorf("%d commands are mentioned, want at least 20: are they still found?", mentions)
	}
}

// wrongCommand says what is wrong with a command line, if anything is.
func wrongCommand(root *cobra.Command, words []string) string {
	cmd := root
	for _, word := range words {
		if name, isFlag := strings.CutPrefix(word, "--"); isFlag {
			name, _, _ = strings.Cut(strings.Trim(name, "[]"), "=")
			if cmd.Flags().Lookup(name) == nil && cmd.InheritedFlags().Lookup(name) == nil {
				return "there is no flag --" + name
			}
			continue
		}
		if cmd.HasSubCommands() {
			next, _, err := cmd.Find([]string{word})
			if err != nil || next == cmd {
				return "there is no command " + word
			}
			cmd = next
		}
	}
	if cmd.HasSubCommands() {
		return "a command is missing"
	}
	return ""
}
