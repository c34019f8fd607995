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

// needStrace skips the fault if strace is not installed.
func (r *run) needStrace() {
	r.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		r.cannotRun("strace is not installed")
	}
}

// needFailingStore is needStrace for a store in files. A database is disconnected by
// its relay.
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
	firstLine := make(chan string, 1)
	go t.read(bufio.NewScanner(stderr), firstLine)
	p.Cleanup(t.detach)
	if first := <-firstLine; !strings.Contains(first, "attached") {
		p.cannotRun("attaching strace: " + first)
	}
	return t
}

// read sends the first line of the output and waits until strace exits.
func (t *tracer) read(lines *bufio.Scanner, firstLine chan<- string) {
	for first := true; lines.Scan(); first = false {
		if first {
			firstLine <- lines.Text()
		}
	}
	_ = t.cmd.Wait() // its exit code is that of the traced process
	close(firstLine)
	close(t.exited)
}

// detach lets the process continue without strace.
func (t *tracer) detach() {
	_ = t.cmd.Process.Signal(os.Interrupt) // it may have exited with the process
	t.end()
}

// end waits until strace exits. It may hang while it detaches from threads that exit;
// killing it makes the kernel detach them.
func (t *tracer) end() {
	select {
	case <-t.exited:
	case <-time.After(2 * time.Second):
		_ = t.cmd.Process.Kill() // it may just have exited
		<-t.exited
	}
}

// storeFilter selects the system calls on the files of the database.
func (w *env) storeFilter() []string {
	return []string{"-P", w.data("store.db"), "-P", w.data("store.db-wal"), "-P", w.data("store.db-shm")}
}

// disableStore makes every access to the store fail until enable is called.
func (p *process) disableStore() (enable func()) {
	p.Helper()
	if p.database != nil {
		p.database.relay.Cut()
		return p.database.relay.Restore
	}
	const calls = "pread64,pwrite64,fsync,fdatasync,fcntl"
	t := p.trace(append(p.storeFilter(), "-o", "/dev/null", "-e", "trace="+calls, "-e", "inject="+calls+":error=EIO")...)
	return t.detach
}
