package config

import (
	"fmt"
	"regexp"

	"gopkg.in/yaml.v3"
)

// items is what a list of objects is made of, such as proxy.clients. Such a
// list stands in the file only: a variable holds one text.
type items struct {
	begin func(*Config) // sets the list to one that is given, and empty
	add   func(*Config) // appends an item, which the fields then set
	// fields are the keys of an item. Their paths have [] for its number:
	// proxy.clients[].name.
	fields []key
}

// listAt makes the items of the list at at.
func listAt[T any](at func(*Config) *[]T, fields ...key) *items {
	return &items{
		begin:  func(c *Config) { *at(c) = []T{} },
		add:    func(c *Config) { list := at(c); *list = append(*list, *new(T)) },
		fields: fields,
	}
}

// last returns the item that is being read.
func last[T any](items []T) *T { return &items[len(items)-1] }

var itemNumber = regexp.MustCompile(`\[[0-9]+\]`)

// template returns the path that a key of an item has in the registry.
func template(path string) string { return itemNumber.ReplaceAllString(path, "[]") }

func itemPath(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// register makes the key known, and those of its items.
func (l *loader) register(k key) {
	l.keys[k.path] = k
	if section, _ := k.section(); section != "" {
		l.sections[section] = true
	}
	if k.items == nil {
		return
	}
	for _, field := range k.items.fields {
		l.register(field)
	}
}

func (l *loader) readItems(p place, k key, node *yaml.Node) {
	if node.Kind != yaml.SequenceNode {
		l.mistake(p, k.path, "wants %s, not %s", k.form, describe(node))
		return
	}
	l.places[k.path] = p
	k.items.begin(l.config)
	for i, item := range node.Content {
		k.items.add(l.config)
		path := itemPath(k.path, i)
		l.places[path] = place{file: p.file, line: item.Line}
		l.readMapping(p.file, path, item)
	}
}
