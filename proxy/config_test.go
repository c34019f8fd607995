package proxy

import (
	"strings"
	"testing"
)

func TestNewReportsAllMistakes(t *testing.T) {
	_, err := New(Config{
		Upstream:          parseURL(t, "ftp://user:hunter2@host"),
		ConnectionHeaders: []string{"Authorization", "a b", "Host"},
		DefaultConnection: "-",
		AllowedHosts:      []string{"a:1"},
		Replay:            ReplayConfig{MemoryTotal: -1},
		UpstreamTimeout:   -1,
	})
	if err == nil {
		t.Fatal("New = no error, want one")
	}
	for _, want := range []string{"ftp", "credentials", `"Authorization"`, `"a b"`, `"Host"`, `"-"`, `"a:1"`, "replay", "timeout"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("New = %q, which does not mention %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("New = %q, which shows a password", err)
	}
}

func TestUpstreamURL(t *testing.T) {
	tests := []struct {
		url string
		ok  bool
	}{
		{"https://api.test", true}, {"http://127.0.0.1:1/base/", true},
		{"", false}, {"api.test", false}, {"https://", false}, {"https:api.test", false},
		{"https://u@api.test", false}, {"https://api.test?", false}, {"https://api.test?a", false}, {"https://api.test#a", false},
	}
	for _, tt := range tests {
		if err := checkUpstream(parseURL(t, tt.url)); (err == nil) != tt.ok {
			t.Errorf("checkUpstream(%q) = %v, want ok: %v", tt.url, err, tt.ok)
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
