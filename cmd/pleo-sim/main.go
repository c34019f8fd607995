// Pleo-sim is a Pleo to develop against: it plays the authorization server and
// the API, and lets a test or a demo set what goes wrong. See pleo-sim --help.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run()) }

// run runs the program until it is told to stop, and returns its exit status.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "pleo-sim: "+err.Error())
		return exitCode(err)
	}
	return 0
}
