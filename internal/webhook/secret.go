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

// secretPrefix begins a secret in its text form.
const secretPrefix = "whsec_"

// The length of a symmetric secret in Standard Webhooks.
const (
	minSecretBytes = 24
	maxSecretBytes = 64
)

var errNoSecrets = errors.New("it contains no secret")

// CheckSecrets checks the secrets of an endpoint: one on each line, in base64, with
// or without whsec_ before it. Empty lines and lines that begin with # are ignored.
// Deliveries are signed with each secret, so that a new one can be added before the
// receiver uses it, and the old one removed afterwards. The error shows no part of a
// secret.
func CheckSecrets(text credstore.Secret) error {
	_, err := parseSecrets(text)
	return err
}

// parseSecrets returns a signer for each secret.
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
			return nil, fmt.Errorf("line %d is not a secret: it must be %d to %d bytes in base64, such as `openssl rand -base64 32` prints", number, minSecretBytes, maxSecretBytes)
		}
		signer, err := standardwebhooks.NewWebhookRaw(raw)
		if err != nil {
			return nil, fmt.Errorf("line %d is not a secret", number)
		}
		all = append(all, signer)
	}
	if len(all) == 0 {
		return nil, errNoSecrets
	}
	return all, nil
}

// sign returns the signatures of a message with each secret.
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
