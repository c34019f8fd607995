// Demo shows pleo-auth-proxy at work on this machine: it starts a simulated Pleo
// and the proxy, sends requests through the proxy with curl, lets tokens expire,
// die and be revoked, and ends by itself. It exits 0 if everything went as it
// says, and else 1 with the programs' logs.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// longest is far more than the demo needs; what hangs is ended then.
const longest = 50 * time.Second

// workDir is where the demo keeps its files, for a look at them afterwards. It
// is made anew each time.
const workDir = ".demo"

func main() { os.Exit(run()) }

// run shows the demo and returns the exit status.
func run() int {
	bin := flag.String("bin", "bin", "`folder` of the built programs")
	flag.Parse()
	// SIGPIPE too: with nobody left to read the demo, what it started must end.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()

	s := &stage{bin: *bin, out: os.Stdout, curl: findCurl()}
	defer s.clear()
	if err := s.play(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "\nThe demo did not go as planned: %v\n", err)
		s.showLogs(os.Stderr)
		return 1
	}
	return 0
}
