package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// The tests below send raw bytes to the real program, and read the raw bytes that it
// sends. For every input, it sends exactly one Authorization field, which is ours, and
// no more requests than it should, no secret is in a response, nothing is sent to
// another server, and the program keeps serving.

const requestsKey = "canary-key-of-acme"

// recordingEnv is the program before an API that records what it gets.
type recordingEnv struct {
	t         *testing.T
	process   *process
	api       *recorder
	elsewhere *recorder // nothing may be sent to it
}

func newRecordingEnv(t *testing.T, settings ...string) *recordingEnv {
	t.Helper()
	w := newEnv(t, simulator.Settings{})
	f := &recordingEnv{t: t, api: newRecorder(t), elsewhere: newRecorder(t)}
	config := configFor(w.sim, w.url, filepath.Join(w.dir, "data"))
	config = replaceOnce(t, config, fmt.Sprintf("api_url: %q", w.url), fmt.Sprintf("api_url: %q", "http://"+f.api.address))
	w.write("config.yaml", config+strings.Join(settings, "\n")+"\n")
	w.importLines(
		`{"name":"acme","kind":"standalone_key","api_key":"`+requestsKey+`"}`,
		`{"name":"shop","kind":"standalone_key","api_key":"canary-key-of-shop"}`,
	)
	f.process = w.serve()
	return f
}

// recorder is a server that records the bytes of every request. It sends the
// response that the header X-Response of the request names, see [rawResponses].
type recorder struct {
	address string
	mu      sync.Mutex // guards seen
	seen    []string
}

func newRecorder(t *testing.T) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{address: l.Addr().String()}
	var running sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { r.serve(conn) })
		}
	})
	return r
}

func (r *recorder) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	for {
		var raw bytes.Buffer
		in := bufio.NewReaderSize(io.TeeReader(conn, &raw), 16)
		request, err := http.ReadRequest(in)
		if err == nil {
			_, err = io.Copy(io.Discard, request.Body)
		}
		if raw.Len() > 0 {
			r.mu.Lock()
			r.seen = append(r.seen, raw.String())
			r.mu.Unlock()
		}
		if err != nil {
			return
		}
		response, known := rawResponses[request.Header.Get("X-Response")]
		if !known {
			response = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
		}
		if _, err := io.WriteString(conn, response); err != nil || known {
			return
		}
	}
}

// since returns the requests after the first n.
func (r *recorder) since(n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen[n:])
}

// exchange writes bytes in pieces and returns the response bytes until the program
// closes the connection.
func (f *recordingEnv) exchange(pieces ...string) string {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.process.addresses["proxy"])
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		f.t.Fatal(err)
	}
	for _, piece := range pieces {
		if _, err := io.WriteString(conn, piece); err != nil {
			break // the program may have rejected it already
		}
	}
	all, _ := io.ReadAll(conn)
	return string(all)
}

// rawRequest is an input and its expected outcome.
type rawRequest struct {
	name      string
	raw       string // the request; HOST, EVIL stand for addresses, and the last request should close
	status    int    // of the last response
	code      string // of our problem; empty for responses of the API
	forwarded int    // requests that reach the API; partly: it depends on timing
}

const partly = -1

var statusLine = regexp.MustCompile(`HTTP/1\.[01] ([2-5][0-9][0-9]) `)

func (f *recordingEnv) try(t *testing.T, tt rawRequest) {
	t.Helper()
	before := len(f.api.since(0))
	raw := strings.NewReplacer("HOST", f.process.addresses["proxy"], "EVIL", f.elsewhere.address).Replace(tt.raw)
	response := f.exchange(raw)
	got := statusLine.FindAllStringSubmatch(response, -1)
	if len(got) == 0 || got[len(got)-1][1] != fmt.Sprint(tt.status) {
		t.Errorf("response = %.300q, want %d", response, tt.status)
	}
	if tt.code != "" && !strings.Contains(response, `"code":"`+tt.code+`"`) {
		t.Errorf("response = %.600q, want code %s", response, tt.code)
	}
	sent := f.api.since(before)
	if len(sent) != tt.forwarded && tt.forwarded != partly {
		t.Errorf("%d requests reached the API, want %d: %.300q", len(sent), tt.forwarded, sent)
	}
	f.checkInvariants(t, response, sent)
}

// forwardedHeader matches the fields that a request upstream may have in these tests.
var forwardedHeader = regexp.MustCompile(`(?i)^(host|authorization|user-agent|accept|content-length|transfer-encoding|trailer|expect|idempotency-key|x-kept|x-response|via): `)

// authorization matches the field in headers and trailers.
var authorization = regexp.MustCompile(`(?im)^[\t ]*authorization[\t ]*:`)

