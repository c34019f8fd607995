package webguard

import (
	"crypto/tls"
	"net/http"
	"testing"
)

func TestFromWebPage(t *testing.T) {
	for _, test := range []struct {
		name   string
		header http.Header
		want   bool
	}{
		{"program", http.Header{}, false},
		{"address bar", http.Header{"Sec-Fetch-Site": {"none"}}, false},
		{"other site", http.Header{"Sec-Fetch-Site": {"cross-site"}}, true},
		{"same origin", http.Header{"Sec-Fetch-Site": {"same-origin"}}, true},
		{"two values", http.Header{"Sec-Fetch-Site": {"none", "same-origin"}}, true},
		{"origin", http.Header{"Origin": {"http://localhost"}}, true},
		{"origin null", http.Header{"Origin": {"null"}}, true},
		{"empty origin", http.Header{"Origin": {""}}, true},
	} {
		if got := FromWebPage(test.header); got != test.want {
			t.Errorf("%s: FromWebPage = %v, want %v", test.name, got, test.want)
		}
	}
}

func TestSameOrigin(t *testing.T) {
	for _, test := range []struct {
		name   string
		header http.Header
		tls    bool
		want   bool
	}{
		{"program", http.Header{}, false, true},
		{"own page", http.Header{"Origin": {"http://127.0.0.1:8485"}, "Sec-Fetch-Site": {"same-origin"}}, false, true},
		{"own page behind TLS", http.Header{"Origin": {"https://127.0.0.1:8485"}}, false, true},
		{"own page by TLS", http.Header{"Origin": {"https://127.0.0.1:8485"}}, true, true},
		{"address bar", http.Header{"Sec-Fetch-Site": {"none"}}, false, true},
		{"plain page on a TLS listener", http.Header{"Origin": {"http://127.0.0.1:8485"}}, true, false},
		{"other port", http.Header{"Origin": {"http://127.0.0.1:8486"}}, false, false},
		{"other site", http.Header{"Sec-Fetch-Site": {"cross-site"}}, false, false},
		{"same site", http.Header{"Sec-Fetch-Site": {"same-site"}}, false, false},
		{"null", http.Header{"Origin": {"null"}}, false, false},
		{"empty", http.Header{"Origin": {""}}, false, false},
		{"not a URL", http.Header{"Origin": {"http://127.0.0.1:8485:x"}}, false, false},
		{"second origin", http.Header{"Origin": {"http://127.0.0.1:8485", "http://evil.example"}}, false, false},
	} {
		r := requestFor("127.0.0.1:8485")
		r.Header = test.header
		if test.tls {
			r.TLS = &tls.ConnectionState{}
		}
		if got := SameOrigin(r); got != test.want {
			t.Errorf("%s: SameOrigin = %v, want %v", test.name, got, test.want)
		}
	}
}

func TestTopLevelNavigation(t *testing.T) {
	for _, test := range []struct {
		name, method, mode, dest, origin string
		want                             bool
	}{
		{"link", http.MethodGet, "navigate", "document", "", true},
		{"frame", http.MethodGet, "navigate", "iframe", "", false},
		{"script", http.MethodGet, "cors", "empty", "http://evil.example", false},
		{"image", http.MethodGet, "no-cors", "image", "", false},
		{"form", http.MethodPost, "navigate", "document", "http://evil.example", false},
		{"form without origin", http.MethodPost, "navigate", "document", "", false},
		{"program", http.MethodGet, "", "", "", false},
	} {
		r := requestFor("localhost")
		r.Method = test.method
		for name, value := range map[string]string{"Sec-Fetch-Mode": test.mode, "Sec-Fetch-Dest": test.dest, "Origin": test.origin} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		if got := TopLevelNavigation(r); got != test.want {
			t.Errorf("%s: TopLevelNavigation = %v, want %v", test.name, got, test.want)
		}
	}
}
