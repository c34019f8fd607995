package webhook

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// secretPrefix begins a secret in the form in which it is handed around.
const secretPrefix = "whsec_"

// What Standard Webhooks says of the length of a symmetric secret, in bytes.
const (
	minSecretBytes = 24
	maxSecretBytes = 64
)

// errNoSecrets says that there is nothing to sign with.
var errNoSecrets = errors.New("it holds no secret")

// CheckSecrets says what is wrong with the secrets of a webhook: one on each
// line, in base64 and with or without whsec_ before it. Deliveries carry a
// signature by each, so that a new one can be added before the receiver knows
// it, and the old one removed afterwards. Empty lines and lines that begin with
// # do not count. The error shows no part of a secret.
func CheckSecrets(text credstore.Secret) error {
	_, err := parseSecrets(text)
	return err
}

// parseSecrets returns what signs with each secret, in their order.
func parseSecrets(text credstore.Secret) ([]*standardwebhooks.Webhook, error) {
	var all []*standardwebhooks.Webhook
	number := 0
	for line := range strings.Lines(text.Reveal()) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(line, secretPrefix))
		if err != nil || len(raw) < minSecretBytes || len(raw) > maxSecretBytes {
			return nil, fmt.Errorf("line %d is not %s and %d to %d bytes in base64, such as `openssl rand -base64 32` makes", number, secretPrefix, minSecretBytes, maxSecretBytes)
		}
		signer, err := standardwebhooks.NewWebhookRaw(raw)
		if err != nil {
			return nil, fmt.Errorf("line %d cannot be used", number)
		}
		all = append(all, signer)
	}
	if len(all) == 0 {
		return nil, errNoSecrets
	}
	return all, nil
}

// sign returns the signatures of a message by all secrets.
func sign(text credstore.Secret, id string, at time.Time, body []byte) (string, error) {
	all, err := parseSecrets(text)
	if err != nil {
		return "", err
	}
	signatures := make([]string, 0, len(all))
	for _, signer := range all {
		signature, err := signer.Sign(id, at, body)
		if err != nil {
			return "", err
		}
		signatures = append(signatures, signature)
	}
	return strings.Join(signatures, " "), nil
}
