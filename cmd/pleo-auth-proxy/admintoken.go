package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// leastToken is the length, in bytes, below which an admin token could be
// guessed.
const leastToken = 20

// openAdminToken returns what gives the admin token, reading its file again
// when that has changed; nil where there is to be none. Where there is no file it
// makes one.
func openAdminToken(cfg *config.Config, log *zap.Logger) (func() credstore.Secret, error) {
	if cfg.Admin.TokenFile == "" {
		return nil, nil
	}
	if _, err := os.Stat(cfg.Admin.TokenFile); errors.Is(err, fs.ErrNotExist) {
		if err := makeAdminToken(cfg.Admin.TokenFile); err != nil {
			return nil, &credstore.SetupError{
				Err:  fmt.Errorf("making the admin token: %w", err),
				Hint: "set admin.token_file to a file that holds one, or to a place where this user may make it",
			}
		}
		log.Info("made a new admin token", zap.String("file", cfg.Admin.TokenFile))
	}
	r, err := readAdminToken(cfg)
	if err != nil {
		return nil, err
	}
	return rereading("admin.token_file", r, log), nil
}

// readAdminToken reads the token for the first time. Its error is a
// *config.Error.
func readAdminToken(cfg *config.Config) (*config.SecretReader, error) {
	r, err := cfg.Admin.Token().Open()
	if err == nil && len(r.Secret().Reveal()) < leastToken {
		err = fmt.Errorf("holds fewer than %d characters, which could be guessed; openssl rand -hex 32 makes a good one", leastToken)
	}
	if err != nil {
		return nil, cfg.ErrorAt("admin.token_file", err)
	}
	return r, nil
}

// checkAdminToken reports a file that is there and cannot be used.
func checkAdminToken(cfg *config.Config) error {
	if _, err := os.Stat(cfg.Admin.TokenFile); cfg.Admin.TokenFile == "" || cfg.Admin.Listen.Off() || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	_, err := readAdminToken(cfg)
	return err
}

// makeAdminToken makes the file, whole or not at all and readable by its owner
// only. One that somebody else has just made stays as it is.
func makeAdminToken(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // what is left over if that fails is as private as the token
	_, err = fmt.Fprintf(f, "%s%s\n", rand.Text(), rand.Text())
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, never takes the place of a file that is there.
	if err := os.Link(f.Name(), path); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
