package proxy

import (
	"context"
	"net/http"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// connectionNames finds the connection that a request names.
type connectionNames struct {
	fields      []string // canonical names of the header fields
	defaultName string   // empty: there is none
	shared      bool     // the default is used even if there are other connections
	single      func(context.Context) (bool, error)
}

func newConnectionNames(c Config) connectionNames {
	n := connectionNames{defaultName: c.DefaultConnection, shared: c.DefaultConnectionShared, single: c.SingleConnection}
	for _, f := range c.ConnectionHeaders {
		n.fields = append(n.fields, http.CanonicalHeaderKey(f))
	}
	return n
}

// resolve returns the name of the request's connection: that of the listener,
// the path prefix or a header field, or the default. If more than one of the
// first three name a connection, they must agree.
func (n connectionNames) resolve(ctx context.Context, byListener string, t target, h http.Header) (string, error) {
	name := byListener
	if t.prefix != "" {
		if err := n.set(&name, t.name); err != nil {
			return "", err
		}
	}
	for _, field := range n.fields {
		values, given := h[field]
		if !given {
			continue
		}
		if len(values) != 1 || strings.Contains(values[0], ",") {
			return "", connectionConflict("The header " + field + " must name one connection, once.")
		}
		if err := n.set(&name, values[0]); err != nil {
			return "", err
		}
	}
	if name == "" {
		return n.fallback(ctx)
	}
	return name, nil
}

// set sets name to given, unless it is invalid or another name is set already.
func (n connectionNames) set(name *string, given string) error {
	if given == "" {
		// An unset variable of the client, which the default would hide.
		return connectionRequired("The request names a connection, but the name is empty.", n.fields[0])
	}
	if !credstore.ValidName(given) {
		return connectionUnknown("")
	}
	if *name != "" && *name != given {
		return connectionConflict("The request names two different connections.")
	}
	*name = given
	return nil
}

func (n connectionNames) fallback(ctx context.Context) (string, error) {
	if n.defaultName == "" {
		return "", connectionRequired("The request names no connection.", n.fields[0])
	}
	if n.shared {
		return n.defaultName, nil
	}
	single, err := n.single(ctx)
	if err != nil {
		return "", storeUnavailable(n.defaultName, err)
	}
	if !single {
		return "", connectionRequired("The request names no connection, and with more than one there is no default.", n.fields[0])
	}
	return n.defaultName, nil
}
