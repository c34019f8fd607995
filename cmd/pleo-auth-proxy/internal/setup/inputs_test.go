package setup

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestIgnoredProxyVariables(t *testing.T) {
	got := IgnoredProxyVariables([]string{"HTTP_PROXY=http://u:p@h", "https_proxy=x", "ALL_PROXY=", "NO_PROXY=x", "HTTP_PROXYX=x"})
	if diff := cmp.Diff([]string{"HTTP_PROXY", "https_proxy"}, got); diff != "" {
		t.Errorf("ignored (-want +got), names only:\n%s", diff)
	}
}
