package listen

import (
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
)

func TestDialAddress(t *testing.T) {
	for address, want := range map[string]string{
		":8487":          "127.0.0.1:8487",
		"0.0.0.0:8487":   "127.0.0.1:8487",
		"[::]:8487":      "[::1]:8487",
		"10.0.0.1:8487":  "10.0.0.1:8487",
		"localhost:8487": "localhost:8487",
	} {
		if got := DialAddress(config.Listen{Network: "tcp", Address: address}); got != want {
			t.Errorf("DialAddress(%q) = %q, want %q", address, got, want)
		}
	}
}
