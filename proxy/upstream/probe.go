package upstream

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// prober reads from a socket without blocking. The zero value never has data.
type prober struct {
	socket  syscall.RawConn // nil if the connection is not a socket
	attempt func(fd uintptr) bool
	result  *probeResult
}

type probeResult struct {
	p   []byte
	n   int
	err error
}

func newProber(c net.Conn) prober {
	s, ok := c.(syscall.Conn)
	if !ok {
		return prober{}
	}
	socket, err := s.SyscallConn()
	if err != nil {
		return prober{}
	}
	r := &probeResult{}
	attempt := func(fd uintptr) bool { // created once, because a closure is an allocation
		r.n, r.err = syscall.Read(int(fd), r.p)
		return true
	}
	return prober{socket: socket, attempt: attempt, result: r}
}

func (p *prober) read(buf []byte) (int, error) {
	if p.socket == nil {
		return 0, os.ErrDeadlineExceeded
	}
	p.result.p = buf
	if err := p.socket.Read(p.attempt); err != nil {
		return 0, err
	}
	p.result.p = nil
	switch n, err := p.result.n, p.result.err; {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
		return 0, os.ErrDeadlineExceeded
	case err != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", err)}
	case n == 0:
		return 0, io.EOF
	default:
		return n, nil
	}
}
