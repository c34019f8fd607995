package faults

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// row is the result of one fault.
type row struct {
	ID, Title  string
	Trials     int
	MaxSends   int // the most presentations of one refresh token, as the simulator counted them
	Lost       int // connections that need a person afterwards
	Violations int // responses that clients must not get, and other broken promises
	Note       string
	Failed     bool

	longest time.Duration // of the times in Note

	mu sync.Mutex // guards all above but ID and Title
}

// update changes the row.
func (w *row) update(change func(*row)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w)
}

// snapshot copies what was counted.
func (w *row) snapshot() *row {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &row{
		ID: w.ID, Title: w.Title, Trials: w.Trials, MaxSends: w.MaxSends,
		Lost: w.Lost, Violations: w.Violations, Note: w.Note, Failed: w.Failed,
	}
}

// columns are the headings of cells.
var columns = []string{"fault", "what goes wrong", "trials", "max sent", "lost", "violations", "remark"}

func (w *row) cells() []string {
	note := w.Note
	if w.Failed {
		note = strings.TrimSpace("FAILED " + note)
	}
	return []string{
		w.ID, w.Title, fmt.Sprint(w.Trials), fmt.Sprint(w.MaxSends),
		fmt.Sprint(w.Lost), fmt.Sprint(w.Violations), note,
	}
}

// table is the result of a run. It is safe for concurrent use.
type table struct {
	mu   sync.Mutex // guards rows
	rows []*row
}

// row adds a row for a fault.
func (t *table) row(f fault) *row {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &row{ID: f.id, Title: f.title}
	t.rows = append(t.rows, w)
	return w
}

// all returns the cells of all rows in the order of the faults, which run in another
// order.
func (t *table) all() [][]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all [][]string
	for _, f := range allFaults() {
		for _, w := range t.rows {
			if w.ID == f.id {
				all = append(all, w.snapshot().cells())
			}
		}
	}
	return all
}

// publish prints the table and writes it to the files of the flags. A table with a
// failed row is not written to the document.
func (t *table) publish() error {
	rows := t.all()
	if len(rows) == 0 {
		return nil
	}
	fmt.Printf("\n%s", markdown(rows))
	var errs []error
	if *tsvFile != "" {
		errs = append(errs, os.WriteFile(*tsvFile, tabSeparated(rows), 0o644)) //nolint:gosec // a public report
	}
	if *docFile != "" {
		errs = append(errs, updateDocument(*docFile, rows))
	}
	return errors.Join(errs...)
}

func tabSeparated(rows [][]string) []byte {
	var b bytes.Buffer
	for _, cells := range slices.Insert(slices.Clone(rows), 0, columns) {
		b.WriteString(strings.Join(cells, "\t") + "\n")
	}
	return b.Bytes()
}

// markdown formats the table with aligned columns.
func markdown(rows [][]string) string {
	rows = slices.Insert(slices.Clone(rows), 0, columns)
	widths := make([]int, len(columns))
	for _, cells := range rows {
		for i, c := range cells {
			widths[i] = max(widths[i], len(c))
		}
	}
	var b strings.Builder
	for n, cells := range rows {
		for i, c := range cells {
			fmt.Fprintf(&b, "| %-*s ", widths[i], c)
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, width := range widths {
				b.WriteString("| " + strings.Repeat("-", width) + " ")
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}

// The markers of the table in a document.
const (
	tableBegins = "<!-- table of a full run: begin -->\n"
	tableEnds   = "<!-- table of a full run: end -->\n"
)

func updateDocument(path string, rows [][]string) error {
	for _, cells := range rows {
		if strings.Contains(cells[len(cells)-1], "FAILED") {
			return fmt.Errorf("updating %s: fault %s failed", path, cells[0])
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the document: %w", err)
	}
	before, rest, found := strings.Cut(string(text), tableBegins)
	_, after, ended := strings.Cut(rest, tableEnds)
	if !found || !ended {
		return fmt.Errorf("updating %s: it has no markers of the table", path)
	}
	text = []byte(before + tableBegins + "\n" + markdown(rows) + "\n" + tableEnds + after)
	if err := os.WriteFile(path, text, 0o644); err != nil { //nolint:gosec // a document of the repository
		return fmt.Errorf("writing the document: %w", err)
	}
	return nil
}

// TestDocumentListsAllFaults finds faults that are not in the table for users.
func TestDocumentListsAllFaults(t *testing.T) {
	text, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), tableBegins)
	inDocument, _, _ := strings.Cut(rest, tableEnds)
	for _, f := range allFaults() {
		line := regexp.MustCompile(`(?m)^\| ` + f.id + ` +\| ` + regexp.QuoteMeta(f.title) + ` +\|`)
		if !line.MatchString(inDocument) {
			t.Errorf("docs/reliability.md has no row for %s, %q: run make faults-full", f.id, f.title)
		}
	}
}