func (f *recordingEnv) checkInvariants(t *testing.T, response string, sent []string) {
	t.Helper()
	ours := "Basic " + base64.StdEncoding.EncodeToString([]byte(requestsKey+":"))
	for _, request := range sent {
		head, _, _ := strings.Cut(request, "\r\n\r\n")
		if got := authorization.FindAllString(request, -1); len(got) != 1 || !strings.Contains(head+"\r\n", "\r\nAuthorization: "+ours+"\r\n") {
			t.Errorf("request upstream = %.500q, want one Authorization, which is ours", request)
		}
		for _, line := range strings.Split(head, "\r\n")[1:] {
			if !forwardedHeader.MatchString(line) {
				t.Errorf("upstream got the field %q", line)
			}
		}
		if !strings.Contains(head+"\r\n", "\r\nHost: "+f.api.address+"\r\n") {
			t.Errorf("request upstream = %.500q, want the API's Host", request)
		}
	}
	for _, secret := range []string{requestsKey, base64.StdEncoding.EncodeToString([]byte(requestsKey + ":"))} {
		if strings.Contains(response, secret) {
			t.Errorf("response = %.500q, which shows the key", response)
		}
	}
	if stray := f.elsewhere.since(0); len(stray) > 0 {
		t.Errorf("elsewhere got %.300q, want nothing", stray)
	}
	if after := f.exchange("GET /v1/next HTTP/1.1\r\nHost: localhost\r\nPleo-Connection: acme\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(after, "HTTP/1.1 200 ") {
		t.Errorf("response to the next request = %.200q, want 200", after)
	}
}

func (f *recordingEnv) tryAll(trials []rawRequest) {
	for _, tt := range trials {
		f.t.Run(tt.name, func(t *testing.T) { f.try(t, tt) })
	}
}

// get returns a request with further header fields.
func get(target, fields string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: localhost\r\n" + fields + "Connection: close\r\n\r\n"
}

const acme = "Pleo-Connection: acme\r\n"

func TestCredentialIntegrity(t *testing.T) {
	newRecordingEnv(t).tryAll([]rawRequest{
		{"plain", get("/v1", acme), 200, "", 1},
		{"own authorization", get("/v1", acme+"Authorization: Bearer mine\r\n"), 200, "", 1},
		{"own authorization twice", get("/v1", acme+"Authorization: a\r\nAUTHORIZATION: b\r\n"), 200, "", 1},
		{"nominated", get("/v1", acme+"Connection: Authorization, Host, X-Gone\r\nX-Gone: x\r\n"), 200, "", 1},
		{"nominated selector", get("/v1", acme+"Connection: pleo-connection\r\n"), 200, "", 1},
		{"underscores", get("/v1", acme+"Pleo_Connection: shop\r\nProxy_Authorization: x\r\nX_Forwarded_Host: x\r\n"), 200, "", 1},
		{"proxy fields", get("/v1", acme+"Proxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\n"), 200, "", 1},
		{"cookies and origins", get("/v1", acme+"Cookie: a=b\r\nForwarded: for=x\r\nX-Forwarded-For: 1.2.3.4\r\n"), 200, "", 1},
		{"as a trailer", "POST /v1 HTTP/1.1\r\nHost: localhost\r\n" + acme + "Connection: close\r\nTrailer: Authorization\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nAuthorization: Bearer mine\r\n\r\n", 200, "", 1},
	})
}

