package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/freeport"
)

// subject is what is measured: a proxy, or none.
type subject struct {
	name   string
	target target // for many requests on a connection
	fresh  target // for one request on a connection
	cmd    *exec.Cmd
}

func (s *subject) running() bool { return s.cmd != nil }

// The names of the subjects in the table.
const (
	proxySubject        = "pleo-auth-proxy"
	reverseProxySubject = "bare ReverseProxy"
	nginxSubject        = "nginx"
	directSubject       = "no proxy"
)

// testbed is the upstream with all subjects in front of it.
type testbed struct {
	dir      string
	upstream *exec.Cmd
	subjects []*subject
}

// assemble starts everything.
func assemble(ctx context.Context, p plan) (_ *testbed, err error) {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, fmt.Errorf("creating a directory: %w", err)
	}
	f := &testbed{dir: dir}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	roots, err := writeCertificate(dir)
	if err != nil {
		return nil, err
	}
	var api string
	if f.upstream, api, err = startRole(ctx, "upstream", f.path("cert.pem"), f.path("key.pem")); err != nil {
		return nil, err
	}
	for _, start := range []func(context.Context, plan, string) (*subject, error){f.startProxy, f.startReverseProxy, f.startNginx} {
		s, err := start(ctx, p, api)
		if err != nil {
			return nil, err
		}
		f.subjects = append(f.subjects, s)
	}
	secure := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
	f.subjects = append(f.subjects, &subject{
		name:   directSubject,
		target: target{api, secure, request(api, "Authorization: "+credential+"\r\n")},
		fresh:  target{api, secure, request(api, "Authorization: "+credential+"\r\nConnection: close\r\n")},
	})
	return f, nil
}

// credential is the credential that every proxy adds to a request.
const (
	apiKey     = "benchmark"
	credential = "Basic YmVuY2htYXJrOg=="
)

func request(host, fields string) []byte {
	return []byte("GET /v1/expenses?limit=10 HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: bench\r\nAccept: application/json\r\n" + fields + "\r\n")
}

func (f *testbed) path(name string) string { return filepath.Join(f.dir, name) }

// proxied returns a subject that listens without TLS.
func proxied(name, address string, cmd *exec.Cmd) *subject {
	const selector = "Pleo-Connection: acme\r\n"
	return &subject{
		name: name, cmd: cmd,
		target: target{address: address, request: request("localhost", selector)},
		fresh:  target{address: address, request: request("localhost", selector+"Connection: close\r\n")},
	}
}

// close stops all processes and waits until they exit.
func (f *testbed) close() {
	for _, s := range f.subjects {
		stop(s.cmd)
	}
	stop(f.upstream)
	_ = os.RemoveAll(f.dir) // a temporary directory
}

func stop(cmd *exec.Cmd) {
	if cmd == nil || cmd.Process == nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGTERM) // it may have exited
	_ = cmd.Wait()                          // any exit code will do
}

// start starts a program and returns the first line of its output. Its log goes to the
// file.
func start(ctx context.Context, log *os.File, name string, args ...string) (*exec.Cmd, string, error) {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // the user chooses the program
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", fmt.Errorf("starting %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, "", fmt.Errorf("starting %s: %w", name, err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop(cmd)
		return nil, "", fmt.Errorf("waiting for %s: %w", name, err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }() // returns when the program exits
	return cmd, strings.TrimSpace(line), nil
}

// startRole starts this program as a server, which prints its address.
func startRole(ctx context.Context, role string, args ...string) (*exec.Cmd, string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", fmt.Errorf("finding the path of this program: %w", err)
	}
	return start(ctx, os.Stderr, self, append([]string{role}, args...)...)
}

func (f *testbed) startReverseProxy(ctx context.Context, _ plan, api string) (*subject, error) {
	cmd, address, err := startRole(ctx, "reverseproxy", "https://"+api, f.path("cert.pem"))
	if err != nil {
		return nil, err
	}
	return proxied(reverseProxySubject, address, cmd), nil
}

