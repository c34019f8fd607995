package faults

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/postgrestest"
)

var (
	share   = flag.Int("share", 0, "`percentage` of the trials of a full run; 0: none")
	require = flag.Bool("require", false, "fail if a fault cannot run on this machine, instead of skipping it")
	program = flag.String("program", "", "the program to test, such as a release; empty: build it from this tree")
	tsvFile = flag.String("tsv", "", "write the table to this `file` as tab-separated values")
	docFile = flag.String("doc", "", "write the table to this document, between its markers")
)

// results collects the rows of the table.
var results table

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := runSuite(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		code = 1
	}
	os.Exit(code)
}

func runSuite(m *testing.M) (code int, err error) {
	if *share == 0 {
		return m.Run(), nil
	}
	if *program == "" {
		remove, err := build()
		if err != nil {
			return 0, err
		}
		defer remove()
	}
	// Most faults wait most of the time, so many can run in parallel.
	if err := flag.Set("test.parallel", "8"); err != nil {
		return 0, fmt.Errorf("setting the parallelism: %w", err)
	}
	code = m.Run()
	return code, errors.Join(results.publish(), database.Close())
}

// build builds the program to test.
func build() (remove func(), err error) {
	dir, err := os.MkdirTemp("", "faults")
	if err != nil {
		return nil, fmt.Errorf("creating a directory for the program: %w", err)
	}
	remove = func() { _ = os.RemoveAll(dir) } // a temporary directory
	*program = filepath.Join(dir, "pleo-auth-proxy")
	cmd := exec.Command("go", "build", "-o", *program, "../../cmd/pleo-auth-proxy")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		remove()
		return nil, fmt.Errorf("building the program: %w", err)
	}
	return remove, nil
}

// fault is one fault and its permitted consequences.
type fault struct {
	id    string // in docs/reliability.md
	title string
	full  int // trials of a full run
	// maxSends limits how often one refresh token may be sent.
	maxSends int
	// mayLose is the reason why connections may need a person afterwards; empty: none
	// may.
	mayLose string
	// alone keeps other faults from running at the same time, because the timing
	// matters to the millisecond.
	alone bool
	// overlaps permits two replicas to send a token at once.
	overlaps bool
	// postgres puts the store in PostgreSQL.
	postgres bool
	run      func(*run)
}

// TestFaults runs every fault. Most run in parallel, after those that run alone.
func TestFaults(t *testing.T) {
	if *share == 0 {
		t.Skip("takes minutes; make faults or make faults-full runs this")
	}
	if runtime.GOOS != "linux" {
		t.Skip("requires Linux")
	}
	for _, f := range allFaults() {
		t.Run(f.id, func(t *testing.T) {
			if f.postgres && !*require {
				database.DSN(t) // skips if PostgreSQL is not installed
			}
			if !f.alone {
				t.Parallel()
			}
			r := &run{T: t, fault: f, row: results.row(f), trials: max(1, f.full**share/100)}
			t.Cleanup(r.judge)
			f.run(r)
		})
	}
}

// run is the run of one fault.
type run struct {
	*testing.T
	fault  fault
	row    *row
	trials int
	// cluster is the PostgreSQL of this run; nil: the shared one.
	cluster *postgrestest.Server
}

// timeLimit returns the limit for something that must take at most d. The limit is d
// in a full run, on an otherwise idle machine. A partial run shares its machine with the
// other parts of CI, and checks only that it happens.
func (r *run) timeLimit(d time.Duration) time.Duration {
	if *share < 100 {
		return 30 * d
	}
	return d
}

// parallelEnvs runs the trials in several envs at once.
func (r *run) parallelEnvs(envs int, try func(*run)) {
	envs = min(envs, r.trials)
	r.Run("envs", func(t *testing.T) {
		for i := range envs {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				part := *r
				part.T, part.trials = t, r.trials/envs
				if i < r.trials%envs {
					part.trials++
				}
				try(&part)
			})
		}
	})
}

// variant runs the trials under one of several conditions.
func (r *run) variant(name string, try func(*run)) {
	r.Run(name, func(t *testing.T) {
		part := *r
		part.T = t
		try(&part)
	})
}

// violation records a broken promise.
func (r *run) violation(format string, args ...any) {
	r.Helper()
	r.row.update(func(w *row) { w.Violations++ })
	r.Errorf(format, args...)
}

// cannotRun ends a fault that cannot run on this machine.
func (r *run) cannotRun(why string) {
	r.Helper()
	r.row.update(func(w *row) { w.Note = "not run: " + why })
	if *require {
		r.Fatal(why)
	}
	r.Skip(why)
}

// judge compares the result with what the fault permits.
func (r *run) judge() {
	got := r.row.snapshot()
	if got.MaxSends > r.fault.maxSends {
		r.Errorf("a refresh token was sent %d times, want at most %d", got.MaxSends, r.fault.maxSends)
	}
	if got.Lost > 0 && r.fault.mayLose == "" {
		r.Errorf("%d connections were lost of %d trials, want none", got.Lost, got.Trials)
	}
	if got.Trials == 0 && !r.Skipped() && !r.Failed() {
		r.Error("no trials")
	}
	if r.Failed() {
		r.row.update(func(w *row) { w.Failed = true })
	}
}
