package config

import (
	"fmt"
	"strings"
)

// MistakeAt is one thing that is wrong with the configuration. It never holds
// the value of a secret.
type Mistake struct {
	File     string `json:"file,omitempty"`     // where it stands; empty when not in a file
	Line     int    `json:"line,omitempty"`     // in File, from 1
	Variable string `json:"variable,omitempty"` // the environment variable it stands in
	Key      string `json:"key,omitempty"`      // the path of the key, such as proxy.listen
	Problem  string `json:"problem"`            // what is wrong, and what would be right
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

// Error holds everything that is wrong with a configuration, in the order of
// the file, then of the environment, then of what follows from both.
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

// suggest returns "; did you mean X?" for the candidate nearest to what was
// written, or nothing when none is near.
func suggest(written string, candidates []string) string {
	best, bestDistance := "", min(len(written)/4+2, 4)
	for _, c := range candidates {
		if d := distance(written, c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is Levenshtein's: how many single characters have to be inserted,
// removed or replaced to turn a into b.
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
