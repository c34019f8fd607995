package sqlstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	minServerVersion = 15 // the major release
	// connectTimeout is for a connection string that sets none.
	connectTimeout = 5 * time.Second
)

// CheckDSN returns a [credstore.SetupError] if the connection string is invalid. It
// does not connect.
func CheckDSN(dsn credstore.Secret) error {
	_, err := parseDSN(dsn)
	return err
}

// parseDSN accepts libpq's URLs and keywords. It does not repeat the error of the
// parser: in an invalid string the password may be anywhere.
func parseDSN(dsn credstore.Secret) (*pgx.ConnConfig, error) {
	text := dsn.Reveal()
	c, err := pgx.ParseConfig(text)
	if err != nil || passwordMisread(text) {
		return nil, &credstore.SetupError{
			Err:  errors.New("the connection string of the database is invalid"),
			Hint: "write store.dsn like postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full, with special characters of the password percent-encoded",
		}
	}
	// Named prepared statements would fail behind a pooler.
	c.DefaultQueryExecMode = pgx.QueryExecModeExec
	c.StatementCacheCapacity, c.DescriptionCacheCapacity = 0, 0
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	if c.ValidateConnect == nil {
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	if _, named := c.RuntimeParams["application_name"]; !named {
		c.RuntimeParams["application_name"] = "pleo-auth-proxy"
	}
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}
	c.DialFunc = dialer.DialContext
	return c, nil
}

// passwordMisread reports whether a part of the password was taken for something else:
// in a URL with a user, everything before the last @ belongs to the user.
func passwordMisread(dsn string) bool {
	rest, isURL := strings.CutPrefix(dsn, "postgres://")
	if !isURL {
		rest, isURL = strings.CutPrefix(dsn, "postgresql://")
	}
	if !isURL || !strings.Contains(rest, "@") {
		return false
	}
	u, err := url.Parse(dsn)
	return err != nil || u.User == nil || u.Fragment != ""
}

// warnUnverifiedTLS warns if others in the network could read the traffic or
// impersonate the server.
func warnUnverifiedTLS(c *pgx.ConnConfig, log *zap.Logger) {
	if strings.HasPrefix(c.Host, "/") || c.Host == "localhost" || net.ParseIP(c.Host).IsLoopback() {
		return
	}
	if c.TLSConfig == nil || c.TLSConfig.InsecureSkipVerify && c.TLSConfig.VerifyPeerCertificate == nil && c.TLSConfig.VerifyConnection == nil {
		log.Warn("the connection to the database does not verify the server; set sslmode=verify-full in store.dsn", zap.String("host", c.Host))
	}
}

// connector opens connections that clean texts, with the current connection string: a
// password may have changed.
type connector struct{ driver.Connector }

func newConnector(c *pgx.ConnConfig, dsn func() credstore.Secret) connector {
	renew := func(_ context.Context, at *pgx.ConnConfig) error {
		if now, err := parseDSN(dsn()); err == nil { // else keep the previous one
			*at = *now
		}
		return nil
	}
	return connector{stdlib.GetConnector(*c, stdlib.OptionBeforeConnect(renew))}
}

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return cleanConn{conn.(*stdlib.Conn)}, nil //nolint:errcheck // GetConnector makes no others
}

// cleanConn is a connection that removes from texts what PostgreSQL does not store: NUL
// and invalid UTF-8. A text from outside, such as a scope of the authorization server,
// must not keep a token from being saved.
type cleanConn struct{ *stdlib.Conn }

// CheckNamedValue is called for each argument of a statement.
func (cleanConn) CheckNamedValue(v *driver.NamedValue) error {
	if text := reflect.ValueOf(v.Value); text.Kind() == reflect.String {
		v.Value = strings.ToValidUTF8(strings.ReplaceAll(text.String(), "\x00", ""), "\uFFFD")
	}
	return nil
}

// location describes the database for people, without anything secret.
func location(c *pgx.ConnConfig) string {
	if strings.HasPrefix(c.Host, "/") {
		return fmt.Sprintf("%s, database %q", c.Host, c.Database)
	}
	return fmt.Sprintf("%s, database %q", net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))), c.Database)
}

// postgresError adds a hint to the error about a database that cannot be opened; nil
// stays nil.
func postgresError(err error, c *pgx.ConnConfig) error {
	if err == nil || isStoreError(err) {
		return err
	}
	err = fmt.Errorf("PostgreSQL at %s: %w", location(c), shortenConnectError(err))
	if hint := postgresHint(err, c); hint != "" {
		return &credstore.SetupError{Err: err, Hint: hint}
	}
	return fmt.Errorf("%w: %w", credstore.ErrUnavailable, err)
}

// postgresHint is empty for what may be temporary.
func postgresHint(err error, c *pgx.ConnConfig) string {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		return postgresHints[said.Code]
	}
	var unknown *net.DNSError
	if errors.As(err, &unknown) && unknown.IsNotFound {
		return "correct the host in store.dsn"
	}
	var untrusted *tls.CertificateVerificationError
	var foreign x509.HostnameError
	if errors.As(err, &untrusted) || errors.As(err, &foreign) {
		return "give the server a certificate for this host name, and store.dsn its authority as sslrootcert"
	}
	if c.TLSConfig != nil && strings.Contains(err.Error(), "refused TLS") {
		return "enable TLS at the server; set sslmode=disable in store.dsn only if the network in between is trusted"
	}
	return ""
}

// postgresHints are the hints by SQLSTATE.
var postgresHints = map[string]string{
	"28P01": "correct the user or the password in store.dsn",
	"28000": "correct the user in store.dsn, or allow it in the server's pg_hba.conf",
	"3D000": "create the database, or correct its name in store.dsn",
	"3F000": "create the schema, or correct search_path in store.dsn",
	"42501": "make the user of store.dsn the owner of the database, or grant it CREATE and USAGE on the schema and SELECT, INSERT, UPDATE and DELETE on the tables",
	"42704": "correct store.dsn: the server does not know one of the parameters",
	"22023": "correct store.dsn: the server rejects one of the parameters",
}

// shortenConnectError removes what pgx reports about each address and port, which
// repeats the location.
func shortenConnectError(err error) error {
	var failed *pgconn.ConnectError
	if !errors.As(err, &failed) {
		return err
	}
	var said *pgconn.PgError
	if errors.As(err, &said) {
		return said
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op
	}
	return failed.Unwrap()
}
