package faults

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// tracer is a strace that is attached to a process.
type tracer struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

// needStrace skips a fault that needs it where it is not there.
func (r *run) needStrace() {
	r.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		r.cannotRun("strace is not installed")
	}
}

// needFailingStore is needStrace for a store in files. A database is cut off by
// the network before it.
func (r *run) needFailingStore() {
	r.Helper()
	if !r.fault.postgres {
		r.needStrace()
	}
}

// trace attaches strace to the process and returns once it is attached.
func (p *process) trace(args ...string) *tracer {
	p.Helper()
	args = append([]string{"-f", "-p", strconv.Itoa(p.cmd.Process.Pid)}, args...)
	t := &tracer{cmd: exec.Command("strace", args...), exited: make(chan struct{})}
	stderr, err := t.cmd.StderrPipe()
	if err != nil {
		p.Fatal(err)
	}
	if err := t.cmd.Start(); err != nil {
		p.Fatal(err)
	}
	said := make(chan string, 1)
	go t.read(bufio.NewScanner(stderr), said)
	p.Cleanup(t.detach)
	if first := <-said; !strings.Contains(first, "attached") {
		p.cannotRun("strace cannot attach to a process: " + first)
	}
	return t
}

// snapshot tells the first line that strace says, and waits for its end.
func (t *tracer) read(lines *bufio.Scanner, said chan<- string) {
	for first := true; lines.Scan(); first = false {
		if first {
			said <- lines.Text()
		}
	}
	_ = t.cmd.Wait() // its exit code is that of the traced process
	close(said)
	close(t.exited)
}

// detach lets the process go on without strace.
func (t *tracer) detach() {
	_ = t.cmd.Process.Signal(os.Interrupt) // it may have ended with the process
	t.end()
}

// end waits for strace to end. It may hang on threads that die while it lets
// them go; the kernel lets them go when it is killed.
func (t *tracer) end() {
	select {
	case <-t.exited:
	case <-time.After(2 * time.Second):
		_ = t.cmd.Process.Kill() // it has ended this moment
		<-t.exited
	}
}

// storeFilter selects the system calls on the database and its companions.
func (w *env) storeFilter() []string {
	return []string{"-P", w.data("store.db"), "-P", w.data("store.db-wal"), "-P", w.data("store.db-shm")}
}

// disableStore makes every access to the database fail until it is called back.
func (p *process) disableStore() (back func()) {
	p.Helper()
	if p.database != nil {
		p.database.relay.Cut()
		return p.database.relay.Restore
	}
	const calls = "pread64,pwrite64,fsync,fdatasync,fcntl"
	t := p.trace(append(p.storeFilter(), "-o", "/dev/null", "-e", "trace="+calls, "-e", "inject="+calls+":error=EIO")...)
	return t.detach
}
