package pleo

import (
	"encoding/base64"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// AuthorizationHeader returns the value of the Authorization field for a
// credential: "Bearer TOKEN" for OAuth, and for API keys "Basic" with the key as
// user name and an empty password. It returns the zero Secret if the credential
// has no access token or key.
func AuthorizationHeader(kind credstore.Kind, c credstore.Credential) credstore.Secret {
	secret := c.AccessToken
	if kind.IsKey() {
		secret = c.APIKey
	}
	if secret.IsZero() {
		return credstore.Secret{}
	}
	if kind.IsKey() {
		// The colon ends the user name, also where no password follows.
		return credstore.NewSecret("Basic " + base64.StdEncoding.EncodeToString([]byte(secret.Reveal()+":")))
	}
	return credstore.NewSecret("Bearer " + secret.Reveal())
}
