package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// TestManPages writes the man pages in a test, so that the program does not contain
// the generator.
var (
	manDir  = flag.String("man", "", "leave the man pages in this `directory`")
	manDate = flag.String("man-date", "2006-01-02", "the `date` in the man pages")
)

func TestManPages(t *testing.T) {
	dir := *manDir
	if dir == "" {
		dir = t.TempDir()
	}
	date, err := time.Parse(time.DateOnly, *manDate)
	if err != nil {
		t.Fatal(err)
	}
	root := newRootCommand(&program{})
	root.DisableAutoGenTag = true
	header := &doc.GenManHeader{Section: "1", Date: &date, Manual: "User Commands", Source: "pleo-auth-proxy"}
	if err := doc.GenManTree(root, header, dir); err != nil {
		t.Fatal(err)
	}
	each(root, func(cmd *cobra.Command) {
		name := strings.ReplaceAll(cmd.CommandPath(), " ", "-") + ".1"
		page, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			return
		}
		if !strings.Contains(string(page), cmd.Short) {
			t.Errorf("%s does not say %q", name, cmd.Short)
		}
	})
}

// each calls visit for a command and all below it.
func each(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, sub := range cmd.Commands() {
		if sub.Name() != "help" { // has no page: --help shows the same
			each(sub, visit)
		}
	}
}
