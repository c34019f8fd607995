package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// maxBodySize is the size of a JSON body in bytes, far more than any request
// needs.
const maxBodySize = 64 << 10

// fields maps the names of the members that a JSON object may have to pointers to
// their values.
type fields map[string]any

// readBody parses the JSON object of a request that has no parameters. An empty
// body is an empty object. Unknown members are errors that name them: a misspelled
// member must not pass for one that was left out, nor must one in the query.
func readBody(w http.ResponseWriter, r *http.Request, into fields) error {
	if _, err := parameters(r.URL.RawQuery); err != nil {
		return err
	}
	return readFields(w, r, into)
}

// readFields is readBody for a request that has parameters too.
func readFields(w http.ResponseWriter, r *http.Request, into fields) error {
	body, err := readAll(w, r, maxBodySize, "application/json")
	if err != nil || len(body) == 0 {
		return err
	}
	if !utf8.Valid(body) { // encoding/json would replace the invalid bytes
		return manage.NewProblem(manage.CodeBadRequest, "The body is not valid UTF-8.")
	}
	return into.decode(json.NewDecoder(bytes.NewReader(body)))
}

// readAll returns the body of a request, which has one of the media types and at
// most limit bytes. A body of white space is empty.
func readAll(w http.ResponseWriter, r *http.Request, limit int64, types ...string) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return nil, manage.NewProblem(manage.CodeBodyTooLarge, "The body must not have more than %d bytes.", limit)
	}
	if err != nil {
		return nil, manage.NewProblem(manage.CodeBadRequest, "The body is incomplete.")
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, nil
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !slices.Contains(types, media) {
		return nil, manage.NewProblem(manage.CodeMediaType, "The body must have the Content-Type %s.", strings.Join(types, " or "))
	}
	return body, nil
}

// decode reads one JSON object. encoding/json by itself would accept a member that
// occurs twice, and drop one of its values.
func (f fields) decode(dec *json.Decoder) error {
	notAnObject := manage.NewProblem(manage.CodeBadRequest, "The body must be a single JSON object.")
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
			return manage.NewProblem(manage.CodeBadRequest, "The field %.40q occurs twice.", name)
		}
		seen[name] = true
		if err := f.decodeField(name, dec); err != nil {
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

// decodeField reads the value of one field. Errors do not repeat the value, which
// may be a secret.
func (f fields) decodeField(name string, dec *json.Decoder) error {
	into, known := f[name]
	if !known {
		return manage.NewProblem(manage.CodeBadRequest, "Unknown field %.40q; %s.", name, allowedNames(slices.Sorted(maps.Keys(f))))
	}
	err := dec.Decode(into)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) || errors.Is(err, io.ErrUnexpectedEOF) {
		return manage.NewProblem(manage.CodeBadRequest, "The body must be a single JSON object.")
	}
	if err != nil {
		return manage.NewProblem(manage.CodeBadRequest, "The field %s must be %s.", name, expectedValue(into))
	}
	return nil
}

// allowedNames is the part of an error about an unknown name that says which names
// are known.
func allowedNames(names []string) string {
	if len(names) == 0 {
		return "none are supported"
	}
	return "supported are " + strings.Join(names, ", ")
}

func expectedValue(into any) string {
	switch into.(type) {
	case *bool:
		return "true or false"
	case *time.Time:
		return "a time such as 2030-01-31T00:00:00Z"
	case *linkTTL:
		return "a duration such as 24h or 30m, at most 90 days"
	}
	return "a string"
}

// linkTTL is a field with the lifetime of a connect link, in the form of the
// configuration: 24h, 30m.
type linkTTL time.Duration

// UnmarshalJSON implements [json.Unmarshaler]. It leaves l unchanged for null, as
// for fields of other types.
func (l *linkTTL) UnmarshalJSON(raw []byte) error {
	if string(raw) == "null" {
		return nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return err
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	if d <= 0 || d > credstore.MaxLinkTTL {
		return errors.New("not a lifetime of a link")
	}
	*l = linkTTL(d)
	return nil
}
