// Package freeport finds ports for the servers of tests and benchmarks that have
// to know where they will listen before they do.
package freeport

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports are chosen from the first and below the second. Systems give out those
// above 32767 to whoever asks for any (Linux: net.ipv4.ip_local_port_range), most
// often to the near end of an outgoing connection, which then keeps a server from
// listening.
const minPort, maxPort = 10000, 30000

// Address returns a host:port of this machine that nobody listens at. It is not
// reserved; at random among so many, nobody else is given it meanwhile.
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
