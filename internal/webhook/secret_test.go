package webhook

import (
	"strings"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func TestCheckSecrets(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"one", newSecret, ""},
		{"without the prefix", strings.TrimPrefix(newSecret, secretPrefix), ""},
		{"several, with comments and Windows' line ends", "# new\r\n" + newSecret + "\r\n\r\n" + oldSecret + "\r\n", ""},
		{"none", "", "it contains no secret"},
		{"comments alone", "# none\n", "it contains no secret"},
		{"not base64", newSecret + "\nwhsec_canary*", "line 2 is not a secret: it must be 24 to 64 bytes in base64"},
		{"too short", "whsec_Y2FuYXJ5", "line 1 is not a secret: it must be 24 to 64 bytes in base64"},
		{"too long", "whsec_" + strings.Repeat("Y2FuYXJ5", 11), "line 1 is not"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := CheckSecrets(credstore.NewSecret(tt.text))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("CheckSecrets = %v, want %q", err, tt.want)
			}
			if err != nil && (strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "Y2FuYXJ5")) {
				t.Errorf("the error shows a part of the secret: %v", err)
			}
		})
	}
}
