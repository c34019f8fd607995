package config

import (
	"reflect"
	"strings"
)

// key is one key of the configuration.
type key struct {
	path     string // [] stands for the index of an item: proxy.clients[].name
	fallback string // the default, as it is written in the environment; empty: none
	format   format
	list     bool   // the value is a list of texts
	items    []key  // the keys of each item of a list of mappings; nil for all other keys
	secret   string // the path of the secret that the file at this path holds; empty for all other keys

	// Where the value goes: the field in the Config or, below [], in the item.
	index []int
	// declaredBy names the struct and the field, for their documentation.
	declaredBy [2]string
}

// variable returns the name of the key's environment variable.
func (k key) variable() string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(k.path, ".", "_"))
}

// section returns the part of the path before the last dot, and the rest.
func (k key) section() (section, name string) {
	if i := strings.LastIndexByte(k.path, '.'); i >= 0 {
		return k.path[:i], k.path[i+1:]
	}
	return "", k.path
}

// in returns the value of the key in owner, which is the Config or the item that
// declares it.
func (k key) in(owner reflect.Value) reflect.Value { return owner.FieldByIndex(k.index) }

// allKeys returns every key, in the order of their declaration.
func allKeys() []key { return keysOf(reflect.TypeFor[Config](), "", nil, formats()) }

// keysOf returns the keys that a struct declares, with those of its sections.
func keysOf(t reflect.Type, section string, index []int, formats map[string]format) []key {
	var keys []key
	for i := range t.NumField() {
		field := t.Field(i)
		name := field.Tag.Get("key")
		if name == "" {
			continue
		}
		at := append(index[:len(index):len(index)], i)
		k := key{
			path: joinPath(section, name), index: at, fallback: field.Tag.Get("default"),
			declaredBy: [2]string{t.Name(), field.Name},
		}
		keys = append(keys, expand(k, field, formats)...)
	}
	return keys
}

// expand returns the keys of one field: those of a section, one or, for a secret,
// two.
func expand(k key, field reflect.StructField, formats map[string]format) []key {
	element := field.Type
	if element.Kind() == reflect.Slice {
		element = element.Elem()
		k.list = element.Kind() != reflect.Struct || isText(element, field)
	}
	switch {
	case isText(element, field):
		k.format = formatOf(element, field, formats)
	case element != field.Type:
		k.items = keysOf(element, k.path+"[]", nil, formats)
	default:
		return keysOf(element, k.path, k.index, formats)
	}
	if k.format.orFile == "" {
		return []key{k}
	}
	file := k
	file.path, file.format, file.secret = k.path+fileSuffix, formats[k.format.orFile], k.path
	return []key{k, file}
}

// fileSuffix is what the key that names the file of a secret adds to the key for
// the secret itself.
const fileSuffix = "_file"

// isText reports whether values of the type are written as one text.
func isText(t reflect.Type, field reflect.StructField) bool {
	return t.Kind() != reflect.Struct || field.Tag.Get("as") != "" || typeFormats()[t] != ""
}

// formatOf returns the format that the field's tags name, or that of its type.
func formatOf(t reflect.Type, field reflect.StructField, formats map[string]format) format {
	if words := field.Tag.Get("oneof"); words != "" {
		return wordFormat(strings.Split(words, ",")...)
	}
	name := field.Tag.Get("as")
	if name == "" {
		name = typeFormats()[t]
	}
	f, ok := formats[name]
	if !ok {
		panic("config: field " + field.Name + " has no known format") // any use of the package finds it
	}
	return f
}
