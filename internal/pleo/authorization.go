package pleo

import (
	"encoding/base64"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// AuthorizationHeader returns the value of the Authorization header field that
// proves a request to be the connection's: "Bearer TOKEN" for OAuth, and for
// keys "Basic" with the key as user name and an empty password. It is the zero
// Secret when the credential has nothing to send.
func AuthorizationHeader(kind credstore.Kind, c credstore.Credential) credstore.Secret {
	if kind.IsKey() {
		return basicKey(c.APIKey)
	}
	if c.AccessToken.IsZero() {
		return credstore.Secret{}
	}
	return credstore.NewSecret("Bearer " + c.AccessToken.Reveal())
}

func basicKey(key credstore.Secret) credstore.Secret {
	if key.IsZero() {
		return credstore.Secret{}
	}
	// The colon that ends the user name stays, although no password follows.
	return credstore.NewSecret("Basic " + base64.StdEncoding.EncodeToString([]byte(key.Reveal()+":")))
}
