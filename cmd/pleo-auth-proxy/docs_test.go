package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
)

// mention is a command in the text of a page, as `pleo-auth-proxy store backup
// FILE`. Those in blocks of their own are run by the tests of docs.
var mention = regexp.MustCompile("`pleo-auth-proxy ([^`]+)`")

// pages returns the text of every page by its name.
func pages(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../examples/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			texts[path] = string(readFile(t, path))
		}
	}
	return texts
}

// TestMentionedCommandsExist checks that the commands in the pages exist.
func TestMentionedCommandsExist(t *testing.T) {
	mentions := 0
	for page, text := range pages(t) {
		for _, m := range mention.FindAllStringSubmatch(text, -1) {
			mentions++
			if problem := wrongCommand(newRootCommand(&program{}), strings.Fields(m[1])); problem != "" {
				t.Errorf("%s: `pleo-auth-proxy %s`: %s", filepath.Base(page), m[1], problem)
			}
		}
	}
	if mentions < 20 {
		t.Errorf("%d commands are mentioned, want at least 20: are they still found?", mentions)
	}
}

// wrongCommand returns what is wrong with a command line, or "".
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

// excerpt is a block of YAML in a page.
var excerpt = regexp.MustCompile("(?ms)^```yaml[^\n]*\n(.*?)^```$")

// TestConfigurationExcerptsAreValid checks that the excerpts of configuration in the
// pages are valid. Manifests, compose files and values of charts are tested in
// deploy/.
func TestConfigurationExcerptsAreValid(t *testing.T) {
	tried := 0
	for page, text := range pages(t) {
		if filepath.Base(page) == "kubernetes.md" {
			continue
		}
		for _, m := range excerpt.FindAllStringSubmatch(text, -1) {
			var top map[string]any
			if err := yaml.Unmarshal([]byte(m[1]), &top); err != nil {
				t.Errorf("%s shows YAML that cannot be read: %v\n%s", filepath.Base(page), err, m[1])
			}
			if top["apiVersion"] != nil || top["services"] != nil {
				continue
			}
			tried++
			whole := m[1]
			if top["environment"] == nil {
				whole = "environment: production\n" + whole
			}
			path := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(path, []byte(whole), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := config.Load(config.Source{Path: path, Environ: []string{"HOME=/nowhere"}}); err != nil {
				t.Errorf("%s shows a configuration that is none: %v\n%s", filepath.Base(page), err, m[1])
			}
		}
	}
	if tried < 4 {
		t.Errorf("%d excerpts were tried, want at least 4: are they still found?", tried)
	}
}
