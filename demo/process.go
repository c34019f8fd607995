package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// process is a program that was started and tells when it is ready.
type process struct {
	cmd *exec.Cmd
	log *os.File
}

// start starts a program, and waits for the line of JSON that it prints when it
// is ready, which goes into ready. What it logs goes into the file at log.
func start(ready any, log string, name string, args ...string) (*process, error) {
	file, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(name, args...), log: file} //nolint:noctx // stop ends it, after the demo has ended
	p.cmd.Stderr = file
	p.cmd.Env = environ()
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	line, err := readLine(bufio.NewReader(out))
	if err == nil {
		err = json.Unmarshal(line, ready)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s did not become ready: %w", name, err), p.stop())
	}
	return p, nil
}

// environ returns the environment without PLEO_ variables, which would win over
// the configuration that the demo shows.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PLEO_") })
}

// readyWithin is how long a program may take until it is ready.
const readyWithin = 10 * time.Second

// readLine reads a line, but does not wait for it for ever.
func readLine(r *bufio.Reader) ([]byte, error) {
	type result struct {
		line []byte
		err  error
	}
	done := make(chan result, 1)
	go func() { // ends with the program that writes the line
		line, err := r.ReadBytes('\n')
		done <- result{line, err}
	}()
	select {
	case r := <-done:
		return r.line, r.err
	case <-time.After(readyWithin):
		return nil, fmt.Errorf("it said nothing for %v", readyWithin)
	}
}

// stopWithin is how long a program may take to end by itself.
const stopWithin = 10 * time.Second

// stop asks the program to end, and says whether it ended well.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	kill := time.AfterFunc(stopWithin, func() { _ = p.cmd.Process.Kill() }) // it may just have ended
	defer kill.Stop()
	return errors.Join(p.cmd.Wait(), p.log.Close())
}
