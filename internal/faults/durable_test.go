package faults

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// timeToDurable is not a fault. It measures the interval in which a crash loses a
// token: from the server's commit until the new pair is on disk.
func timeToDurable(r *run) {
	r.needStrace()
	w := r.newEnv(simulator.Settings{})
	connections := w.connectExpired(r.trials)
	report := filepath.Join(w.dir, "syncs.txt")
	p := w.start(exec.Command("strace", "-f", "--seccomp-bpf", "-y", "-ttt", "-T", "-e", "trace=fsync,fdatasync", "-o", report,
		*program, "serve", "--json", "--config", w.config))
	var commits []time.Time
	for _, l := range connections {
		w.checkWorking(p, []connection{l})
		commits = append(commits, w.await(simulator.PhaseCommitted, l).Time)
	}
	p.stopTraced()
	syncs := w.syncsOf(report, w.data("store.db-wal"))
	var took []time.Duration
	for _, commit := range commits {
		i := slices.IndexFunc(syncs, commit.Before)
		if i < 0 {
			r.Fatalf("no sync of the store after the commit at %v", commit)
		}
		took = append(took, syncs[i].Sub(commit))
	}
	slices.Sort(took)
	ms := func(share float64) float64 {
		return float64(took[int(share*float64(len(took)-1))]) / float64(time.Millisecond)
	}
	r.row.update(func(row *row) {
		row.Note = fmt.Sprintf("median %.1f ms, 95 %% within %.1f ms, slowest %.1f ms", ms(0.5), ms(0.95), ms(1))
	})
	if ms(0.5) > 5 {
		r.violation("the median is %.1f ms, want at most 5 ms", ms(0.5))
	}
	w.finish(len(connections))
}

// stopTraced stops a process that runs under strace, which ignores signals.
func (p *process) stopTraced() {
	p.Helper()
	pid := p.cmd.Process.Pid
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		p.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(bytes.TrimSpace(text))))
	if err != nil {
		p.Fatal(err)
	}
	if err := syscall.Kill(child, syscall.SIGTERM); err != nil {
		p.Fatal(err)
	}
	p.awaitExit()
}

// A line of strace's output: thread, time, call and duration. A call that is
// interrupted by others has two lines; its time is in the first.
var (
	syncLine    = regexp.MustCompile(`^(\d+) +(\d+\.\d+) f(?:data)?sync\(\d+<(.*?)>(?:\) += 0 <(\d+\.\d+)>)?`)
	resumedLine = regexp.MustCompile(`^(\d+) +(\d+\.\d+) <\.\.\. f(?:data)?sync resumed>\) += 0 <(\d+\.\d+)>`)
)

// syncsOf returns the times at which syncs of the file ended, in order.
func (w *env) syncsOf(report, path string) []time.Time {
	w.Helper()
	text, err := os.ReadFile(report)
	if err != nil {
		w.Fatal(err)
	}
	var done []time.Time
	begun := map[string]string{} // thread → time
	for line := range strings.Lines(string(text)) {
		if m := syncLine.FindStringSubmatch(line); m != nil && m[3] == path {
			if m[4] == "" {
				begun[m[1]] = m[2]
				continue
			}
			done = append(done, w.after(m[2], m[4]))
		}
		if m := resumedLine.FindStringSubmatch(line); m != nil && begun[m[1]] != "" {
			done = append(done, w.after(begun[m[1]], m[3]))
			delete(begun, m[1])
		}
	}
	slices.SortFunc(done, time.Time.Compare)
	return done
}

// after parses a time and a duration in strace's format and adds them.
func (w *env) after(began, took string) time.Time {
	w.Helper()
	seconds, micros, _ := strings.Cut(began, ".")
	s, err1 := strconv.ParseInt(seconds, 10, 64)
	us, err2 := strconv.ParseInt(micros, 10, 64)
	d, err3 := time.ParseDuration(took + "s")
	if err1 != nil || err2 != nil || err3 != nil {
		w.Fatalf("parsing the time %s and the duration %s of strace", began, took)
	}
	return time.Unix(s, us*1000).Add(d)
}
