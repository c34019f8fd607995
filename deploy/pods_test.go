package deploy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// The public client of the simulator, and a key that the tests add to it.
const (
	simulatedSecret = "sim+client/secret%3A:42"
	simulatedKey    = "pls_0123456789abcdef_620d75"
)

// The host names in the certificates of the pages and of the proxy.
const (
	pagesHost   = "connect.example.com"
	serviceHost = "pleo-pleo-auth-proxy"
)

// kept is the content of the Secrets and ConfigMaps of the setups: name → key → text.
func kept(t *testing.T) map[string]map[string]string {
	t.Helper()
	keyset := filepath.Join(t.TempDir(), "keyset.json")
	cmd := exec.Command(tool(t, "pleo-auth-proxy"), "keyset", "create")
	cmd.Env = append(os.Environ(), "PLEO_ENVIRONMENT=production", "PLEO_DATA_DIR="+filepath.Dir(keyset))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("creating a keyset: %v %s", err, out)
	}
	return map[string]map[string]string{
		"pleo-client":  {"client-secret": simulatedSecret, "previous-client-secret": "the one before"},
		"pleo-keyset":  {"keyset.json": read(t, keyset)},
		"pleo-keys":    {"acme": simulatedKey, "globex": simulatedKey},
		"pleo-clients": {"erp": "a token for the ERP"},
		"pleo-store":   {"dsn": "postgres://pleo:secret@postgres/pleo"},
		"pleo-admin":   {"admin-token": "a token for operators, long enough"},

		"pleo-forward-proxy": {"proxy-url": "http://pleo:secret@proxy.example.com:3128"},

		"pleo-webhook":   {"webhook": "bm8gbW9yZSB0aGFuIHR3ZW50eS1mb3VyIGJ5dGVzISE="},
		"connect-tls":    tlsSecret(t, pagesHost),
		"pleo-proxy-tls": tlsSecret(t, serviceHost),
		"authorities":    {"ca.crt": tlsSecret(t, "ca.example.com")["tls.crt"]},
		"pleo-logo":      {"logo.svg": `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>`},
	}
}

// tlsSecret returns the content of a Secret of type kubernetes.io/tls: a certificate for a
// host name, and its key.
func tlsSecret(t *testing.T, name string) map[string]string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"tls.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})),
		"tls.key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
	}
}

// startable creates the container of the proxy in a pod, with its volumes as a node
// prepares them.
func startable(t *testing.T, objects map[string]any, secrets map[string]map[string]string) *container {
	t.Helper()
	pod := podOf(t, objects)
	spec := proxyOf(t, pod)
	c := newContainer(t, spec.Name, loadImage(t, "pleo-auth-proxy"))
	c.args = spec.Args
	for _, e := range spec.Env {
		from := e.ValueFrom.SecretKeyRef
		text, ok := secrets[from.Name][from.Key]
		if !ok {
			t.Fatalf("%s is %s of %s, which the docs do not mention", e.Name, from.Key, from.Name)
		}
		c.env[e.Name] = text
	}
	dirs := map[string]string{}
	for _, v := range pod.Volumes {
		dirs[v.Name] = layOut(t, v, objects, secrets)
	}
	for _, m := range spec.VolumeMounts {
		c.mounts = append(c.mounts, mount{source: dirs[m.Name], target: m.MountPath, readOnly: m.ReadOnly})
	}
	return c
}

