package faults

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// rotationInterrupted is F24: each step of a rotation of the keyset is killed at a
// write, a sync or a rename, then repeated. Everything can still be decrypted.
func rotationInterrupted(r *run) {
	r.needStrace()
	type point struct {
		step, call string
		nth        int
	}
	var points []point
	for _, step := range []string{"add", "promote", "retire"} {
		for _, call := range []string{"write", "pwrite64", "fsync", "renameat"} {
			for nth := range 5 {
				points = append(points, point{step, call, nth + 1})
			}
		}
	}
	w := r.newEnv(simulator.Settings{})
	connections := w.connectExpired(r.trials)
	kills := 0
	for i, l := range connections {
		at := points[i*len(points)/r.trials%len(points)]
		old := w.primaryKey()
		for _, step := range []string{"add", "promote", "retire"} {
			args := []string{"keyset", step}
			if step == "retire" {
				args = append(args, old)
			}
			if step == at.step && w.killAt(at.call, at.nth, args...) {
				kills++
			}
			w.retryCommand(args...)
		}
		p := w.serve()
		w.checkWorking(p, connections[:i+1])
		w.checkSavedSoon(p, []connection{l}) // its refresh token was decrypted
		p.stop()
	}
	r.row.update(func(row *row) { row.Note = fmt.Sprintf("%d commands were killed, the others had finished", kills) })
	w.finish(len(connections))
}

// killAt runs a command that is killed at its nth system call of a kind, and reports
// whether it was killed.
func (w *env) killAt(call string, nth int, args ...string) bool {
	w.Helper()
	inject := fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, nth)
	cmd := exec.Command("strace", append([]string{"-f", "-o", "/dev/null", "-e", "trace=" + call, "-e", inject, *program, "--config", w.config}, args...)...)
	cmd.Dir, cmd.Env = w.dir, []string{"HOME=" + w.dir}
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		w.Fatal(err)
	}
	return !cmd.ProcessState.Exited()
}

// retryCommand repeats a step that may be partly or entirely done.
func (w *env) retryCommand(args ...string) {
	w.Helper()
	code, out := w.command(args...)
	done := args[1] == "retire" && code == 3 // the key has been removed already
	if code != 0 && !done {
		w.violation("keyset %s after an interruption: exit code %d, want 0:\n%s", args[1], code, out)
	}
}

// primaryKey returns the id of the key that encrypts.
func (w *env) primaryKey() string {
	w.Helper()
	code, out := w.command("--json", "keyset", "status")
	var status struct{ Primary string }
	if err := json.Unmarshal([]byte(out[strings.Index(out, "{"):]), &status); code != 0 || err != nil {
		w.Fatalf("keyset status: exit code %d, %v\n%s", code, err, out)
	}
	return status.Primary
}
