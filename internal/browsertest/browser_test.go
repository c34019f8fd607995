//go:build browser

package browsertest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// TestBrowserInspectionFindsProblems tests Inspect with a page that has problems.
func TestBrowserInspectionFindsProblems(t *testing.T) {
	pages := http.NewServeMux()
	pages.HandleFunc("GET /good", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `<!doctype html><html lang=en><title>Good</title><meta name=viewport content="width=device-width"><main><h1>Good</h1><a href=/bad>on</a></main>`)
	})
	pages.HandleFunc("GET /bad", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'")
		fmt.Fprint(w, `<!doctype html><html><h1>Bad</h1><img src=x.png><script>1</script><pre>`+strings.Repeat("wide", 100)+`</pre>`)
	})
	pages.HandleFunc("GET /narrow", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `<!doctype html><p style="width:1em;overflow-wrap:anywhere">broken</p><p>two words</p>`)
	})
	server := httptest.NewServer(pages)
	t.Cleanup(server.Close)
	tab := Start(t).Tab()
	tab.Open(server.URL + "/good")
	if got := tab.Heading(); got != "Good" {
		t.Errorf("Heading() = %q, want Good", got)
	}
	tab.TabTo("a")
	tab.FollowByKeyboard()
	if got, want := tab.URL(), server.URL+"/bad"; got != want {
		t.Fatalf("URL() = %q, want %q", got, want)
	}
	found := strings.Join(tab.violations(), "\n")
	for _, rule := range []string{"html-has-lang", "image-alt", "document-title"} {
		if !strings.Contains(found, rule) {
			t.Errorf("violations do not contain %s:\n%s", rule, found)
		}
	}
	if len(tab.errorsLogged()) == 0 {
		t.Error("errorsLogged() is empty, want the violation of the policy")
	}
	recorder := &failureRecorder{TB: t}
	tab.t = recorder
	tab.Inspect("bad")
	if !recorder.failed {
		t.Error("Inspect accepts the bad page")
	}
	tab.Open(server.URL + "/narrow")
	if got, want := evaluate[[]string](tab, brokenWords), []string{"broken"}; !slices.Equal(got, want) {
		t.Errorf("broken words = %q, want %q", got, want)
	}
}

// failureRecorder records failures instead of failing the test.
type failureRecorder struct {
	testing.TB
	failed bool
}

func (v *failureRecorder) Errorf(string, ...any) { v.failed = true }
