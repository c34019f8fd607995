package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Mistake is one mistake in the configuration. It never contains the value of a
// secret.
type Mistake struct {
	File     string `json:"file,omitempty"`     // empty if the value was not read from a file
	Line     int    `json:"line,omitempty"`     // in File, from 1
	Variable string `json:"variable,omitempty"` // the environment variable that the value was read from
	Key      string `json:"key,omitempty"`      // the path of the key, such as proxy.listen
	Problem  string `json:"problem"`            // what is wrong and what to change
}

// String returns the mistake as one line, its place first.
func (m Mistake) String() string {
	parts := make([]string, 0, 3)
	if m.File != "" && m.Line > 0 {
		parts = append(parts, fmt.Sprintf("%s:%d", m.File, m.Line))
	} else if m.File != "" {
		parts = append(parts, m.File)
	}
	if m.Variable != "" {
		parts = append(parts, m.Variable)
	} else if m.Key != "" {
		parts = append(parts, m.Key)
	}
	return strings.Join(append(parts, m.Problem), ": ")
}

// Error holds every mistake in a configuration: those in the file in its order,
// then those in the environment, then those between several keys.
type Error struct{ Mistakes []Mistake }

func (e *Error) Error() string {
	lines := make([]string, 0, len(e.Mistakes)+1)
	if len(e.Mistakes) > 1 {
		lines = append(lines, fmt.Sprintf("the configuration has %d mistakes:", len(e.Mistakes)))
	}
	for _, m := range e.Mistakes {
		lines = append(lines, m.String())
	}
	return strings.Join(lines, "\n")
}

// Add adds the mistakes of err, which may be nil. It returns err if that holds no
// mistakes, but something else that went wrong.
func (e *Error) Add(err error) error {
	var other *Error
	if !errors.As(err, &other) {
		return err
	}
	e.Mistakes = append(e.Mistakes, other.Mistakes...)
	return nil
}

// AsError returns e as an error; nil if it holds no mistakes.
func (e *Error) AsError() error {
	if len(e.Mistakes) == 0 {
		return nil
	}
	return e
}

// place is where a value was read. The zero place is that of a default.
type place struct {
	file     string
	line     int
	variable string
}

// mistake returns a mistake at the place.
func (p place) mistake(path, problem string) Mistake {
	return Mistake{File: p.file, Line: p.line, Variable: p.variable, Key: path, Problem: problem}
}

// report collects the mistakes of one [Load].
type report struct {
	places   map[string]place // path → where its value was read
	mistakes []Mistake
}

func newReport() *report { return &report{places: map[string]place{}} }

// mistake adds a mistake at a place.
func (r *report) mistake(p place, path, format string, args ...any) {
	r.mistakes = append(r.mistakes, p.mistake(path, fmt.Sprintf(format, args...)))
}

// wrong adds a mistake where the value of the key was read.
func (r *report) wrong(path, format string, args ...any) {
	r.mistake(r.places[path], path, format, args...)
}

// given reports whether the file or the environment sets the key.
func (r *report) given(path string) bool { return r.places[path] != (place{}) }

// invalid reports whether the key has a mistake.
func (r *report) invalid(path string) bool {
	return slices.ContainsFunc(r.mistakes, func(m Mistake) bool { return m.Key == path })
}

// require adds a mistake unless the item at path sets the key called name.
func (r *report) require(path, name string) {
	if key := path + "." + name; !r.given(key) && !r.invalid(key) {
		r.mistake(r.places[path], key, "is required")
	}
}

// unique adds a mistake if seen has the value already, and else records it with its
// owner. what is the value in the words of the message, such as "name".
func (r *report) unique(seen map[string]string, value, path, what, owner string) {
	if other, taken := seen[value]; taken && value != "" {
		r.wrong(path, "is already the %s of %s", what, other)
		return
	}
	seen[value] = owner
}

// explain returns err with the text that it is about, unless err shows the text
// already or the text may be a secret.
func (f format) explain(err error, text string) string {
	message, shown := err.Error(), strconv.Quote(text)
	if f.private || strings.Contains(text, "@") || len(text) > 200 || strings.Contains(message, shown) {
		return message
	}
	return message + " (it is " + shown + ")"
}

// suggest returns "; did you mean X?" for the candidate most similar to what was
// written, or "" if none is similar.
func suggest(written string, candidates []string) string {
	if similar := nearest(written, candidates, min(len(written)/4+1, 3)); similar != "" {
		return "; did you mean " + similar + "?"
	}
	return ""
}

// nearest returns the candidate most similar to what was written, or "" if all are
// more than maxDistance edits away.
func nearest(written string, candidates []string, maxDistance int) string {
	best, bestDistance := "", maxDistance+1
	for _, c := range candidates {
		if d := distance(written, c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance returns the Levenshtein distance between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
