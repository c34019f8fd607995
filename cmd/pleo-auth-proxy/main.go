// Pleo-auth-proxy puts the fresh credential of a connection on plain HTTP
// requests and forwards them to the Pleo API.
package main

import (
	"context"
	"os"
	"syscall"
)

func main() {
	leaveNoCore()
	p := program{
		stdin:   os.Stdin,
		stdout:  os.Stdout,
		stderr:  os.Stderr,
		environ: os.Environ(),
		root:    os.Geteuid() == 0,
	}
	os.Exit(p.Run(context.Background(), os.Args[1:]))
}

// leaveNoCore has the kernel write no core file of this process, whose memory
// holds tokens and keys, whatever GOTRACEBACK asks for. Where that is forbidden
// the limit that the process was given holds.
func leaveNoCore() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
