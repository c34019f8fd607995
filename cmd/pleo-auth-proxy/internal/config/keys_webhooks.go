package config

import (
	"errors"
	"net/url"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// webhookKeys are about being told.
func webhookKeys() []key {
	webhook := func(c *Config) *Webhook { return last(c.Webhooks) }
	return []key{{
		path: "webhooks",
		doc:  "Who is told by an HTTP POST in the form of Standard Webhooks when a connection needs a person, recovers, and so on.",
		form: objects,
		items: listAt(func(c *Config) *[]Webhook { return &c.Webhooks },
			key{
				path:    "webhooks[].url",
				doc:     "where the receiver is; plain http for this machine only",
				private: true,
				set:     one(parseWebhookURL, func(c *Config) **url.URL { return &webhook(c).URL }),
			},
			key{
				path: "webhooks[].secret_file",
				doc:  "a file with what deliveries are signed with, as openssl rand -base64 32 makes it, read again when it changes; one or more lines",
				set:  one(parseSecretsFile, func(c *Config) *SecretSource { return &webhook(c).Secrets }),
			},
			key{
				path: "webhooks[].ca_file",
				doc:  "certificates (PEM) to trust in place of the system's",
				set:  one(parsePath, func(c *Config) *string { return &webhook(c).CAFile }),
			},
			key{
				path: "webhooks[].events",
				doc:  "what it is told, such as [connection.reauthorization_required, connection.recovered]; left out, everything",
				form: list,
				set:  many(parseEvent, func(c *Config) *[]credstore.EventType { return &webhook(c).Events }),
			},
		),
	}}
}

// parseWebhookURL accepts https, and http for receivers on this machine. The URL
// may hold a secret, so its errors and its value must not be shown.
func parseWebhookURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Opaque != "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("wants a URL such as https://app.example.com/hooks/pleo, without user and fragment")
	}
	switch {
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return u, nil
	case u.Scheme == "http":
		return nil, errors.New("is plain http to another machine; use https")
	}
	return nil, errors.New("wants a URL that begins with https://, or with http:// on this machine")
}

// parseSecretsFile is parseSecretFile for a file with a secret on each line.
func parseSecretsFile(s string) (SecretSource, error) {
	source, err := parseSecretFile(s)
	source.lines = true
	return source, err
}

func parseEvent(s string) (credstore.EventType, error) {
	var words []string
	for _, t := range credstore.PublicEvents() {
		words = append(words, string(t))
	}
	event, err := oneOf(words...)(s)
	return credstore.EventType(event), err
}

// checkWebhooks reports receivers that cannot be told anything, or that could
// not be told apart.
func (l *loader) checkWebhooks() {
	seen := map[string]string{} // URL → path of the webhook
	for i, w := range l.config.Webhooks {
		path := itemPath("webhooks", i)
		l.needs(path, "url")
		l.needs(path, "secret_file")
		if w.URL == nil {
			continue
		}
		if other, taken := seen[w.URL.String()]; taken {
			l.mistake(l.places[path+".url"], path+".url", "is the URL of %s too; give one of them all the events", other)
		}
		seen[w.URL.String()] = path
	}
}
