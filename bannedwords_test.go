package repository_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// bannedWords are not terms of the field, or pronouns that name no subject. The table
// of terms in docs/architecture.md has the words to use; a pronoun is replaced by what
// it stands for (the client, the operator, another process).
var bannedWords = regexp.MustCompile(`\b(` + strings.Join([]string{
	`[Ww]hoever`, `[Ww]hom`, `[Ss]omebody`, `[Nn]obody`, `[Aa]nybody`, `[Ee]verybody`,
	`[Mm]end(s|ed|ing)?`, `[Bb]rakes?`, `[Ww]itness(es)?`, `[Ss]trangers?`, `[Oo]racles?`, `[Bb]ells?`, `[Tt]old`,
	`([Uu]n)?[Ss]eal(s|ed|ing)?`, `[Aa]nswer(s|ed|ing)?`,
}, "|") + `)\b`)

// allowed lists where a banned word is not ours to choose.
var allowed = []string{
	`"witness.json"`,          // the high-water mark of earlier versions, which is still read
	`.Answers = []dnsmessage`, // a field of a DNS message
}

func TestBannedWords(t *testing.T) {
	walkFiles(t, func(path string) {
		if !slices.Contains([]string{".go", ".md", ".yaml", ".html", ".tmpl"}, filepath.Ext(path)) ||
			strings.Contains(path, "testdata/") {
			return
		}
		if path == "bannedwords_test.go" || path == "CHANGELOG.md" { // they list old terms
			return
		}
		for i, line := range strings.Split(read(t, path), "\n") {
			if slices.ContainsFunc(allowed, func(part string) bool { return strings.Contains(line, part) }) {
				continue
			}
			for _, word := range bannedWords.FindAllString(line, -1) {
				t.Errorf("%s:%d: %q in %q", path, i+1, word, strings.TrimSpace(line))
			}
		}
	})
}
