package credstore_test

import (
	"strings"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "Acme-1.2_3~4:5": true, "0": true, strings.Repeat("a", 128): true,
		"": false, ".": false, "-a": false, "a/b": false, "a b": false, "a\n": false, "æ": false, "a%2f": false,
		strings.Repeat("a", 129): false,
	} {
		if got := credstore.ValidName(name); got != want {
			t.Errorf("ValidName(%q) = %v, want %v", name, got, want)
		}
	}
}

// TestValidateTenant: two customers must not come to have one tenant, since what
// differed was lost.
func TestValidateTenant(t *testing.T) {
	for tenant, want := range map[string]bool{
		"": true, "4711": true, "Müller 日本": true, strings.Repeat("x", 256): true,
		strings.Repeat("x", 257): false, strings.Repeat("ü", 129): false, "a\nb": false, "M\xfcller": false, "Caf\ufffd": false,
	} {
		if err := credstore.ValidateTenant(tenant); (err == nil) != want {
			t.Errorf("CheckTenant(%q) = %v, want it usable: %v", tenant, err, want)
		}
	}
}

func TestParseKind(t *testing.T) {
	for _, kind := range credstore.Kinds() {
		if got, err := credstore.ParseKind(string(kind)); got != kind || err != nil {
			t.Errorf("ParseKind(%q) = %v, %v, want the kind", kind, got, err)
		}
	}
	for _, text := range []string{"", "OAuth", "key"} {
		if got, err := credstore.ParseKind(text); err == nil {
			t.Errorf("ParseKind(%q) = %v, want an error", text, got)
		}
	}
}
