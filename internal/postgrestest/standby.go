package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// Standby creates and starts a streaming replica of the server. It replicates from the
// address primary, which may be that of a relay.
func (s *Server) Standby(ctx context.Context, primary string) (*Server, error) {
	dir, err := os.MkdirTemp("", "postgrestest")
	if err != nil {
		return nil, fmt.Errorf("creating a directory for the standby: %w", err)
	}
	standby := &Server{bin: s.bin, dir: dir}
	err = standby.copyFrom(ctx, primary)
	if err == nil {
		err = standby.Start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, standby.Close())
	}
	return standby, nil
}

func (s *Server) copyFrom(ctx context.Context, primary string) error {
	if err := s.dropRoot(); err != nil {
		return err
	}
	if err := s.choosePort(); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(primary)
	if err != nil {
		return fmt.Errorf("finding the primary: %w", err)
	}
	err = s.run(ctx, "pg_basebackup", "--pgdata", s.data(), "--checkpoint", "fast", "--no-sync", "--write-recovery-conf",
		"--dbname", fmt.Sprintf("host=%s port=%s user=postgres password=%s sslmode=disable", host, port, Password))
	if err != nil {
		return err
	}
	return s.configure("port = "+fmt.Sprint(s.port), "hot_standby = on")
}

// configure adds lines to postgresql.conf.
func (s *Server) configure(lines ...string) error {
	conf, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("configuring the cluster: %w", err)
	}
	_, err = conf.WriteString("\n" + strings.Join(lines, "\n") + "\n")
	if err := errors.Join(err, conf.Close()); err != nil {
		return fmt.Errorf("configuring the cluster: %w", err)
	}
	return nil
}

// Promote makes a standby accept writes and returns when it does.
func (s *Server) Promote(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return s.run(ctx, "pg_ctl", "promote", "--pgdata", s.data(), "--wait", "--silent")
}
