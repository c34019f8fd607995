// Package freeport finds free TCP ports for tests and benchmarks.
package freeport

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports are chosen from minPort up to, not including, maxPort. Operating systems
// assign ports above 32767 (Linux: net.ipv4.ip_local_port_range), most often to the
// local end of an outgoing connection, which then prevents a server from listening.
const minPort, maxPort = 10000, 30000

// Address returns a host:port of this machine on which no process listens. The
// port is not reserved, but as it is random, other callers are unlikely to get the
// same one.
func Address() (string, error) {
	var lc net.ListenConfig
	var err error
	for range 100 {
		port := minPort + rand.IntN(maxPort-minPort) //nolint:gosec // no secret
		var l net.Listener
		if l, err = lc.Listen(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", fmt.Errorf("finding a free port: %w", err)
}
