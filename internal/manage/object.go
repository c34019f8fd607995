package manage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Fields maps the names of the members that a JSON object may have to pointers to
// their values.
type Fields map[string]any

// UnknownFieldError is a member that an object does not have. The name is part of
// the input, and could be a misplaced secret.
type UnknownFieldError struct {
	Name  string
	Known []string
}

func (e *UnknownFieldError) Error() string {
	return fmt.Sprintf("unknown field %.40q; %s", e.Name, SupportedNames(e.Known))
}

// SupportedNames is the part of an error about an unknown name that says which names
// are known.
func SupportedNames(names []string) string {
	if len(names) == 0 {
		return "none are supported"
	}
	return "supported are " + strings.Join(names, ", ")
}

var (
	errNotUTF8   = &InvalidError{"the input is not valid UTF-8"}
	errNotObject = &InvalidError{"the input is not a single JSON object"}
)

// Decode decodes a JSON object, and returns the names of its members. It loses
// nothing that encoding/json would lose without an error: members that are unknown,
// differ by case or occur twice, invalid UTF-8, and anything after the object. It
// returns an *[InvalidError], which contains no value, or an *[UnknownFieldError].
// Members before the one with the error have been decoded then.
func (f Fields) Decode(data []byte) (names []string, err error) {
	if !utf8.Valid(data) {
		return nil, errNotUTF8
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return nil, errNotObject
	}
	for dec.More() {
		token, err := dec.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return names, errNotObject
		}
		if slices.Contains(names, name) {
			return names, invalid("the field %s occurs twice", name)
		}
		names = append(names, name)
		if err := f.decodeField(name, dec); err != nil {
			return names, err
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return names, errNotObject
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return names, errNotObject
	}
	return names, nil
}

func (f Fields) decodeField(name string, dec *json.Decoder) error {
	into, known := f[name]
	if !known {
		return &UnknownFieldError{Name: name, Known: slices.Sorted(maps.Keys(f))}
	}
	err := dec.Decode(into)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errNotObject
	}
	if err != nil {
		return invalid("the field %s must be %s", name, expectedValue(into))
	}
	return nil
}

// expectedValue describes the values of a field. Types of other packages describe
// theirs by a method Expected.
func expectedValue(into any) string {
	switch v := into.(type) {
	case interface{ Expected() string }:
		return v.Expected()
	case *bool:
		return "true or false"
	case *time.Time:
		return "a time such as 2030-01-31T00:00:00Z"
	}
	return "a string"
}
