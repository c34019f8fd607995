package config

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Run with -update to write the files below again after a change of the keys.
var update = flag.Bool("update", false, "write config.example.yaml, docs/configuration.md and the chart's schema")

// The files that are generated from the keys. The last two are generated in
// part: what follows the marker.
const (
	examplePath   = "../../../../config.example.yaml"
	referencePath = "../../../../docs/configuration.md"
	schemaPath    = "../../../../charts/pleo-auth-proxy/values.schema.json"

	referenceMarker = "## Reference\n"
	schemaMarker    = `    "config": {"$comment": "generated from the program's configuration",` + "\n"
)

func TestGeneratedFilesAreUpToDate(t *testing.T) {
	docs := keyDocs(t)
	keys := allKeys()
	for path, want := range map[string]string{
		examplePath:   example(keys, docs),
		referencePath: replaceAfter(t, referencePath, referenceMarker, reference(keys, docs)),
		schemaPath:    replaceAfter(t, schemaPath, schemaMarker, schema(t, keys, docs)),
	} {
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(want, readFile(t, path)); diff != "" {
			t.Errorf("%s is not up to date; run this test with -update (-want +got):\n%s", path, diff)
		}
	}
}

// replaceAfter returns the content of a file with everything after the marker
// replaced by text.
func replaceAfter(t *testing.T, path, marker, text string) string {
	t.Helper()
	head, _, found := strings.Cut(readFile(t, path), marker)
	if !found {
		t.Fatalf("%s does not contain %q", path, marker)
	}
	return head + marker + text
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// keyDocs returns the comments of the fields in config.go, as one line each, by
// struct and field.
func keyDocs(t *testing.T) map[[2]string]string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	docs := map[[2]string]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if s, ok := spec.Type.(*ast.StructType); ok {
			for _, field := range s.Fields.List {
				if len(field.Names) == 1 {
					docs[[2]string{spec.Name.Name, field.Names[0].Name}] = strings.Join(strings.Fields(field.Doc.Text()), " ")
				}
			}
		}
		return false
	})
	return docs
}

// doc returns what the documentation says about a key.
func (k key) doc(docs map[[2]string]string) string {
	doc := docs[k.declaredBy]
	if k.format.orFile != "" {
		doc += " Prefer " + k.nameInSection() + fileSuffix + "."
	}
	if k.secret != "" {
		doc = "A file with the value of " + k.secret[strings.LastIndexByte(k.secret, '.')+1:] + ". It is read again when it changes."
	}
	return doc
}

func (k key) nameInSection() string {
	_, name := k.section()
	return name
}

func itemKeys(keys []key) []key {
	var all []key
	for _, k := range keys {
		all = append(append(all, k.items...), itemKeys(k.items)...)
	}
	return all
}

func TestEveryKeyIsDocumented(t *testing.T) {
	docs := keyDocs(t)
	for _, k := range append(allKeys(), itemKeys(allKeys())...) {
		if doc := k.doc(docs); !strings.HasSuffix(doc, ".") || len(doc) < 10 {
			t.Errorf("the comment of %s is %q, want a sentence", k.path, doc)
		}
	}
}

const exampleHead = `# The configuration of pleo-auth-proxy: every key with its default.
#
# Keep only the lines that you change; environment is the only required key. Each
# key outside of lists can also be set in the environment, which overrides this
# file: PLEO_ and the path in capitals, such as PLEO_PROXY_LISTEN; lists are
# separated by commas. Durations look like 20s or 2m, sizes like 64MiB. "" means
# not set.
`

