package config

import (
	"fmt"
	"strings"
)

// exampleHead begins config.example.yaml.
const exampleHead = `# The configuration of pleo-auth-proxy: every key with its default.
#
# Keep the lines that you change; of all keys only environment is required. Each
# key can also be set in the environment, which wins over this file: PLEO_ and
# the path in capitals, such as PLEO_PROXY_LISTEN, lists with commas. Durations
# look like 20s or 2m, sizes like 64MiB, and "" below stands for nothing given.
`

// Example returns an example file that holds every key once, with one sentence
// and its default.
func Example() string {
	var b strings.Builder
	b.WriteString(exampleHead)
	open := ""
	for _, k := range allKeys() {
		section, name := k.section()
		b.WriteByte('\n')
		if section != open && section != "" {
			fmt.Fprintf(&b, "%s:\n", section)
		}
		open = section
		indent := strings.Repeat("  ", min(len(section), 1))
		for _, line := range wrap(k.doc, 90) {
			fmt.Fprintf(&b, "%s# %s\n", indent, line)
		}
		fmt.Fprintf(&b, "%s%s: %s\n", indent, name, k.exampleValue())
	}
	return b.String()
}

func (k key) exampleValue() string {
	switch {
	case k.path == "environment":
		return "production"
	case k.form == list:
		return "[" + strings.ReplaceAll(k.fallback, ",", ", ") + "]"
	case k.fallback == "":
		return `""`
	}
	return k.fallback
}

// wrap breaks a sentence into lines of at most width characters.
func wrap(sentence string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(sentence) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
