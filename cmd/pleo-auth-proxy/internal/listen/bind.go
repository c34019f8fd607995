package listen

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
)

// socketMode lets the user and the group of the program connect.
const socketMode fs.FileMode = 0o660

// bind opens a listener. Its error names the key of the configuration.
func bind(ctx context.Context, key string, at config.Listen) (net.Listener, error) {
	listen := func() (net.Listener, error) { return new(net.ListenConfig).Listen(ctx, at.Network, at.Address) }
	if at.Network == "unix" {
		listen = func() (net.Listener, error) { return bindSocket(ctx, at) }
	}
	l, err := listen()
	if err != nil {
		return nil, fmt.Errorf("listening on %s (%s): %w", at, key, explainBindError(err))
	}
	return l, nil
}

// explainBindError replaces the text of common errors by what to do about them.
func explainBindError(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return errors.New("another program is listening there; stop it or choose another address")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return errors.New("this machine does not have the address")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("permission denied; ports below 1024 need a privilege, sockets a directory that this user may write to")
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("the directory does not exist")
	}
	return err
}

// bindSocket opens a unix socket. A killed program leaves its socket file behind,
// which would be in the way: it is removed if nothing listens on it. A file that is
// not a socket is left unchanged.
func bindSocket(ctx context.Context, at config.Listen) (net.Listener, error) {
	group, err := groupOf(at)
	if err != nil {
		return nil, err
	}
	if err := removeStaleSocket(ctx, at.Address); err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", at.Address)
	if err != nil {
		return nil, err
	}
	if err := setSocketAccess(at, group); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// keepGroup leaves a socket to the group of the process.
const keepGroup = -1

// groupOf returns the group that a socket is to belong to, which the configuration
// has by name or number.
func groupOf(at config.Listen) (int, error) {
	if at.Group == "" {
		return keepGroup, nil
	}
	found, err := user.LookupGroup(at.Group)
	if err == nil {
		at.Group = found.Gid
	}
	id, err := strconv.Atoi(at.Group)
	if err != nil || id < 0 {
		return 0, fmt.Errorf("there is no group %q", at.Group)
	}
	return id, nil
}

// setSocketAccess sets who may connect to a socket. The group comes first: until
// then the mode applies to another one.
func setSocketAccess(at config.Listen, group int) error {
	if group != keepGroup {
		if err := os.Chown(at.Address, -1, group); err != nil {
			return err
		}
	}
	return os.Chmod(at.Address, cmp.Or(at.Mode, socketMode))
}

var errNotSocket = errors.New("there is a file that is not a socket")

func removeStaleSocket(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errNotSocket
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(syscall.EADDRINUSE, conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// CheckSocketGroups returns a *[config.Error] with every socket whose group does not
// exist.
func CheckSocketGroups(cfg *config.Config) error {
	var wrong config.Error
	for _, l := range New(cfg) {
		if _, err := groupOf(l.At); err != nil {
			wrong.Mistakes = append(wrong.Mistakes, cfg.MistakeAt(l.Key(), err))
		}
	}
	return wrong.AsError()
}