// layOut creates the directory of a volume. With fsGroup, the group may read read-only
// volumes and owns writable ones.
func layOut(t *testing.T, v corev1.Volume, objects map[string]any, secrets map[string]map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	// The application's user needs access to the directory above for the socket.
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(path, text string, mode os.FileMode) {
		path = write(t, filepath.Join(dir, path), text)
		if err := errors.Join(os.Chown(path, 0, 65532), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	switch {
	case v.ConfigMap != nil:
		for name, text := range objects["ConfigMap"].(*corev1.ConfigMap).Data {
			put(name, text, 0o644)
		}
	case v.Projected != nil:
		for _, source := range v.Projected.Sources {
			name, items := sourceOf(source)
			for _, item := range items {
				text, ok := secrets[name][item.Key]
				if !ok {
					t.Fatalf("%s with the key %s is mounted, which the docs do not mention", name, item.Key)
				}
				put(item.Path, text, os.FileMode(*v.Projected.DefaultMode))
			}
		}
	case v.EmptyDir != nil, v.PersistentVolumeClaim != nil:
		if err := errors.Join(os.Chown(dir, 0, 65532), os.Chmod(dir, 0o770|os.ModeSetgid)); err != nil {
			t.Fatal(err)
		}
		return dir
	default:
		t.Fatalf("volume %s has a type that the tests do not support", v.Name)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sourceOf returns the name of the Secret or ConfigMap of a source, and its items.
func sourceOf(source corev1.VolumeProjection) (string, []corev1.KeyToPath) {
	if source.ConfigMap != nil {
		return source.ConfigMap.Name, source.ConfigMap.Items
	}
	return source.Secret.Name, source.Secret.Items
}

// TestConfigurationsAreValid runs config validate in the container for every setup, with
// every file that its configuration names.
func TestConfigurationsAreValid(t *testing.T) {
	secrets := kept(t)
	for _, s := range setups() {
		t.Run(s.name, func(t *testing.T) {
			c := startable(t, decode(t, s.render(t)), secrets)
			if out, err := c.exec(t, "", "/pleo-auth-proxy", "config", "validate"); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// simulated makes a setup use the simulator, and changes nothing else.
func (c *container) simulated() {
	c.env["PLEO_ENVIRONMENT"] = "custom"
	c.env["PLEO_UPSTREAM_API_URL"] = simulatorURL
	c.env["PLEO_UPSTREAM_AUTH_URL"] = simulatorURL
}

// simulatorWithKey starts the simulator with a key for the company Acme.
func simulatorWithKey(t *testing.T) {
	t.Helper()
	startSimulator(t, "--settings", write(t, filepath.Join(t.TempDir(), "sim.json"), `{
	  "companies": [{"name": "Acme ApS", "employees": 5}],
	  "keys": [{"kind": "standalone_key", "company": "Acme ApS", "key": "`+simulatedKey+`"}]
	}`))
}

// probe sends a probe as the kubelet does, to the container's port with that name.
func probe(t *testing.T, c corev1.Container, p *corev1.Probe) func() error {
	t.Helper()
	for _, port := range c.Ports {
		if port.Name == p.HTTPGet.Port.StrVal {
			return healthy(fmt.Sprintf("http://127.0.0.1:%d%s", port.ContainerPort, p.HTTPGet.Path))
		}
	}
	t.Fatalf("no port has the name %s", p.HTTPGet.Port.StrVal)
	return nil
}

// TestSidecarServesAnApplication runs pods as a node does: the proxy first, and when its
// startup probe succeeds, the application, which uses the base URL of the manifest without
// credentials.
func TestSidecarServesAnApplication(t *testing.T) {
	for _, name := range []string{"sidecar-keys", "sidecar-socket", "sidecar-sqlite", "plain-sidecar"} {
		t.Run(name, func(t *testing.T) {
			simulatorWithKey(t)
			objects := decode(t, setupNamed(t, name).render(t))
			pod := podOf(t, objects)
			proxy := proxyOf(t, pod)
			c := startable(t, objects, kept(t))
			c.simulated()
			c.start(t)
			c.await(t, probe(t, proxy, proxy.StartupProbe))
			if strings.Contains(objects["ConfigMap"].(*corev1.ConfigMap).Data["config.yaml"], "sqlite") {
				importGrant(t, c, "acme")
			}
			base := variable(t, pod.Containers[0], "PLEO_API")
			status, body, err := askAs(pod.Containers[0], c, base+"/v2/employees?limit=2")
			if err != nil || status != http.StatusOK || !strings.Contains(body, "email") {
				t.Errorf("the application gets %d %s %v, want employees", status, body, err)
			}
			if code := c.stop(t); code != 0 {
				t.Errorf("the proxy exits with %d, want 0", code)
			}
		})
	}
}

func setupNamed(t *testing.T, name string) setup {
	t.Helper()
	for _, s := range setups() {
		if s.name == name {
			return s
		}
	}
	t.Fatalf("there is no setup %s", name)
	return setup{}
}

func variable(t *testing.T, c corev1.Container, name string) string {
	t.Helper()
	for _, e := range c.Env {
		if e.Name == name {
			return e.Value
		}
	}
	t.Fatalf("container %s has no environment variable %s", c.Name, name)
	return ""
}

// importGrant imports a grant of the simulator, as docs/kubernetes.md does with kubectl
// exec.
func importGrant(t *testing.T, c *container, name string) {
	t.Helper()
	importGrantBy(t, c, "/pleo-auth-proxy", name)
}

func importGrantBy(t *testing.T, c *container, program, name string) {
	t.Helper()
	resp, err := http.Post(simulatorURL+"/_control/grants", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var grant struct {
		RefreshToken string `json:"refresh_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&grant); err != nil {
		t.Fatal(err)
	}
	line := fmt.Sprintf(`{"name":%q,"kind":"oauth","refresh_token":%q}`, name, grant.RefreshToken)
	if out, err := c.exec(t, line+"\n", program, "connections", "import", "-"); err != nil {
		t.Fatalf("importing: %v %s", err, out)
	}
}

// askAs sends a request as the application's container would: through the shared socket if
// the pod mounts one, else over loopback, as the user of that container.
func askAs(app corev1.Container, c *container, url string) (int, string, error) {
	args := []string{"--silent", "--show-error", "--noproxy", "*", "--write-out", "\n%{http_code}", url}
	for _, m := range app.VolumeMounts {
		if m.Name != "pleo-socket" {
			continue
		}
		for _, shared := range c.mounts {
			if shared.target == m.MountPath {
				args = append(args, "--unix-socket", filepath.Join(shared.source, "proxy.sock"))
			}
		}
	}
	user := []string{"--reuid", "10001", "--regid", "10001", "--groups", "65532", "curl"}
	out, err := exec.Command("setpriv", append(user, args...)...).Output()
	if err != nil {
		return 0, problems(err), err
	}
	end := strings.LastIndexByte(string(out), '\n')
	status := 0
	_, err = fmt.Sscan(string(out[end+1:]), &status)
	return status, string(out[:end]), err
}

// TestJobEnds runs the plain Job: its container ends, then the proxy gets SIGTERM and ends
// at once with exit code 0.
func TestJobEnds(t *testing.T) {
	simulatorWithKey(t)
	objects := decode(t, setupNamed(t, "plain-job").render(t))
	pod := podOf(t, objects)
	c := startable(t, objects, kept(t))
	c.simulated()
	c.start(t)
	c.await(t, probe(t, proxyOf(t, pod), proxyOf(t, pod).StartupProbe))
	job := pod.Containers[0]
	var args []string
	for _, a := range job.Command {
		args = append(args, strings.ReplaceAll(a, "$(PLEO_API)", variable(t, job, "PLEO_API")))
	}
	if out := output(t, args[0], args[1:]...); !strings.Contains(out, "email") {
		t.Errorf("the job printed %s, want employees", out)
	}
	if code := c.stop(t); code != 0 {
		t.Errorf("the proxy exits with %d, want 0: the job would count as failed", code)
	}
}

// TestGatewayKeepsConnections runs the gateway with SQLite: only clients of its networks are
// served, and the next pod finds the connections on the claim.
func TestGatewayKeepsConnections(t *testing.T) {
	startSimulator(t)
	addAddress(t, "10.0.0.5/8")
	addAddress(t, "192.168.7.7/32")
	objects := decode(t, setupNamed(t, "gateway-sqlite").render(t))
	proxy := proxyOf(t, podOf(t, objects))
	c := startable(t, objects, kept(t))
	c.simulated()
	for pod := range 2 {
		c.start(t)
		c.await(t, probe(t, proxy, proxy.ReadinessProbe))
		if pod == 0 {
			importGrant(t, c, "acme")
		}
		if status, body, err := get("http://10.0.0.5:8484/v2/employees", "Pleo-Connection", "acme"); err != nil || status != http.StatusOK {
			t.Errorf("pod %d responds to a client with %d %s %v, want 200", pod, status, body, err)
		}
		if status, body, err := get("http://192.168.7.7:8484/v2/employees", "Pleo-Connection", "acme"); err != nil || status != http.StatusForbidden {
			t.Errorf("pod %d responds to another program with %d %s %v, want 403", pod, status, body, err)
		}
		if code := c.stop(t); code != 0 {
			t.Errorf("pod %d exits with %d, want 0", pod, code)
		}
	}
}

// TestGatewayKnowsItsClients runs the gateway whose clients have tokens, and uses every host
// name that it accepts.
func TestGatewayKnowsItsClients(t *testing.T) {
	simulatorWithKey(t)
	objects := decode(t, setupNamed(t, "gateway-keys").render(t))
	proxy := proxyOf(t, podOf(t, objects))
	c := startable(t, objects, kept(t))
	c.simulated()
	c.start(t)
	c.await(t, probe(t, proxy, proxy.ReadinessProbe))
	const token = "a token for the ERP"
	for _, test := range []struct {
		host, token string
		want        int
	}{
		{"127.0.0.1:8484", token, http.StatusOK},
		{"127.0.0.1:8484", "another", http.StatusUnauthorized},
		// The host names of a Service, from short to long.
		{"pleo-pleo-auth-proxy:8484", token, http.StatusOK},
		{"pleo-pleo-auth-proxy.pleo:8484", token, http.StatusOK},
		{"pleo-pleo-auth-proxy.pleo.svc:8484", token, http.StatusOK},
		{"pleo-pleo-auth-proxy.pleo.svc.cluster.local:8484", token, http.StatusOK},
		{"pleo-pleo-auth-proxy.example:8484", token, http.StatusForbidden},
	} {
		status, body, err := get("http://127.0.0.1:8484/v2/employees", "Host", test.host, "Pleo-Connection", "acme", "Authorization", "Bearer "+test.token)
		if err != nil || status != test.want {
			t.Errorf("at %s with the token %q: %d %s %v, want %d", test.host, test.token, status, body, err, test.want)
		}
	}
}

// TestGatewayUsesFiles runs the gateway with additional files: both listeners use the
// certificates of the Secrets, the Service declares TLS, and the pages show the logo.
func TestGatewayUsesFiles(t *testing.T) {
	startSimulator(t)
	objects := decode(t, setupNamed(t, "gateway-files").render(t))
	for _, port := range objects["Service"].(*corev1.Service).Spec.Ports {
		if want := map[string]string{"proxy": "https", "connect": "https", "health": "http"}[port.Name]; *port.AppProtocol != want {
			t.Errorf("port %s of the Service has appProtocol %s, want %s", port.Name, *port.AppProtocol, want)
		}
	}
	secrets := kept(t)
	proxy := proxyOf(t, podOf(t, objects))
	c := startable(t, objects, secrets)
	c.simulated()
	delete(c.env, "PLEO_UPSTREAM_PROXY_URL") // there is none on the way to the simulator
	c.start(t)
	c.await(t, probe(t, proxy, proxy.ReadinessProbe))
	importGrant(t, c, "acme")
	for _, test := range []struct{ url, name, secret, want string }{
		{"https://127.0.0.1:8484/@acme/v2/employees", serviceHost, "pleo-proxy-tls", "email"},
		{"https://127.0.0.1:8486/", pagesHost, "connect-tls", `<header><img src="/assets/`},
	} {
		if body, err := getTLS(test.url, test.name, secrets[test.secret]["tls.crt"]); err != nil || !strings.Contains(body, test.want) {
			t.Errorf("%s: %s %v, want %s", test.url, body, err, test.want)
		}
	}
}

// getTLS sends a request as the ERP does, trusting one certificate for one host name.
func getTLS(url, name, certificate string) (string, error) {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	r.SetBasicAuth("erp", "a token for the ERP")
	r.Host = name
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM([]byte(certificate))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted, ServerName: name}, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport, Timeout: 30 * time.Second}).Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// TestKeyIsReplacedInASecret follows docs/kubernetes.md: the keyset is changed outside, the
// pod only reads it, and at the end the new key alone decrypts the store.
func TestKeyIsReplacedInASecret(t *testing.T) {
	startSimulator(t)
	addAddress(t, "10.0.0.5/8")
	objects, secrets := decode(t, setupNamed(t, "gateway-sqlite").render(t)), kept(t)
	proxy := proxyOf(t, podOf(t, objects))
	c := startable(t, objects, secrets)
	c.simulated()
	c.start(t)
	c.await(t, probe(t, proxy, proxy.ReadinessProbe))
	importGrant(t, c, "acme")

	dir := t.TempDir()
	outside := write(t, filepath.Join(dir, "keyset.json"), secrets["pleo-keyset"]["keyset.json"])
	step := func(name string) {
		cmd := exec.Command(tool(t, "pleo-auth-proxy"), "keyset", name)
		cmd.Env = append(os.Environ(), "PLEO_ENVIRONMENT=production", "PLEO_DATA_DIR="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("keyset %s outside: %v %s", name, err, out)
		}
		for _, m := range c.mounts {
			if m.target == "/run/secrets/pleo-auth-proxy" {
				write(t, filepath.Join(m.source, "keyset.json"), read(t, outside))
			}
		}
	}
	step("add")
	step("promote")
	c.await(t, func() error {
		out, err := c.exec(t, "", "/pleo-auth-proxy", "keyset", "status", "--json")
		if err == nil && !strings.Contains(out, `"can_retire": true`) {
			err = errors.New("no key can be retired: " + out)
		}
		return err
	})
	step("retire")
	if code := c.stop(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	c.start(t)
	c.await(t, probe(t, proxy, proxy.ReadinessProbe))
	if status, body, err := get("http://10.0.0.5:8484/@acme/v2/employees"); err != nil || status != http.StatusOK {
		t.Errorf("with the new key only: %d %s %v, want 200", status, body, err)
	}
}
