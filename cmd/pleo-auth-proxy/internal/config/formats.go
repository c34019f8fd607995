package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy"
)

// format is how the values of a key are written.
type format struct {
	// parse returns the value of a text, in the type of the field. Its error says
	// what the text must be and does not repeat it: the caller knows whether the
	// text may be shown.
	parse   func(text string) (any, error)
	boolean bool     // the text is true or false
	private bool     // the text may be a secret
	words   []string // the only texts that are accepted; nil: more than can be listed
	// orFile names the format of a second key, whose name ends in _file and whose
	// value is the path of a file that holds the value of this one. Empty: there is
	// none.
	orFile string
}

// typeFormats maps types to the format of their fields without a tag.
func typeFormats() map[reflect.Type]string {
	return map[reflect.Type]string{
		reflect.TypeFor[string]():              "text",
		reflect.TypeFor[bool]():                "bool",
		reflect.TypeFor[int64]():               "size",
		reflect.TypeFor[time.Duration]():       "duration",
		reflect.TypeFor[Listen]():              "listen",
		reflect.TypeFor[netip.Prefix]():        "network",
		reflect.TypeFor[SecretSource]():        "secret",
		reflect.TypeFor[TokenHash]():           "token_hash",
		reflect.TypeFor[pleo.ClientAuth]():     "client_auth",
		reflect.TypeFor[credstore.Kind]():      "key_kind",
		reflect.TypeFor[credstore.EventType](): "event",
	}
}

// formats returns the formats by the names that tags call them by. Rules that
// other packages enforce are theirs: the functions named Check and Parse.
func formats() map[string]format {
	return map[string]format{
		"text":          parsed(func(s string) (string, error) { return s, nil }),
		"bool":          {parse: anyOf(parseBool), boolean: true},
		"size":          parsed(parseSize),
		"duration":      parsed(parseDuration),
		"path":          parsed(parsePath),
		"listen":        parsed(parseListen),
		"listen_or_off": parsed(parseListenOrOff),
		"network":       parsed(parseNetwork),
		"host":          checked(webguard.CheckHost),

		"secret":       {parse: anyOf(parseSecret), private: true, orFile: "secret_file"},
		"secret_file":  parsed(parseSecretFile),
		"secrets_file": parsed(parseSecretsFile),
		"token_hash":   {parse: anyOf(parseTokenHash), private: true},

		"connection":         checked(checkConnectionName),
		"tenant":             checked(credstore.ValidateTenant),
		"key_kind":           wordsOf(credstore.StandaloneKey, credstore.IntegratedKey),
		"connection_header":  checked(proxy.CheckConnectionHeader),
		"connection_pattern": checked(proxy.CheckConnectionPattern),
		"client_name":        checked(proxy.CheckClientName),
		"method":             checked(proxy.CheckMethod),
		"path_pattern":       checked(proxy.CheckPathPattern),

		"origin":      parsed(parseOrigin),
		"proxy_url":   {parse: anyOf(parseProxyURL), private: true},
		"client_auth": wordsOf(pleo.ClientAuths()...),
		"scope":       checked(checkScope),

		"public_url":    parsed(parsePublicURL),
		"return_url":    checked(checkReturnURL),
		"link_ttl":      parsed(parseLinkTTL),
		"domain":        parsed(parseDomain),
		"directory_url": parsed(parseDirectoryURL),

		"webhook_url": {parse: anyOf(parseWebhookURL), private: true},
		"event":       wordsOf(credstore.PublicEvents()...),
	}
}

func parsed[T any](parse func(string) (T, error)) format { return format{parse: anyOf(parse)} }

func anyOf[T any](parse func(string) (T, error)) func(string) (any, error) {
	return func(s string) (any, error) { return parse(s) }
}

// checked is the format of texts that check returns no error for.
func checked(check func(string) error) format {
	return parsed(func(s string) (string, error) { return s, check(s) })
}

// wordsOf is the format of the given words.
func wordsOf[T ~string](words ...T) format {
	var texts []string
	for _, w := range words {
		texts = append(texts, string(w))
	}
	f := wordFormat(texts...)
	f.parse = anyOf(func(s string) (T, error) { return T(s), checkWord(s, texts) })
	return f
}

