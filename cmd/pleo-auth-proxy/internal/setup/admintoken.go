package setup

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/durable"
)

// minTokenLength is the length, in bytes, below which an admin token could be
// guessed.
const minTokenLength = 20

// OpenAdminToken returns a function that returns the admin token and follows its
// file; nil if there is no admin token. It creates the file if that does not exist.
func OpenAdminToken(cfg *config.Config, log *zap.Logger) (func() credstore.Secret, error) {
	if cfg.Admin.TokenFile == "" {
		return nil, nil
	}
	if _, err := os.Stat(cfg.Admin.TokenFile); errors.Is(err, fs.ErrNotExist) {
		if err := createAdminToken(cfg.Admin.TokenFile); err != nil {
			return nil, &credstore.SetupError{
				Err:  fmt.Errorf("creating the admin token: %w", err),
				Hint: "set admin.token_file to a file with a token, or to a path where this user may create one",
			}
		}
		log.Info("created a new admin token", zap.String("file", cfg.Admin.TokenFile))
	}
	r, err := readAdminToken(cfg)
	if err != nil {
		return nil, err
	}
	return secretFile("admin.token_file", r, log), nil
}

// readAdminToken reads the token for the first time. Its error is a *config.Error.
func readAdminToken(cfg *config.Config) (*config.SecretReader, error) {
	r, err := cfg.Admin.Token().Open()
	if err == nil && len(r.Secret().Reveal()) < minTokenLength {
		err = fmt.Errorf("must contain a token of at least %d characters, such as openssl rand -hex 32 prints: a shorter one could be guessed", minTokenLength)
	}
	if err != nil {
		return nil, cfg.ErrorAt("admin.token_file", err)
	}
	return r, nil
}

// checkAdminToken returns a *config.Error for a file that exists and cannot be used.
func checkAdminToken(cfg *config.Config) error {
	if cfg.Admin.TokenFile == "" || cfg.Admin.Listen.Off() {
		return nil
	}
	if _, err := os.Stat(cfg.Admin.TokenFile); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	_, err := readAdminToken(cfg)
	return err
}

// createAdminToken creates the file, readable by its owner only. It leaves a file
// that another process has just created unchanged.
func createAdminToken(path string) error {
	err := durable.Create(path, []byte(rand.Text()+rand.Text()+"\n"))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}
