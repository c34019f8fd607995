package webguard

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestProblemWrite(t *testing.T) {
	p := &Problem{
		Code: "connection_pending", Status: http.StatusUnauthorized, Title: "Connection pending",
		Message: `"acme" & co.`, Detail: `"acme" & co. More.`,
		Connection: "acme", ConnectURL: "https://connect.example.com/x", RetryAfter: 1001 * time.Millisecond,
	}
	w := httptest.NewRecorder()
	n, err := p.Write(w)
	if err != nil || n != int64(w.Body.Len()) {
		t.Errorf("Write = %d, %v, want %d", n, err, w.Body.Len())
	}
	const want = `{"code":"connection_pending","message":"\"acme\" \u0026 co.",` +
		`"connect_url":"https://connect.example.com/x","connection":"acme","status":401,` +
		`"type":"urn:pleo-auth-proxy:problem:connection_pending","title":"Connection pending",` +
		`"detail":"\"acme\" \u0026 co. More."}` + "\n"
	if diff := cmp.Diff(want, w.Body.String()); diff != "" || w.Code != http.StatusUnauthorized {
		t.Errorf("response %d (-want +got):\n%s", w.Code, diff)
	}
	header := http.Header{
		"Content-Type": {"application/problem+json"}, "Cache-Control": {"no-store"}, "Retry-After": {"2"}, "Content-Length": {fmt.Sprint(len(want))},
	}
	if diff := cmp.Diff(header, w.Header()); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
}

func TestProblemBodyMinimal(t *testing.T) {
	got, err := (&Problem{Code: "not_found", Status: http.StatusNotFound, Title: "Not found", Message: "No."}).Body()
	const want = `{"code":"not_found","message":"No.","status":404,` +
		`"type":"urn:pleo-auth-proxy:problem:not_found","title":"Not found","detail":"No."}` + "\n"
	if string(got) != want || err != nil {
		t.Errorf("Body = %s, %v, want %s", got, err, want)
	}
}

func TestRetryAfterIsRoundedUp(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "", time.Millisecond: "1", time.Second: "1", 1001 * time.Millisecond: "2", time.Minute: "60",
	} {
		h := http.Header{}
		(&Problem{RetryAfter: d}).SetHeader(h)
		if got := h.Get("Retry-After"); got != want {
			t.Errorf("Retry-After for %v = %q, want %q", d, got, want)
		}
	}
}
