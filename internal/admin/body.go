package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
)

// bodyMax is far more than any request needs, in bytes.
const bodyMax = 64 << 10

// fields are the members that a JSON object may have, with a pointer for the
// value of each.
type fields map[string]any

// readBody reads the JSON object of a request into the fields. An empty body is
// an empty object. What nobody asked for is an error that names it, since a
// misspelt member must not pass for one that was left out.
func readBody(w http.ResponseWriter, r *http.Request, into fields) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyMax))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return problemOf(codeBodyTooLarge, "The body may have %d bytes at most.", bodyMax)
	}
	if err != nil {
		return problemOf(codeBadRequest, "The body could not be read to its end.")
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return problemOf(codeMediaType, "The body must be JSON and say so: Content-Type: application/json.")
	}
	return into.read(json.NewDecoder(bytes.NewReader(body)))
}

func (f fields) read(dec *json.Decoder) error {
	notAnObject := problemOf(codeBadRequest, "The body is not one JSON object.")
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return notAnObject
	}
	seen := map[string]bool{}
	for dec.More() {
		token, err := dec.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return notAnObject
		}
		if seen[name] {
			return problemOf(codeBadRequest, "The field %.40q is given twice.", name)
		}
		seen[name] = true
		if err := f.set(name, dec); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return notAnObject
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return notAnObject
	}
	return nil
}

// set reads the value of one field. The value may be a secret, so it is not
// repeated.
func (f fields) set(name string, dec *json.Decoder) error {
	into, known := f[name]
	if !known {
		return problemOf(codeBadRequest, "There is no field %.40q%s.", name, f.choice())
	}
	err := dec.Decode(into)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) || errors.Is(err, io.ErrUnexpectedEOF) {
		return problemOf(codeBadRequest, "The body is not one JSON object.")
	}
	if err != nil {
		return problemOf(codeBadRequest, "The field %s wants %s.", name, wanted(into))
	}
	return nil
}

func (f fields) choice() string {
	if len(f) == 0 {
		return "; this takes none"
	}
	return fmt.Sprintf("; use %s", strings.Join(slices.Sorted(maps.Keys(f)), ", "))
}

func wanted(into any) string {
	switch into.(type) {
	case *bool:
		return "true or false"
	case *time.Time:
		return "a time such as 2030-01-31T00:00:00Z"
	}
	return "a text"
}
