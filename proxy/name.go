package proxy

import (
	"context"
	"net/http"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// naming knows where a request may name its connection.
type naming struct {
	fields []string // canonical names of the header fields, the configured one first
	byFall string   // the default connection; empty when there is none
	shared bool     // byFall is meant although there are other connections
	sole   func(context.Context) (bool, error)
}

func newNaming(c Config) naming {
	n := naming{byFall: c.DefaultConnection, shared: c.DefaultConnectionShared, sole: c.Sole}
	for _, f := range append([]string{c.ConnectionHeader}, c.ConnectionHeaderAliases...) {
		n.fields = append(n.fields, http.CanonicalHeaderKey(f))
	}
	return n
}

// find returns the name of the connection that a request means: the
// listener's own, that of the path prefix, that of a header field, or the
// default. The first three have to agree where several of them speak.
func (n naming) find(ctx context.Context, own string, t target, h http.Header) (string, error) {
	name := own
	if t.prefix != "" {
		if err := n.agree(&name, t.name); err != nil {
			return "", err
		}
	}
	for _, field := range n.fields {
		values, given := h[field]
		if !given {
			continue
		}
		if len(values) != 1 || strings.Contains(values[0], ",") {
			return "", problemConflict("The header " + field + " may name one connection, once.")
		}
		if err := n.agree(&name, values[0]); err != nil {
			return "", err
		}
	}
	if name == "" {
		return n.fallback(ctx)
	}
	return name, nil
}

// agree makes given the name, unless it is none or another one is chosen
// already.
func (n naming) agree(name *string, given string) error {
	if given == "" {
		// An unset variable in the client. The default would hide it.
		return problemRequired("The request names a connection, but the name is empty.", n.fields[0])
	}
	if !credstore.ValidName(given) {
		return problemUnknown("")
	}
	if *name != "" && *name != given {
		return problemConflict("The request names two different connections.")
	}
	*name = given
	return nil
}

func (n naming) fallback(ctx context.Context) (string, error) {
	if n.byFall == "" {
		return "", problemRequired("The request names no connection.", n.fields[0])
	}
	if n.shared {
		return n.byFall, nil
	}
	sole, err := n.sole(ctx)
	if err != nil {
		return "", problemStore(n.byFall, err)
	}
	if !sole {
		return "", problemRequired("The request names no connection, and the default one is not used while there are others.", n.fields[0])
	}
	return n.byFall, nil
}
