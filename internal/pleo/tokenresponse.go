package pleo

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Limits of what a token answer can say.
const (
	maxLifetime = 24 * time.Hour
	maxScope    = 4096
)

// parseTokens reads the body of a successful answer (RFC 6749 section 5.1). ok is
// false when it holds no tokens, or may have held a refresh token that cannot be
// read any more. SentAt is left to the caller.
//
// A refresh token that can be read completely counts as received, however odd
// or short the body is: it has taken the place of the one that was sent.
func parseTokens(body []byte) (t Tokens, ok bool) {
	m, end, whole := parseMembers(body)
	access, refresh := m.text("access_token"), m.text("refresh_token")
	if access == "" && refresh == "" {
		end, whole = 0, false // nothing where it belongs: look everywhere
	}
	if !whole {
		access = firstOf(access, findString(body[end:], "access_token"))
		refresh = firstOf(refresh, findString(body[end:], "refresh_token"))
	}
	if !isBearer(m.text("token_type")) || !isTokenText(access) {
		access = ""
	}
	if refresh == "" && (access == "" || !whole) {
		return Tokens{}, false
	}
	return Tokens{
		AccessToken:  credstore.NewSecret(access),
		RefreshToken: credstore.NewSecret(refresh),
		Lifetime:     parseLifetime(m["expires_in"]),
		Scope:        parseScope(m.text("scope")),
	}, true
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// isBearer reports whether access tokens of the type can be used. RFC 6749 section
// 7.1 forbids to use one of a type that we do not understand; the refresh token
// that came with it is good all the same. Pleo documents no token_type, so an
// absent one is taken for bearer.
func isBearer(tokenType string) bool {
	return tokenType == "" || strings.EqualFold(tokenType, "bearer")
}

// isTokenText reports whether s can stand in a header field: it consists of the
// characters that RFC 6749 appendix A.12 allows in a token.
func isTokenText(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}

// parseLifetime reads expires_in, seconds as a number or a numeric string.
func parseLifetime(raw json.RawMessage) time.Duration {
	text := string(raw)
	var quoted string
	if json.Unmarshal(raw, &quoted) == nil {
		text = strings.TrimSpace(quoted)
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0
	}
	return secondsAtMost(seconds, maxLifetime)
}

// parseScope returns s if it is a scope as in RFC 6749 section 3.3, else "".
func parseScope(s string) string {
	if len(s) > maxScope || !isErrorText(s) {
		return ""
	}
	return s
}

// members are those of a JSON object, by name. Of two with one name the last counts.
type members map[string]json.RawMessage

// text returns the member if it is a string, else "".
func (m members) text(name string) string {
	var s string
	if json.Unmarshal(m[name], &s) != nil {
		return ""
	}
	return s
}

// parseMembers reads the JSON object that body begins with, as far as its members
// are there completely. end is where the last of them ends, and whole whether
// the object is closed.
func parseMembers(body []byte) (m members, end int, whole bool) {
	m = make(members)
	dec := json.NewDecoder(bytes.NewReader(body))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return m, 0, false
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return m, end, false
		}
		var value json.RawMessage
		if dec.Decode(&value) != nil || mayBeTruncated(value, int(dec.InputOffset()), len(body)) {
			return m, end, false
		}
		if key, ok := name.(string); ok {
			m[key] = value
		}
		end = int(dec.InputOffset())
	}
	_, err := dec.Token()
	return m, end, err == nil
}

// mayBeTruncated reports whether value may be the beginning of a number whose rest
// is missing: unlike a string, a number does not show where it ends.
func mayBeTruncated(value json.RawMessage, end, length int) bool {
	return end == length && len(value) > 0 && value[0] != '"' && value[0] != '{' && value[0] != '['
}

// findString returns the first non-empty string that stands, complete, as the
// member's value anywhere in body; "" when there is none. body need not be JSON.
func findString(body []byte, name string) string {
	key := []byte(`"` + name + `"`)
	for {
		before, after, found := bytes.Cut(body, key)
		if !found {
			return ""
		}
		body = after
		if bytes.HasSuffix(before, []byte(`\`)) {
			continue // inside a string
		}
		value, colon := bytes.CutPrefix(trimSpace(after), []byte(":"))
		if !colon {
			continue
		}
		if s := leadingString(trimSpace(value)); s != "" {
			return s
		}
	}
}

// trimSpace removes what JSON calls whitespace from the beginning.
func trimSpace(b []byte) []byte { return bytes.TrimLeft(b, " \t\r\n") }

// leadingString returns the JSON string that b begins with, or "".
func leadingString(b []byte) string {
	if len(b) == 0 || b[0] != '"' {
		return ""
	}
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			var s string
			if json.Unmarshal(b[:i+1], &s) != nil {
				return ""
			}
			return s
		}
	}
	return ""
}
