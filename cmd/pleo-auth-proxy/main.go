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

// discardStandardLog discards what packages write to the standard library's logger,
// which we do not use. net/http quotes unsolicited data of a server there, such as
// the rest of a response that is longer than it says: data of customers.
func discardStandardLog() { log.SetOutput(io.Discard) } //nolint:forbidigo // nothing may write to it

// disableCoreDumps prevents core files of this process, whose memory has tokens and
// keys, whatever GOTRACEBACK says. If the system does not allow it, the limit of the
// process stays.
func disableCoreDumps() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
