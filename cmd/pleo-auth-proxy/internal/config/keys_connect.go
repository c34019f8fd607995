package config

import (
	"net/url"
	"time"
)

// connectKeys are about the customer's pages.
func connectKeys() []key {
	return []key{
		{
			path:     "connect.listen",
			doc:      "Where customers' browsers reach the pages for consent and keys, once public_url is set: host:port or unix:/path, or off.",
			fallback: "127.0.0.1:8486",
			set:      one(parseListenOrOff, func(c *Config) *Listen { return &c.Connect.Listen }),
		},
		{
			path: "connect.public_url",
			doc:  "How browsers reach that, as https://connect.example.com; without it there are no pages and no connect links. Register it at Pleo with /oauth/callback behind it.",
			set:  one(parsePublicURL, func(c *Config) **url.URL { return &c.Connect.PublicURL }),
		},
		{
			path:     "connect.link_ttl",
			doc:      "How long a connect link can be used; 2160h (90 days) is the longest.",
			fallback: "168h",
			set:      one(parseLinkTTL, func(c *Config) *time.Duration { return &c.Connect.LinkTTL }),
		},
		{
			path: "connect.return_urls",
			doc:  "Where connect links may lead back to in the end, compared exactly; connection, status and error are added as parameters.",
			form: list,
			set:  many(parseReturnURL, func(c *Config) *[]string { return &c.Connect.ReturnURLs }),
		},
		{
			path: "connect.branding.name",
			doc:  "What customers call you: it is on every page.",
			set:  one(parseText, func(c *Config) *string { return &c.Connect.Branding.Name }),
		},
		{
			path: "connect.branding.logo_file",
			doc:  "Your logo for the pages: PNG, JPEG, GIF, WebP or SVG, up to 512KiB.",
			set:  one(parsePath, func(c *Config) *string { return &c.Connect.Branding.LogoFile }),
		},
	}
}
