// Pleo-sim serves a simulated Pleo to develop and test against.
//
// It serves the authorization server, the API and an endpoint to control them
// and to inject faults. See pleo-sim --help.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run()) }

// run runs the program until a signal stops it and returns its exit status.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "pleo-sim: "+err.Error())
		return exitCode(err)
	}
	return 0
}
