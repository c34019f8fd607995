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
	share   = flag.Int("share", 0, "how many percent of a full run's trials to do; 0: none")
	require = flag.Bool("require", false, "fail where a fault cannot be tried here, instead of skipping it")
	program = flag.String("program", "", "the program to try, such as a release; empty: built from this tree")
	tsvFile = flag.String("tsv", "", "write the table to this file too, as tab-separated values")
	docFile = flag.String("doc", "", "put the table into this document, between its marks")
)

// results collects the rows of the table that a run ends with.
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
	// Most faults are a wait for something; more of them at once cost little.
	if err := flag.Set("test.parallel", "8"); err != nil {
		return 0, fmt.Errorf("trying faults together: %w", err)
	}
	code = m.Run()
	return code, errors.Join(results.publish(), database.Close())
}

// build builds the program and makes it the one to try.
func build() (remove func(), err error) {
	dir, err := os.MkdirTemp("", "faults")
	if err != nil {
		return nil, fmt.Errorf("making a directory for the program: %w", err)
	}
	remove = func() { _ = os.RemoveAll(dir) } // it is in the system's temporary directory
	*program = filepath.Join(dir, "pleo-auth-proxy")
	cmd := exec.Command("go", "build", "-o", *program, "../../cmd/pleo-auth-proxy")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		remove()
		return nil, fmt.Errorf("building the program: %w", err)
	}
	return remove, nil
}

// fault is one thing that goes wrong, and what may come of it.
type fault struct {
	id    string // of the reliability matrix
	title string
	full  int // trials of a full run
	// maxSends is how often one refresh token may be presented at most.
	maxSends int
	// mayLose says why connections may need a person afterwards; empty: none may.
	mayLose string
	// alone keeps other faults from being tried at the same time, because the
	// moment matters to the millisecond.
	alone bool
	// overlaps says that two replicas may present a token at once.
	overlaps bool
	// postgres keeps the store in PostgreSQL.
	postgres bool
	run      func(*run)
}

// TestFaults tries every fault. Those that mostly wait are tried together, after
// those that are tried alone.
func TestFaults(t *testing.T) {
	if *share == 0 {
		t.Skip("the faults take minutes: make faults, or make faults-full")
	}
	if runtime.GOOS != "linux" {
		t.Skip("the faults are made with the means of Linux")
	}
	for _, f := range allFaults() {
		t.Run(f.id, func(t *testing.T) {
			if f.postgres && !*require {
				database.DSN(t) // skips where there is none
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

// run is the trial of one fault.
type run struct {
	*testing.T
	fault  fault
	row    *row
	trials int
	// cluster is a PostgreSQL of this run's own; nil: the one that all share.
	cluster *postgrestest.Server
}

// timeLimit is how long something may take that has to be done in d. That is for a
// full run, on a machine that does nothing else; a run of a part shares its machine
// with all that CI does, and only sees that it is done.
func (r *run) timeLimit(d time.Duration) time.Duration {
	if *share < 100 {
		return 30 * d
	}
	return d
}

// parallelEnvs does the trials in several worlds at once.
func (r *run) parallelEnvs(worlds int, try func(*run)) {
	worlds = min(worlds, r.trials)
	r.Run("worlds", func(t *testing.T) {
		for i := range worlds {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				part := *r
				part.T, part.trials = t, r.trials/worlds
				if i < r.trials%worlds {
					part.trials++
				}
				try(&part)
			})
		}
	})
}

// variant does the trials under one of several circumstances.
func (r *run) variant(name string, try func(*run)) {
	r.Run(name, func(t *testing.T) {
		part := *r
		part.T = t
		try(&part)
	})
}

// violation counts something that a user would complain about.
func (r *run) violation(format string, args ...any) {
	r.Helper()
	r.row.update(func(w *row) { w.Violations++ })
	r.Errorf(format, args...)
}

// cannotRun ends a fault that cannot be tried here.
func (r *run) cannotRun(why string) {
	r.Helper()
	r.row.update(func(w *row) { w.Note = "not tried: " + why })
	if *require {
		r.Fatal(why)
	}
	r.Skip(why)
}

// judge compares what was counted with what may be.
func (r *run) judge() {
	got := r.row.snapshot()
	if got.MaxSends > r.fault.maxSends {
		r.Errorf("a refresh token was presented %d times, want at most %d", got.MaxSends, r.fault.maxSends)
	}
	if got.Lost > 0 && r.fault.mayLose == "" {
		r.Errorf("%d connections were lost of %d trials, want none", got.Lost, got.Trials)
	}
	if got.Trials == 0 && !r.Skipped() && !r.Failed() {
		r.Error("nothing was tried")
	}
	if r.Failed() {
		r.row.update(func(w *row) { w.Failed = true })
	}
}
