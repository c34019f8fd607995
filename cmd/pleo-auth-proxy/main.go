// Pleo-auth-proxy parses flags, wires packages together and prints results.
//
// The program is an authenticating reverse proxy for the Pleo API. See
// pleo-auth-proxy --help.
package main

import (
	"context"
	"io"
	"log"
	"os"
	"syscall"
)

func main() {
	disableCoreDumps()
	discardStandardLog()
	p := program{
		stdin:   os.Stdin,
		stdout:  os.Stdout,
		stderr:  os.Stderr,
		environ: os.Environ(),
		root:    os.Geteuid() == 0,
	}
	os.Exit(p.Run(context.Background(), os.Args[1:]))
}

// discardStandardLog discards what packages write to the standard library's logger, since
// nothing of ours does. net/http quotes there what an API has sent unasked, such as
// the rest of an answer that is longer than it says: data of customers.
func discardStandardLog() { log.SetOutput(io.Discard) } //nolint:forbidigo // this is how nobody writes to it

// disableCoreDumps has the kernel write no core file of this process, whose memory
// holds tokens and keys, whatever GOTRACEBACK asks for. Where that is forbidden
// the limit that the process was given holds.
func disableCoreDumps() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
