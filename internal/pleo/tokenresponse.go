package pleo

import (
	"bytes"
	"cmp"
	"encoding/json"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
)

const (
	maxLifetime = 24 * time.Hour
	maxScope    = 4096
)

// parseTokens parses the body of a successful response (RFC 6749 section 5.1). It
// returns false if the body has no tokens, or may have had a refresh token that is
// no longer readable. The caller sets SentAt.
//
// A complete refresh token counts as received, however malformed or truncated the
// rest of the body is: it replaces the one that was sent.
func parseTokens(body []byte) (Tokens, bool) {
	m, end, complete := parseMembers(body)
	access, refresh := m.text("access_token"), m.text("refresh_token")
	if access == "" && refresh == "" {
		end, complete = 0, false // not where they belong: search the whole body
	}
	if !complete {
		access = cmp.Or(access, findString(body[end:], "access_token"))
		refresh = cmp.Or(refresh, findString(body[end:], "refresh_token"))
	}
	if !isBearer(m.text("token_type")) || !isTokenText(access) {
		access = ""
	}
	if refresh == "" && (access == "" || !complete) {
		return Tokens{}, false
	}
	return Tokens{
		AccessToken:  credstore.NewSecret(access),
		RefreshToken: credstore.NewSecret(refresh),
		Lifetime:     parseLifetime(m["expires_in"]),
		Scope:        parseScope(m.text("scope")),
	}, true
}

// isBearer reports whether access tokens of the type can be used: RFC 6749 section
// 7.1 forbids types that the client does not understand. The refresh token beside
// it can be used all the same. Pleo documents no token_type, so an absent one
// counts as bearer.
func isBearer(tokenType string) bool {
	return tokenType == "" || strings.EqualFold(tokenType, "bearer")
}

// isTokenText reports whether s has only the characters that RFC 6749 appendix A.12
// allows in a token, so that it can be sent in a header field.
func isTokenText(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}

// parseLifetime parses expires_in: seconds as a number or a numeric string.
func parseLifetime(raw json.RawMessage) time.Duration {
	text := string(raw)
	var quoted string
	if json.Unmarshal(raw, &quoted) == nil {
		text = strings.TrimSpace(quoted)
	}
	return outbound.Seconds(text, maxLifetime)
}

// parseScope returns s if it is a scope according to RFC 6749 section 3.3, else "".
func parseScope(s string) string {
	if len(s) > maxScope || !isErrorText(s) {
		return ""
	}
	return s
}

// members are the members of a JSON object. The last of two with one name counts.
type members map[string]json.RawMessage

// text returns the member if it is a string, else "".
func (m members) text(name string) string {
	var s string
	if json.Unmarshal(m[name], &s) != nil {
		return ""
	}
	return s
}

// parseMembers parses the complete members of the JSON object at the beginning of
// body. end is where the last of them ends; complete means that the object is
// closed.
func parseMembers(body []byte) (m members, end int, complete bool) {
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

// mayBeTruncated reports whether value may be the beginning of a longer number:
// unlike a string, a number does not show where it ends.
func mayBeTruncated(value json.RawMessage, end, length int) bool {
	return end == length && len(value) > 0 && value[0] != '"' && value[0] != '{' && value[0] != '['
}

// jsonSpace is the whitespace of JSON (RFC 8259 section 2).
const jsonSpace = " \t\r\n"

// findString returns the first complete, non-empty string value of a member with
// the name, anywhere in body, or "". body need not be JSON.
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
		value, isMember := bytes.CutPrefix(bytes.TrimLeft(after, jsonSpace), []byte(":"))
		if !isMember {
			continue
		}
		// A decoder reads a complete string also in front of text that is not JSON.
		var s string
		if value = bytes.TrimLeft(value, jsonSpace); bytes.HasPrefix(value, []byte(`"`)) && json.NewDecoder(bytes.NewReader(value)).Decode(&s) == nil && s != "" {
			return s
		}
	}
}
