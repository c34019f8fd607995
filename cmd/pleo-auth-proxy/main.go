// Pleo-auth-proxy puts the fresh credential of a connection on plain HTTP
// requests and forwards them to the Pleo API.
package main

import (
	"context"
	"os"
)

func main() {
	p := program{
		stdin:   os.Stdin,
		stdout:  os.Stdout,
		stderr:  os.Stderr,
		environ: os.Environ(),
		root:    os.Geteuid() == 0,
	}
	os.Exit(p.Run(context.Background(), os.Args[1:]))
}
