package setup

import (
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// The file of a token is checked at most once a second, not for every request.
func TestTokenFileReadsAreRateLimited(t *testing.T) {
	now := time.Now()
	reads, current := 0, "old"
	hash := cachedHash(func() credstore.Secret {
		reads++
		return credstore.NewSecret(current)
	}, func() time.Time { return now })
	before := hash()
	for range 100 {
		hash()
	}
	if reads != 1 {
		t.Errorf("the file was read %d times within a second, want once", reads)
	}
	current, now = "new", now.Add(fileCheckInterval)
	if hash() == before {
		t.Error("after a second the hash is still that of the old token")
	}
}
