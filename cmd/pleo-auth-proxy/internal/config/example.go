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
		indent := openSections(&b, open, section)
		open = section
		for _, line := range wrap(k.doc, 90) {
			fmt.Fprintf(&b, "%s# %s\n", indent, line)
		}
		k.describeItems(&b, indent+"#   ")
		fmt.Fprintf(&b, "%s%s: %s\n", indent, name, k.exampleValue())
	}
	return b.String()
}

// openSections writes the parts of a section that are not open yet, and returns
// the indent of its keys.
func openSections(b *strings.Builder, open, section string) string {
	if section == "" {
		return ""
	}
	parts := strings.Split(section, ".")
	for i := range parts {
		if path := strings.Join(parts[:i+1], "."); path != open && !strings.HasPrefix(open, path+".") {
			fmt.Fprintf(b, "%s%s:\n", strings.Repeat("  ", i), parts[i])
		}
	}
	return strings.Repeat("  ", len(parts))
}

// describeItems writes the keys of a list's items, as comments.
func (k key) describeItems(b *strings.Builder, indent string) {
	if k.items == nil {
		return
	}
	for _, field := range k.items.fields {
		_, name := field.section()
		fmt.Fprintf(b, "%s%s: %s\n", indent, name, field.doc)
		field.describeItems(b, indent+"  ")
	}
}

func (k key) exampleValue() string {
	switch {
	case k.path == "environment":
		return "production"
	case k.form == list, k.form == objects:
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