func TestSelector(t *testing.T) {
	newRecordingEnv(t).tryAll([]rawRequest{
		{"absent", get("/v1", ""), 400, "connection_required", 0},
		{"twice", get("/v1", acme+acme), 400, "connection_conflict", 0},
		{"two", get("/v1", acme+"Pleo-Connection: shop\r\n"), 400, "connection_conflict", 0},
		{"list", get("/v1", "Pleo-Connection: acme, shop\r\n"), 400, "connection_conflict", 0},
		{"prefix and header differ", get("/@acme/v1", "Pleo-Connection: shop\r\n"), 400, "connection_conflict", 0},
		{"prefix and header agree", get("/@acme/v1", acme), 200, "", 1},
		{"alias", get("/v1", "Connection-Id: acme\r\n"), 200, "", 1},
		{"encoded prefix", get("/%40acme/v1", ""), 200, "", 1},
		{"empty", get("/v1", "Pleo-Connection:\r\n"), 400, "connection_required", 0},
		{"empty prefix", get("/@/v1", acme), 400, "connection_required", 0},
		{"unknown", get("/v1", "Pleo-Connection: unknown\r\n"), 400, "connection_unknown", 0},
		{"another case", get("/v1", "Pleo-Connection: Acme\r\n"), 400, "connection_unknown", 0},
		{"traversal", get("/v1", "Pleo-Connection: ../acme\r\n"), 400, "connection_unknown", 0},
		{"traversal in the prefix", get("/@..%2facme/v1", ""), 400, "connection_unknown", 0},
		{"NUL", get("/v1", "Pleo-Connection: acme\x00\r\n"), 400, "bad_request", 0},
		{"9 KB", get("/v1", "Pleo-Connection: "+strings.Repeat("a", 9<<10)+"\r\n"), 400, "connection_unknown", 0},
		{"in a trailer", "POST /v1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTrailer: Pleo-Connection\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + acme + "\r\n", 400, "connection_required", 0},
	})
}

func TestRequestTarget(t *testing.T) {
	newRecordingEnv(t).tryAll([]rawRequest{
		{"absolute form", get("http://EVIL/v1", acme), 400, "bad_request_target", 0},
		{"two slashes", get("//EVIL/v1", acme), 400, "bad_request_target", 0},
		{"two slashes behind the prefix", get("/@acme//EVIL/v1", ""), 400, "bad_request_target", 0},
		{"backslashes", get("/\\EVIL/v1", acme), 200, "", 1},
		{"user", get("/@acme@EVIL/v1", ""), 400, "connection_unknown", 0},
		{"dot segments", get("/v1/../../x", acme), 200, "", 1},
		{"encoded slash", get("/v1/a%2Fb", acme), 200, "", 1},
		{"odd query", get("/v1?a=%zz;b&c=http://EVIL", acme), 200, "", 1},
		{"bad percent sign in the path", get("/%zz", acme), 400, "bad_request", 0},
		{"connect", "CONNECT EVIL HTTP/1.1\r\nHost: EVIL\r\n" + acme + "Connection: close\r\n\r\n", 405, "method_not_supported", 0},
		{"trace", "TRACE / HTTP/1.1\r\nHost: localhost\r\n" + acme + "Connection: close\r\n\r\n", 405, "method_not_supported", 0},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n" + acme + "Connection: close\r\n\r\n", 400, "bad_request_target", 0},
		{"64 KB", get("/v1?cursor="+strings.Repeat("x", 64<<10), acme), 200, "", 1},
		{"more than 10,000 parameters", get("/v1?"+strings.Repeat("a=b&", 10_001), acme), 200, "", 1},
	})
}

func TestFraming(t *testing.T) {
	post := func(framing, body string) string {
		return "POST /v1 HTTP/1.1\r\nHost: localhost\r\n" + acme + framing + "\r\n" + body
	}
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n" + acme + "Connection: close\r\n\r\n"
	newRecordingEnv(t).tryAll([]rawRequest{
		{"length and coding", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+smuggled), 400, "bad_request", 0},
		{"coding and length", post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+smuggled), 400, "bad_request", 0},
		{"two lengths", post("Content-Length: 0\r\nContent-Length: 30\r\n", smuggled), 400, "bad_request", 0},
		{"list of lengths", post("Content-Length: 0, 0\r\n", smuggled), 400, "bad_request", 0},
		{"signed length", post("Content-Length: +0\r\n", smuggled), 400, "bad_request", 0},
		{"hexadecimal length", post("Content-Length: 0x0\r\n", smuggled), 400, "bad_request", 0},
		{"two codings", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"+smuggled), 501, "bad_request", 0},
		{"vertical tab in the coding", post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"+smuggled), 400, "bad_request", 0},
		{"unknown coding", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 501, "bad_request", 0},
		{"space before the colon", post("Content-Length : 5\r\n", "hello"), 400, "bad_request", 0},
		{"obs-fold", get("/v1", acme+"X-Kept: a\r\n\tAuthorization: b\r\n"), 200, "", 1},
		{"bare CR", get("/v1", acme+"X-Kept: a\rAuthorization: b\r\n"), 400, "bad_request", 0},
		{"bare LF ends a line", "GET /v1 HTTP/1.1\nHost: localhost\nPleo-Connection: acme\nConnection: close\n\n", 200, "", 1},
		{"NUL", get("/v1", acme+"X-Kept: a\x00b\r\n"), 400, "bad_request", 0},
		{"pipelined", "GET /v1 HTTP/1.1\r\nHost: localhost\r\n" + acme + "\r\n" + get("/v2", acme), 200, "", 2},
		{"expect", post("Connection: close\r\nContent-Length: 2\r\nExpect: 100-continue\r\n", "hi"), 200, "", 1},
		{"unknown expectation", post("Connection: close\r\nContent-Length: 2\r\nExpect: a miracle\r\n", "hi"), 417, "", 0},
		{"bad chunk size", post("Connection: close\r\nTransfer-Encoding: chunked\r\n", "zz\r\nhi\r\n0\r\n\r\n"), 400, "bad_request_body", partly},
		{"negative chunk size", post("Connection: close\r\nTransfer-Encoding: chunked\r\n", "-1\r\nhi\r\n0\r\n\r\n"), 400, "bad_request_body", partly},
	})
}

func TestUpgrade(t *testing.T) {
	newRecordingEnv(t).tryAll([]rawRequest{
		{"h2c", get("/v1", acme+"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"), 200, "", 1},
		{"websocket", get("/v1", acme+"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n"), 400, "upgrade_refused", 0},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request_target", 0},
		{"unsolicited 101", get("/v1", acme+"X-Response: switching\r\n"), 502, "upstream_protocol_error", 1},
	})
}

func TestBrowser(t *testing.T) {
	host := func(host, fields string) string {
		return "POST /v1 HTTP/1.1\r\nHost: " + host + "\r\n" + acme + "Content-Length: 0\r\nConnection: close\r\n" + fields + "\r\n"
	}
	newRecordingEnv(t).tryAll([]rawRequest{
		{"rebound host", host("evil.example", ""), 403, "host_not_allowed", 0},
		{"rebound host with our port", host("rebind.evil.example:8484", ""), 403, "host_not_allowed", 0},
		{"cross-site post", host("localhost", "Origin: https://evil.example\r\n"), 403, "cross_site_request", 0},
		{"origin null", host("localhost", "Origin: null\r\n"), 403, "cross_site_request", 0},
		{"cross-site get", get("/v1", acme+"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n"), 403, "cross_site_request", 0},
		{"preflight with private network", "OPTIONS /v1 HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Private-Network: true\r\nConnection: close\r\n\r\n", 403, "cross_site_request", 0},
		{"service of docker-compose", host("pleo_proxy:8484", ""), 200, "", 1},
		{"service of Kubernetes", host("proxy.pleo.svc.cluster.local", ""), 200, "", 1},
		{"IP literal", host("[::1]:8484", ""), 200, "", 1},
	})
}

// rawResponses are the responses of the API. It closes the connection
// afterwards.
var rawResponses = map[string]string{
	"switching": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
	"redirect":  "HTTP/1.1 302 Found\r\nLocation: https://evil.example/v1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
	"hints":     "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
	"truncated": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
	"chunks":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	"gzip":      "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08",
	"trailers":  "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n",
	"cors":      "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nSet-Cookie: a=b\r\nStrict-Transport-Security: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
	"nothing":   "",
	"garbage":   "\x00\x01\x02 this is not HTTP\r\n\r\n",
	"huge":      "HTTP/1.1 200 OK\r\nX-Huge: " + strings.Repeat("x", 12<<20) + "\r\n\r\n",
	"401":       "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
}

func TestResponses(t *testing.T) {
	f := newRecordingEnv(t)
	responding := func(name string) string { return get("/v1", acme+"X-Response: "+name+"\r\n") }
	f.tryAll([]rawRequest{
		{"redirect elsewhere", responding("redirect"), 302, "", 1},
		{"early hints", responding("hints"), 200, "", 1},
		{"gzip", responding("gzip"), 200, "", 1},
		{"trailers", responding("trailers"), 200, "", 1},
		{"no response", responding("nothing"), 502, "upstream_protocol_error", 2}, // the first connection was a reused one
		{"no response to a POST", strings.Replace(responding("nothing"), "GET /v1", "POST /v1", 1), 502, "upstream_protocol_error", 1},
		{"garbage", responding("garbage"), 502, "upstream_protocol_error", 1},
		{"12 MB of header", responding("huge"), 502, "upstream_protocol_error", 1},
	})
	for _, name := range []string{"truncated", "chunks"} {
		response := f.exchange(responding(name))
		if strings.HasSuffix(response, "0\r\n\r\n") || !strings.HasSuffix(strings.TrimRight(response, "\r\n"), "half") {
			t.Errorf("response to %s = %q, want one that is visibly incomplete", name, response)
		}
	}
	if response := f.exchange(responding("cors")); strings.Contains(response, "Access-Control") || strings.Contains(response, "Set-Cookie") || strings.Contains(response, "Strict-Transport") {
		t.Errorf("response = %q, want no field that concerns the API's origin", response)
	}
	if response := f.exchange(responding("trailers")); !strings.HasSuffix(response, "0\r\nX-Sum: 42\r\n\r\n") {
		t.Errorf("response = %q, want its trailer", response)
	}
}
