package sqlstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Exists reports whether there is a store already at the place that c names, whether or
// not it can be opened. It writes nothing. Only a database on a server may be
// unavailable; the error is then like that of [Open].
func Exists(ctx context.Context, c Config) (bool, error) {
	if c.Memory != nil {
		return false, nil
	}
	if c.DSN == nil {
		_, err := os.Stat(c.Path)
		return !errors.Is(err, fs.ErrNotExist), nil
	}
	exists, err := existsInPostgres(ctx, c.DSN, cmp.Or(c.Logger, zap.NewNop()))
	if err != nil {
		return false, fmt.Errorf("looking for the store: %w", err)
	}
	return exists, nil
}

func existsInPostgres(ctx context.Context, dsn func() credstore.Secret, log *zap.Logger) (exists bool, err error) {
	config, err := parseDSN(dsn())
	if err != nil {
		return false, err
	}
	d := newPostgres(config, dsn, log)
	defer func() { err = errors.Join(err, d.close()) }()
	version, err := postgresVersion(ctx, d.db, len(postgresSchema()))
	if err != nil || version == 0 {
		return false, postgresError(err, config)
	}
	err = d.db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM store)`).Scan(&exists)
	return exists, postgresError(err, config)
}