// example returns a file with every key and its default.
func example(keys []key, docs map[[2]string]string) string {
	var b strings.Builder
	b.WriteString(exampleHead)
	open := ""
	for _, k := range keys {
		section, name := k.section()
		b.WriteByte('\n')
		indent := openSections(&b, open, section)
		open = section
		writeComment(&b, indent+"# ", k.doc(docs))
		writeItemKeys(&b, indent+"#   ", k.items, docs)
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

// writeItemKeys writes the keys of the items of a list, as comments.
func writeItemKeys(b *strings.Builder, indent string, keys []key, docs map[[2]string]string) {
	for _, k := range keys {
		lines := wrap(k.nameInSection()+": "+k.doc(docs), 94-len(indent))
		writeComment(b, indent, lines[0])
		for _, line := range lines[1:] {
			writeComment(b, indent+"  ", line)
		}
		writeItemKeys(b, indent+"  ", k.items, docs)
	}
}

func writeComment(b *strings.Builder, prefix, text string) {
	for _, line := range wrap(text, 94-len(prefix)) {
		fmt.Fprintf(b, "%s%s\n", prefix, line)
	}
}

func (k key) exampleValue() string {
	switch {
	case k.path == "environment":
		return "production"
	case k.list, k.items != nil:
		return "[" + strings.ReplaceAll(k.fallback, ",", ", ") + "]"
	case k.fallback == "":
		return `""`
	}
	return k.fallback
}

// wrap breaks a text into lines of at most width characters.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
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

// reference returns the keys as tables in Markdown, one per section.
func reference(keys []key, docs map[[2]string]string) string {
	var b strings.Builder
	open := ""
	for _, k := range keys {
		if heading := k.heading(); heading != open {
			open = heading
			fmt.Fprintf(&b, "\n### %s\n\n| Key, variable | Default | Description |\n| --- | --- | --- |\n", heading)
		}
		k.writeRow(&b, docs)
	}
	return b.String()
}

// heading returns the heading of the key: the first part of its path.
func (k key) heading() string {
	first, _, nested := strings.Cut(k.path, ".")
	if nested || k.items != nil {
		return first
	}
	return "general"
}

// writeRow writes the key, and those of its items, as rows of a table.
func (k key) writeRow(b *strings.Builder, docs map[[2]string]string) {
	names := code(k.path)
	if k.items == nil && !strings.Contains(k.path, "[]") {
		names += "<br>" + code(k.variable())
	}
	value := ""
	if k.fallback != "" {
		value = code(strings.ReplaceAll(k.fallback, ",", ", "))
	}
	fmt.Fprintf(b, "| %s | %s | %s |\n", names, value, escapeCell(k.doc(docs)))
	for _, item := range k.items {
		item.writeRow(b, docs)
	}
}

func code(s string) string { return "`" + s + "`" }

// escapeCell escapes what would end a cell of a table or be read as Markdown.
func escapeCell(s string) string {
	return strings.NewReplacer("|", `\|`, "*", `\*`, "<", "&lt;").Replace(s)
}

// object is a JSON Schema of a mapping or of one value. Its fields are in the order
// in which they are written.
type object struct {
	Description string             `json:"description,omitempty"`
	Type        any                `json:"type,omitempty"`
	Enum        []string           `json:"enum,omitempty"`
	Items       *object            `json:"items,omitempty"`
	Additional  *bool              `json:"additionalProperties,omitempty"`
	Properties  map[string]*object `json:"properties,omitempty"`
}

func mappingSchema() *object {
	closed := false
	return &object{Type: "object", Additional: &closed, Properties: map[string]*object{}}
}

// schema returns the schema of the configuration from the line after the marker
// to the end of the file.
func schema(t *testing.T, keys []key, docs map[[2]string]string) string {
	t.Helper()
	root := mappingSchema()
	for _, k := range keys {
		root.add(strings.Split(k.path, "."), k, docs)
	}
	text, err := json.MarshalIndent(root, "    ", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(string(text), "{\n") + "\n  }\n}\n"
}

// add adds a key below the mapping.
func (o *object) add(path []string, k key, docs map[[2]string]string) {
	name := path[0]
	if len(path) > 1 {
		if o.Properties[name] == nil {
			o.Properties[name] = mappingSchema()
		}
		o.Properties[name].add(path[1:], k, docs)
		return
	}
	value := &object{Type: []string{"string", "number"}, Enum: k.format.words}
	switch {
	case k.items != nil:
		value = mappingSchema()
		for _, item := range k.items {
			value.add([]string{item.nameInSection()}, item, docs)
		}
	case k.format.boolean:
		value = &object{Type: "boolean"}
	case value.Enum != nil:
		value.Type = nil
	}
	if k.list || k.items != nil {
		value = &object{Type: "array", Items: value}
	}
	value.Description = k.doc(docs)
	o.Properties[name] = value
}
