package config

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// readYAML reads the file's values. It walks the nodes itself, because only
// they know their lines, and because a decoder stops at things (duplicate
// keys) that are better reported with everything else.
//
// It reports whether the whole file could be read.
func (l *loader) readYAML(file string, data []byte) bool {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := decoder.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return true // an empty file says nothing, and may
	}
	if err != nil {
		l.syntaxMistake(file, err)
		return false
	}
	l.readMapping(file, "", doc.Content[0])
	switch err := decoder.Decode(&second); {
	case err == nil:
		l.mistake(place{file: file, line: second.Line}, "", "a second YAML document; there can be only one")
	case !errors.Is(err, io.EOF):
		l.syntaxMistake(file, err)
	}
	return true
}

var yamlLine = regexp.MustCompile(`^line ([0-9]+): `)

// syntaxMistake reports what the YAML parser says, but for words of the file,
// which might be a secret.
func (l *loader) syntaxMistake(file string, err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	p := place{file: file}
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		p.line, _ = strconv.Atoi(m[1]) // digits only; 0 would mean no line
		text = text[len(m[0]):]
	}
	if strings.HasPrefix(text, "unknown anchor") {
		text = "a value begins with *, which refers to an anchor that is not there; put the value in quotes"
	}
	l.mistake(p, "", "is not YAML: %s", text)
}

// readMapping reads the keys of one section; "" is the whole file.
func (l *loader) readMapping(file, section string, node *yaml.Node) {
	node = resolve(node)
	at := place{file: file, line: node.Line}
	if node.ShortTag() == "!!null" {
		return // a section whose keys are all left out
	}
	if node.Kind != yaml.MappingNode {
		l.mistake(at, section, "wants keys and values, not %s", describe(node))
		return
	}
	first := map[string]int{} // name → line
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		path := joinPath(section, name.Value)
		p := place{file: file, line: name.Line}
		if line, twice := first[name.Value]; twice {
			l.mistake(p, path, "is given twice, here and in line %d", line)
			continue
		}
		first[name.Value] = name.Line
		l.readKey(p, path, value)
	}
}

func joinPath(section, name string) string {
	if section == "" {
		return name
	}
	return section + "." + name
}

func (l *loader) readKey(p place, path string, value *yaml.Node) {
	if k, ok := l.keys[template(path)]; ok {
		k.path = path // with the numbers of items
		l.readValue(p, k, resolve(value))
		return
	}
	if l.sections[path] {
		l.readMapping(p.file, path, value)
		return
	}
	l.mistake(p, path, "unknown key%s", l.suggestKey(path))
}

// suggestKey names the key that was probably meant: the one spelt most like
// path, or the one of the same name in another section.
func (l *loader) suggestKey(path string) string {
	if s := suggest(template(path), l.known()); s != "" {
		return s
	}
	name := path[strings.LastIndexByte(path, '.')+1:]
	for _, k := range l.order {
		if _, other := k.section(); other == name {
			return "; did you mean " + k.path + "?"
		}
	}
	return ""
}

func (l *loader) readValue(p place, k key, node *yaml.Node) {
	if node.ShortTag() == "!!null" {
		l.mistake(p, k.path, "has no value; give it one or leave the key out")
		return
	}
	if k.form == list {
		l.readList(p, k, node)
		return
	}
	if k.form == objects {
		l.readItems(p, k, node)
		return
	}
	if !k.form.accepts(node) {
		l.mistake(p, k.path, "wants %s, not %s", k.form, describe(node))
		return
	}
	if node.Value == "" && k.fallback == "" {
		return // as good as left out
	}
	l.set(k, p, []string{node.Value})
}

func (l *loader) readList(p place, k key, node *yaml.Node) {
	if node.Kind != yaml.SequenceNode {
		l.mistake(p, k.path, "wants %s, not %s", k.form, describe(node))
		return
	}
	texts := make([]string, 0, len(node.Content))
	for _, item := range node.Content {
		item = resolve(item)
		if !scalar.accepts(item) {
			l.mistake(place{file: p.file, line: item.Line}, k.path, "wants a list of texts, not of %s", describe(item))
			return
		}
		texts = append(texts, item.Value)
	}
	l.set(k, p, texts)
}

// accepts reports whether a scalar of this form can be written as the node.
// Numbers count as texts: a client id may well be made of digits.
func (f form) accepts(node *yaml.Node) bool {
	if node.Kind != yaml.ScalarNode {
		return false
	}
	if f == boolean {
		return node.ShortTag() == "!!bool"
	}
	return slices.Contains([]string{"!!str", "!!int", "!!float", "!!timestamp"}, node.ShortTag())
}

// String says what the form wants, for messages.
func (f form) String() string {
	switch f {
	case boolean:
		return "true or false"
	case list:
		return "a list such as [one, two]"
	case objects:
		return "a list of keys and values"
	}
	return "a text"
}

// describe says what a node is, without its value.
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	}
	switch node.ShortTag() {
	case "!!bool":
		return "true or false without quotes"
	case "!!null":
		return "nothing"
	case "!!str":
		return "a text"
	case "!!int", "!!float":
		return "a number"
	}
	return "a value of this sort"
}

// resolve follows an alias to what it stands for.
func resolve(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

// errnoOf leaves out the path, which the message has already.
func errnoOf(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}