// startProxy starts the program with everything that users have: host checks, access log,
// metrics and replay.
func (f *testbed) startProxy(ctx context.Context, p plan, api string) (*subject, error) {
	config := fmt.Sprintf(`environment: custom
data_dir: %q
upstream: {api_url: "https://%s", auth_url: "https://%s", ca_file: %q}
proxy: {listen: "127.0.0.1:0"}
admin: {listen: off}
`, f.path("data"), api, api, f.path("cert.pem"))
	path := f.path("config.yaml")
	line := fmt.Sprintf(`{"name":"acme","kind":"standalone_key","api_key":%q}`, apiKey)
	if err := errors.Join(os.WriteFile(path, []byte(config), 0o600), os.WriteFile(f.path("import.jsonl"), []byte(line), 0o600)); err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	add := exec.CommandContext(ctx, p.program, "connections", "import", "--offline", f.path("import.jsonl"), "--config", path) //nolint:gosec // the user chooses the program
	if out, err := add.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("importing a connection: %w: %s", err, out)
	}
	log, err := os.Create(f.path("ours.log"))
	if err != nil {
		return nil, fmt.Errorf("creating the log: %w", err)
	}
	defer func() { _ = log.Close() }() // the program has its own handle
	cmd, ready, err := start(ctx, log, p.program, "serve", "--json", "--config", path)
	if err != nil {
		return nil, err
	}
	var addresses map[string]string
	if err := json.Unmarshal([]byte(ready), &addresses); err != nil {
		stop(cmd)
		return nil, fmt.Errorf("reading the address of %s: %w", proxySubject, err)
	}
	return proxied(proxySubject, addresses["proxy"], cmd), nil
}

// startNginx starts nginx with a static header and a similar access log.
func (f *testbed) startNginx(ctx context.Context, p plan, api string) (*subject, error) {
	address, err := freeport.Address()
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(nginxConfig, f.dir, api, address, credential, api, f.path("cert.pem"))
	path := f.path("nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	cmd := exec.CommandContext(ctx, "nginx", "-p", f.dir, "-c", path, "-e", f.path("error.log"), "-g", "daemon off;") //nolint:gosec // a temporary directory
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting nginx: %w", err)
	}
	if err := waitForListener(ctx, address); err != nil {
		stop(cmd)
		return nil, fmt.Errorf("waiting for nginx: %w", err)
	}
	return proxied(nginxSubject, address, cmd), nil
}

// nginxConfig is formatted with directory, upstream, address, credential, host and CA file.
const nginxConfig = `worker_processes auto;
pid %[1]s/nginx.pid;
events { worker_connections 1024; }
http {
  access_log %[1]s/access.log;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  keepalive_requests 1000000;
  upstream api { server %[2]s; keepalive 64; keepalive_requests 1000000; }
  server {
    listen %[3]s reuseport;
    location / {
      proxy_pass https://api;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "%[4]s";
      proxy_set_header Host %[5]s;
      proxy_ssl_verify on;
      proxy_ssl_name 127.0.0.1;
      proxy_ssl_trusted_certificate %[6]s;
    }
  }
}
`

// waitForListener waits until the address accepts connections.
func waitForListener(ctx context.Context, address string) error {
	for range 100 {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			return c.Close()
		}
		waitFor(time.Now().Add(50 * time.Millisecond))
	}
	return errors.New("timeout while waiting for a listener")
}

// clockTicksPerSecond is the unit of CPU times in /proc (USER_HZ on all platforms of Go).
const clockTicksPerSecond = 100

// cpuTime returns the CPU time that the subject and its children have used.
func (s *subject) cpuTime() (time.Duration, error) {
	if !s.running() {
		return 0, nil
	}
	processes, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, fmt.Errorf("listing processes: %w", err)
	}
	var total time.Duration
	for _, path := range processes {
		raw, err := os.ReadFile(path) //nolint:gosec // a path of /proc
		if err != nil {
			continue // it has exited
		}
		st, err := parseStat(string(raw))
		if err != nil {
			return 0, err
		}
		if st.pid == s.cmd.Process.Pid || st.parent == s.cmd.Process.Pid {
			total += st.cpu
		}
	}
	return total, nil
}

// stat is the entry of a process in /proc.
type stat struct {
	pid, parent int
	cpu         time.Duration
}

// parseStat parses /proc/PID/stat (proc(5)). The name may contain any character, and ends
// at the last parenthesis.
func parseStat(raw string) (stat, error) {
	end := strings.LastIndexByte(raw, ')')
	first, _, _ := strings.Cut(raw, " ")
	fields := strings.Fields(raw[end+1:])
	if end < 0 || len(fields) < 13 {
		return stat{}, errors.New("reading /proc: too few fields")
	}
	var numbers [4]int
	for i, text := range []string{first, fields[1], fields[11], fields[12]} {
		n, err := strconv.Atoi(text)
		if err != nil {
			return stat{}, fmt.Errorf("reading /proc: %w", err)
		}
		numbers[i] = n
	}
	return stat{numbers[0], numbers[1], time.Duration(numbers[2]+numbers[3]) * time.Second / clockTicksPerSecond}, nil
}

// readRoots returns the CA certificates in a file.
func readRoots(path string) (*x509.CertPool, error) {
	raw, err := os.ReadFile(path) //nolint:gosec // its caller names the file
	if err != nil {
		return nil, fmt.Errorf("reading CA certificates: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, errors.New("reading CA certificates: found none")
	}
	return pool, nil
}
