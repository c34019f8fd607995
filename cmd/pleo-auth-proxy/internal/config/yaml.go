package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// readYAML reads the values in the file. It walks the nodes instead of decoding
// them: only nodes have lines, and a decoder stops at the first mistake.
//
// It reports whether the whole file could be read.
func (l *loader) readYAML(file string, data []byte) bool {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := decoder.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return true // an empty file is valid
	}
	if err != nil {
		l.report.syntaxMistake(file, err)
		return false
	}
	l.readMapping(mapping{file: file, keys: l.keys, owner: l.root()}, doc.Content[0])
	switch err := decoder.Decode(&second); {
	case err == nil:
		l.report.mistake(place{file: file, line: second.Line}, "", "contains a second YAML document; only one is allowed")
	case !errors.Is(err, io.EOF):
		l.report.syntaxMistake(file, err)
	}
	return true
}

var yamlLine = regexp.MustCompile(`^line ([0-9]+): `)

// syntaxMistake reports what the YAML parser returned, without words of the file,
// which may be secrets.
func (r *report) syntaxMistake(file string, err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	p := place{file: file}
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		p.line, _ = strconv.Atoi(m[1]) // digits only; 0 would mean no line
		text = text[len(m[0]):]
	}
	if strings.HasPrefix(text, "unknown anchor") {
		text = "a value begins with * and refers to an anchor that does not exist; put the value in quotes"
	}
	r.mistake(p, "", "invalid YAML: %s", text)
}

// mapping is a YAML mapping that is being read: the whole file, a section or an
// item of a list.
type mapping struct {
	file  string
	path  string        // "" for the whole file
	keys  []key         // of the file, or of the items of the list
	owner reflect.Value // what the keys set
}

// pattern returns the path that a key called name has among m.keys.
func (m mapping) pattern(name string) string {
	section := itemIndex.ReplaceAllString(m.path, "[]")
	return joinPath(section, name)
}

var itemIndex = regexp.MustCompile(`\[[0-9]+\]`)

func joinPath(section, name string) string {
	if section == "" {
		return name
	}
	return section + "." + name
}

func itemPath(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// readMapping reads the keys in the node.
func (l *loader) readMapping(m mapping, node *yaml.Node) {
	node = resolve(node)
	if node.ShortTag() == "!!null" {
		return // a section whose keys are all left out
	}
	if node.Kind != yaml.MappingNode {
		l.report.mistake(place{file: m.file, line: node.Line}, m.path, "must be a mapping, not %s", describe(node))
		return
	}
	first := map[string]int{} // name → line
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		p := place{file: m.file, line: name.Line}
		if line, twice := first[name.Value]; twice {
			l.report.mistake(p, joinPath(m.path, name.Value), "is set twice: here and on line %d", line)
			continue
		}
		first[name.Value] = name.Line
		l.readKey(m, p, name.Value, value)
	}
}

func (l *loader) readKey(m mapping, p place, name string, value *yaml.Node) {
	path, pattern := joinPath(m.path, name), m.pattern(name)
	if i := slices.IndexFunc(m.keys, func(k key) bool { return k.path == pattern }); i >= 0 {
		l.readValue(m, m.keys[i], path, p, resolve(value))
		return
	}
	if slices.ContainsFunc(m.keys, func(k key) bool { return strings.HasPrefix(k.path, pattern+".") }) {
		l.report.places[path] = p // for a mistake that concerns the section as a whole
		section := m
		section.path = path
		l.readMapping(section, value)
		return
	}
	l.report.mistake(p, path, "unknown key%s", suggestKey(pattern, l.keys))
}

// suggestKey suggests the key that was probably meant: the one spelled most
// similarly, or the one of the same name in another section.
func suggestKey(pattern string, keys []key) string {
	paths := knownPaths(keys)
	slices.Sort(paths)
	if s := suggest(pattern, paths); s != "" {
		return s
	}
	name := pattern[strings.LastIndexByte(pattern, '.')+1:]
	for _, k := range keys {
		if _, other := k.section(); other == name {
			return "; did you mean " + k.path + "?"
		}
	}
	return ""
}

// knownPaths returns the paths of all keys and sections.
func knownPaths(keys []key) []string {
	var paths []string
	for _, k := range keys {
		for section, _ := k.section(); section != ""; section, _ = (key{path: section}).section() {
			if !slices.Contains(paths, section) && !strings.HasSuffix(section, "[]") {
				paths = append(paths, section)
			}
		}
		paths = append(append(paths, k.path), knownPaths(k.items)...)
	}
	return paths
}

func (l *loader) readValue(m mapping, k key, path string, p place, node *yaml.Node) {
	switch {
	case node.ShortTag() == "!!null":
		l.report.mistake(p, path, "has no value; set one or remove the key")
	case k.items != nil:
		l.readItems(m, k, path, p, node)
	case k.list:
		l.readList(m, k, path, p, node)
	case !k.format.accepts(node):
		l.report.mistake(p, path, "must be %s, not %s", k.shape(), describe(node))
	case node.Value == "" && k.fallback == "": // the same as leaving the key out
	default:
		l.set(m.owner, k, path, p, []string{node.Value})
	}
}

func (l *loader) readList(m mapping, k key, path string, p place, node *yaml.Node) {
	if node.Kind != yaml.SequenceNode {
		l.report.mistake(p, path, "must be %s, not %s", k.shape(), describe(node))
		return
	}
	texts := make([]string, 0, len(node.Content))
	for _, item := range node.Content {
		item = resolve(item)
		if !k.format.accepts(item) {
			l.report.mistake(place{file: p.file, line: item.Line}, path, "must be a list of strings, but contains %s", describe(item))
			return
		}
		texts = append(texts, item.Value)
	}
	l.set(m.owner, k, path, p, texts)
}

func (l *loader) readItems(m mapping, k key, path string, p place, node *yaml.Node) {
	if node.Kind != yaml.SequenceNode {
		l.report.mistake(p, path, "must be %s, not %s", k.shape(), describe(node))
		return
	}
	l.report.places[path] = p
	list := k.in(m.owner)
	list.Set(reflect.MakeSlice(list.Type(), len(node.Content), len(node.Content))) // not nil: an empty list was given
	for i, item := range node.Content {
		at := mapping{file: m.file, path: itemPath(path, i), keys: k.items, owner: list.Index(i)}
		l.report.places[at.path] = place{file: m.file, line: item.Line}
		l.readMapping(at, item)
	}
}

// accepts reports whether the node can hold a text of the format. Numbers count
// as texts: a client id may consist of digits.
func (f format) accepts(node *yaml.Node) bool {
	if node.Kind != yaml.ScalarNode {
		return false
	}
	if f.boolean {
		return node.ShortTag() == "!!bool"
	}
	return slices.Contains([]string{"!!str", "!!int", "!!float", "!!timestamp"}, node.ShortTag())
}

// shape returns what the value of the key must be, for messages.
func (k key) shape() string {
	switch {
	case k.items != nil:
		return "a list of mappings"
	case k.list:
		return "a list such as [one, two]"
	case k.format.boolean:
		return "true or false"
	}
	return "a string"
}

// describe returns what a node is, without its value.
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch node.ShortTag() {
	case "!!bool":
		return "true or false without quotes"
	case "!!null":
		return "null"
	case "!!str":
		return "a string"
	case "!!int", "!!float":
		return "a number"
	}
	return "a value of this type"
}

// resolve follows an alias to the node that it stands for.
func resolve(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

// errnoOf removes the path from err: the message has it already.
func errnoOf(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}
