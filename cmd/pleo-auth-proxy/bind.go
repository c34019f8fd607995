package main

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

// bind opens a listener. The error names the key of the configuration that
// asked for it.
func bind(ctx context.Context, key string, at config.Listen) (net.Listener, error) {
	if at.Network == "unix" {
		return bindSocket(ctx, key, at)
	}
	l, err := new(net.ListenConfig).Listen(ctx, at.Network, at.Address)
	if err != nil {
		return nil, bindError(key, at, err)
	}
	return l, nil
}

// bindSocket opens a unix socket. A socket file is in the way of the next one
// when a program was killed, so one that nobody answers at is taken away; what
// is not a socket is left alone.
func bindSocket(ctx context.Context, key string, at config.Listen) (net.Listener, error) {
	group, err := groupOf(at)
	if err != nil {
		return nil, bindError(key, at, err)
	}
	if err := removeStaleSocket(ctx, at.Address); err != nil {
		return nil, bindError(key, at, err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", at.Address)
	if err != nil {
		return nil, bindError(key, at, err)
	}
	if err := setSocketAccess(at, group); err != nil {
		return nil, bindError(key, at, errors.Join(err, l.Close()))
	}
	return l, nil
}

// keepGroup leaves a socket to the group of the process.
const keepGroup = -1

// groupOf returns the group that a socket is to belong to, by name or number.
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

// checkSocketGroups returns a *config.Error with every group of a socket that does
// not exist.
func checkSocketGroups(cfg *config.Config) error {
	var wrong config.Error
	for _, l := range listenersOf(cfg) {
		if _, err := groupOf(l.at); err != nil {
			wrong.Mistakes = append(wrong.Mistakes, cfg.MistakeAt(l.name+".listen", err))
		}
	}
	return wrong.AsError()
}

// setSocketAccess lets those connect whom the configuration names. The group comes first:
// until then the mode counts for another one.
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

// bindError says what to do about a listener that cannot be had.
func bindError(key string, at config.Listen, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listening on %s (%s): another program is listening there; stop it or choose another address", at, key)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listening on %s (%s): this machine does not have the address", at, key)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("listening on %s (%s): permission denied; ports below 1024 need a privilege, sockets a directory that this user may write to", at, key)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("listening on %s (%s): the directory does not exist", at, key)
	}
	return fmt.Errorf("listening on %s (%s): %w", at, key, err)
}
