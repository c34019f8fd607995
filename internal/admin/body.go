package admin

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

// maxBodySize is far more than any request needs, in bytes.
const maxBodySize = 64 << 10

// fields are the members that a JSON object may have, with a pointer for the
// value of each.
type fields map[string]any

// readBody reads the JSON object of a request into the fields. An empty body is
// an empty object. What nobody asked for is an error that names it, since a
// misspelt member must not pass for one that was left out; nor must one that
// stands in the query.
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
	if !utf8.Valid(body) { // it would be read with other letters in their places
		return manage.NewProblem(manage.CodeBadRequest, "The body is not UTF-8.")
	}
	return into.decode(json.NewDecoder(bytes.NewReader(body)))
}

// readAll returns the body of a request, which is of one of the media types and
// has at most limit bytes. One of white space alone is none.
func readAll(w http.ResponseWriter, r *http.Request, limit int64, types ...string) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return nil, manage.NewProblem(manage.CodeBodyTooLarge, "The body may have %d bytes at most.", limit)
	}
	if err != nil {
		return nil, manage.NewProblem(manage.CodeBadRequest, "The body could not be read to its end.")
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, nil
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !slices.Contains(types, media) {
		return nil, manage.NewProblem(manage.CodeMediaType, "The body must be sent with Content-Type: %s.", strings.Join(types, " or "))
	}
	return body, nil
}

func (f fields) decode(dec *json.Decoder) error {
	notAnObject := manage.NewProblem(manage.CodeBadRequest, "The body is not one JSON object.")
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
			return manage.NewProblem(manage.CodeBadRequest, "The field %.40q is given twice.", name)
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

// decodeField reads the value of one field. The value may be a secret, so it is not
// repeated.
func (f fields) decodeField(name string, dec *json.Decoder) error {
	into, known := f[name]
	if !known {
		return manage.NewProblem(manage.CodeBadRequest, "There is no field %.40q%s.", name, allowedNames(slices.Sorted(maps.Keys(f))))
	}
	err := dec.Decode(into)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) || errors.Is(err, io.ErrUnexpectedEOF) {
		return manage.NewProblem(manage.CodeBadRequest, "The body is not one JSON object.")
	}
	if err != nil {
		return manage.NewProblem(manage.CodeBadRequest, "The field %s wants %s.", name, expectedValue(into))
	}
	return nil
}

// allowedNames says what there is instead of what is not there.
func allowedNames(names []string) string {
	if len(names) == 0 {
		return "; this takes none"
	}
	return "; use " + strings.Join(names, ", ")
}

func expectedValue(into any) string {
	switch into.(type) {
	case *bool:
		return "true or false"
	case *time.Time:
		return "a time such as 2030-01-31T00:00:00Z"
	case *linkTTL:
		return "a time such as 24h or 30m, of 90 days at most"
	}
	return "a text"
}

// linkTTL is a field that says how long something lasts, as the configuration
// does: 24h, 30m. It is that of a connect link.
type linkTTL time.Duration

// UnmarshalJSON implements [json.Unmarshaler]. Nothing lasts for no time, or for
// longer than a link may. null is left out, as for fields of other types.
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
		return errors.New("no link can last so long")
	}
	*l = linkTTL(d)
	return nil
}
