package proxy

import (
	"context"
	"net/http"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// connectionNames knows where a request may name its connection.
type connectionNames struct {
	fields      []string // canonical names of the header fields, the configured one first
	defaultName string   // the default connection; empty when there is none
	shared      bool     // defaultName is meant although there are other connections
	single      func(context.Context) (bool, error)
}

func newConnectionNames(c Config) connectionNames {
	n := connectionNames{defaultName: c.DefaultConnection, shared: c.DefaultConnectionShared, single: c.SingleConnection}
	for _, f := range c.ConnectionHeaders {
		n.fields = append(n.fields, http.CanonicalHeaderKey(f))
	}
	return n
}

// resolve returns the name of the connection that a request means: the
// listener's own, that of the path prefix, that of a header field, or the
// default. The first three have to agree where several of them speak.
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
			return "", connectionConflict("The header " + field + " may name one connection, once.")
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

// set makes given the name, unless it is none or another one is chosen
// already.
func (n connectionNames) set(name *string, given string) error {
	if given == "" {
		// An unset variable in the client. The default would hide it.
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
	sole, err := n.single(ctx)
	if err != nil {
		return "", storeUnavailable(n.defaultName, err)
	}
	if !sole {
		return "", connectionRequired("The request names no connection, and the default one is not used while there are others.", n.fields[0])
	}
	return n.defaultName, nil
}
