package proxy

import (
	"strings"
	"testing"
)

func TestNewReportsAllMistakes(t *testing.T) {
	_, err := New(Config{
		ConnectionHeaders: []string{"Authorization", "a b", "Host"},
		DefaultConnection: "-",
		AllowedHosts:      []string{"a:1"},
		Replay:            ReplayConfig{MemoryTotal: -1},
	})
	if err == nil {
		t.Fatal("New = no error, want one")
	}
	for _, want := range []string{"upstream", "credentials", `"Authorization"`, `"a b"`, `"Host"`, `"-"`, `"a:1"`, "replay"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("New = %q, which does not mention %s", err, want)
		}
	}
}

func TestCheckConnectionHeader(t *testing.T) {
	for name, ok := range map[string]bool{
		"Pleo-Connection": true, "X-Company": true, "x_company": true,
		"": false, "a b": false, "a:": false,
		"authorization": false, "User-Agent": false, "Content_Length": false, "Idempotency-Key": false,
		"Proxy-Company": false, "X-Forwarded-Company": false, "Te": false, "Pleo-Expect-Company": false, "Pleo-Priority": false,
	} {
		if err := CheckConnectionHeader(name); (err == nil) != ok {
			t.Errorf("CheckConnectionHeader(%q) = %v, want ok: %v", name, err, ok)
		}
	}
}