func wordFormat(words ...string) format {
	f := checked(func(s string) error { return checkWord(s, words) })
	f.words = words
	return f
}

func checkWord(s string, words []string) error {
	if slices.Contains(words, s) {
		return nil
	}
	last := len(words) - 1
	return fmt.Errorf("must be %s or %s%s", strings.Join(words[:last], ", "), words[last], suggest(s, words))
}

func parseBool(s string) (bool, error) {
	if s != "true" && s != "false" {
		return false, errors.New("must be true or false")
	}
	return s == "true", nil
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, errors.New("must be a positive duration such as 20s, 2m or 1m30s")
	}
	return d, nil
}

func parseLinkTTL(s string) (time.Duration, error) {
	d, err := parseDuration(s)
	if err == nil && d > credstore.MaxLinkTTL {
		err = errors.New("must be at most 2160h (90 days): a connect link lets its holder connect a company")
	}
	return d, err
}

var sizePattern = regexp.MustCompile(`^([0-9]{1,18})(B|KiB|MiB|GiB)?$`)

// parseSize parses a number of bytes, with or without a unit.
func parseSize(s string) (int64, error) {
	invalid := errors.New("must be a size such as 512KiB or 64MiB")
	m := sizePattern.FindStringSubmatch(s)
	if m == nil {
		return 0, invalid
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	unit := map[string]int64{"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[m[2]]
	if err != nil || n > math.MaxInt64/unit {
		return 0, invalid
	}
	return n * unit, nil
}

func parsePath(s string) (string, error) {
	// A shell would have replaced it. Without one, a directory of that name would
	// be created.
	if s == "~" || strings.HasPrefix(s, "~/") || strings.HasPrefix(s, "$") {
		return "", errors.New("must be a literal path; ~ and variables are not expanded")
	}
	path, err := filepath.Abs(s)
	if err != nil {
		return "", fmt.Errorf("finding the working directory: %w", err)
	}
	return path, nil
}

func parseSecret(s string) (SecretSource, error) {
	secret, err := ReadSecret(strings.NewReader(s))
	return SecretSource{value: secret}, err
}

// parseSecretFile does not read the file: [SecretSource.Open] does.
func parseSecretFile(s string) (SecretSource, error) {
	path, err := parsePath(s)
	return SecretSource{path: path}, err
}

// parseSecretsFile is parseSecretFile for a file with one secret per line.
func parseSecretsFile(s string) (SecretSource, error) {
	source, err := parseSecretFile(s)
	source.lines = true
	return source, err
}

func parseTokenHash(s string) (TokenHash, error) {
	var h TokenHash
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(h) {
		return h, errors.New("must be 64 hexadecimal digits, as printed by sha256sum")
	}
	return TokenHash(raw), nil
}

// parseNetwork parses a network in CIDR notation. An address is the network of
// itself.
func parseNetwork(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return p, errors.New("must be a network such as 10.0.0.0/8 or fd00::/8")
	}
	if p != p.Masked() {
		return p, fmt.Errorf("must not have bits set beyond its prefix length; the network is %v", p.Masked())
	}
	return p, nil
}

func checkConnectionName(s string) error {
	if !credstore.ValidName(s) {
		return errors.New("must be the name of a connection: 1 to 128 letters, digits and . _ ~ : -, starting with a letter or a digit")
	}
	return nil
}

// RFC 6749 section 3.3.
var scopePattern = regexp.MustCompile(`^[!#-\[\]-~]+$`)

func checkScope(s string) error {
	if !scopePattern.MatchString(s) {
		return errors.New("must be a list of scopes such as [users:read, export-jobs:read]")
	}
	return nil
}

func parseDomain(s string) (string, error) {
	isLetter := func(r rune) bool { return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }
	if !webguard.ValidHostName(s) || !strings.ContainsFunc(s, isLetter) {
		return "", errors.New("must be a domain such as connect.example.com")
	}
	return strings.ToLower(s), nil
}
