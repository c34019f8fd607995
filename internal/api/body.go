package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// maxBodySize is the size of a JSON body in bytes, far more than any request
// needs.
const maxBodySize = 64 << 10

// readBody parses the JSON object of a request that has no parameters. An empty
// body is an empty object. Unknown members are errors that name them: a misspelled
// member must not pass for one that was left out, nor must one in the query.
func readBody(w http.ResponseWriter, r *http.Request, into manage.Fields) error {
	if _, err := parameters(r.URL.RawQuery); err != nil {
		return err
	}
	return readFields(w, r, into)
}

// readFields is readBody for a request that has parameters too.
func readFields(w http.ResponseWriter, r *http.Request, into manage.Fields) error {
	body, err := readAll(w, r, maxBodySize, "application/json")
	if err != nil || len(body) == 0 {
		return err
	}
	_, err = into.Decode(body)
	return err
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

// linkTTL is a field with the lifetime of a connect link, in the form of the
// configuration: 24h, 30m.
type linkTTL time.Duration

// Expected describes the values of the field.
func (l *linkTTL) Expected() string { return "a duration such as 24h or 30m, at most 90 days" }

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
