package deploy

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// loadCompose reads a compose file as docker compose does, from the repository or a copy
// of it.
func loadCompose(t *testing.T, dir, file string, environ ...string) *types.Project {
	t.Helper()
	files := []string{filepath.Join(dir, file)}
	// An override file in the repository itself belongs to the developer.
	if override := filepath.Join(dir, "compose.override.yaml"); dir != repository() && exists(override) {
		files = append(files, override)
	}
	options, err := cli.NewProjectOptions(files,
		cli.WithWorkingDirectory(dir), cli.WithEnv(environ), cli.WithInterpolation(true), cli.WithResolvedPaths(true), cli.WithDefaultProfiles())
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// simulatorEnvironment reads deploy/compose/simulator.env.
func simulatorEnvironment(t *testing.T) []string {
	t.Helper()
	var environ []string
	for line := range strings.Lines(read(t, repository("deploy", "compose", "simulator.env"))) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			environ = append(environ, line)
		}
	}
	return environ
}

func TestComposeFiles(t *testing.T) {
	for file, proxies := range map[string][]string{
		"compose.yaml":          {"proxy"},
		"compose.postgres.yaml": {"proxy-1", "proxy-2"},
	} {
		t.Run(file, func(t *testing.T) {
			project := loadCompose(t, repository(), file, "PLEO_OAUTH_CLIENT_ID=my-client")
			for _, name := range proxies {
				checkProxyService(t, project, name)
			}
			app := project.Services["app"]
			if len(app.Environment) != 1 || *app.Environment["PLEO_BASE_URL"] != "http://proxy:8484/@acme" {
				t.Errorf("the application's environment is %v, want only its base URL", app.Environment)
			}
			for _, name := range proxies {
				if d := app.DependsOn[name]; d.Condition != types.ServiceConditionHealthy {
					t.Errorf("the application waits for %s to be %q, want healthy", name, d.Condition)
				}
			}
			if _, there := project.Services["simulator"]; there {
				t.Error("the simulator starts without its profile")
			}
		})
	}
}

// checkProxyService checks the settings that protect connections and restrict access.
func checkProxyService(t *testing.T, project *types.Project, name string) {
	t.Helper()
	s, err := project.GetService(name)
	if err != nil {
		t.Fatal(err)
	}
	if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) != grace {
		t.Errorf("stop_grace_period of %s = %v, want %v", name, s.StopGracePeriod, grace)
	}
	if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
		t.Errorf("%s can write to its image, or has privileges", name)
	}
	if s.Logging == nil || s.Logging.Driver != "local" {
		t.Errorf("logs of %s go to %+v, want local, which limits their size", name, s.Logging)
	}
	if len(s.Ports) > 0 {
		t.Errorf("%s publishes ports", name)
	}
	for _, v := range s.Volumes {
		if v.Type != types.VolumeTypeVolume || project.Volumes[v.Source].Name == "" {
			t.Errorf("%s mounts %s from %s %q, want a named volume", name, v.Target, v.Type, v.Source)
		}
	}
	pleo := project.Networks["pleo"]
	if !pleo.Internal || pleo.Ipam.Config[0].IPRange != *s.Environment["PLEO_PROXY_CLIENT_NETWORKS"] {
		t.Errorf("the network pleo is %+v, and the client networks are %s", pleo, *s.Environment["PLEO_PROXY_CLIENT_NETWORKS"])
	}
	checkGatewayIsNoClient(t, pleo.Ipam.Config[0])
	for other, service := range project.Services {
		if _, joined := service.Networks["pleo"]; joined && other != "app" && !strings.HasPrefix(other, "proxy") {
			t.Errorf("%s is in the network pleo too", other)
		}
	}
}

// checkGatewayIsNoClient checks that the address of the gateway is not in the range for
// clients: every program of the host has that address.
func checkGatewayIsNoClient(t *testing.T, pool *types.IPAMPool) {
	t.Helper()
	subnet, err1 := netip.ParsePrefix(pool.Subnet)
	clients, err2 := netip.ParsePrefix(pool.IPRange)
	gateway, err3 := netip.ParseAddr(pool.Gateway)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	if !subnet.Contains(gateway) || !subnet.Contains(clients.Addr()) || clients.Bits() <= subnet.Bits() || clients.Contains(gateway) {
		t.Errorf("in %v the host has %v and containers have %v", subnet, gateway, clients)
	}
}

func TestComposeNeedsAClient(t *testing.T) {
	options, err := cli.NewProjectOptions([]string{repository("compose.yaml")}, cli.WithWorkingDirectory(repository()), cli.WithInterpolation(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := options.LoadProject(t.Context()); err == nil || !strings.Contains(err.Error(), "is the id of your OAuth client at Pleo") {
		t.Errorf("without PLEO_OAUTH_CLIENT_ID: %v, want an explanation", err)
	}
}

// service creates the container of one of our services, with its volumes and secrets.
// Volumes with the same name are the same directory.
func service(t *testing.T, project *types.Project, name, img string, volumes map[string]string) *container {
	t.Helper()
	s, err := project.GetService(name)
	if err != nil {
		t.Fatal(err)
	}
	c := newContainer(t, name, loadImage(t, img))
	c.args = s.Command
	for key, value := range s.Environment {
		c.env[key] = *value
	}
	for _, v := range s.Volumes {
		if v.Type == types.VolumeTypeBind {
			c.mounts = append(c.mounts, mount{source: v.Source, target: v.Target, readOnly: v.ReadOnly})
			continue
		}
		// A new volume inherits the owner and mode of the directory in the image.
		if dir, there := volumes[v.Source]; there {
			c.mounts = append(c.mounts, mount{source: dir, target: v.Target, readOnly: v.ReadOnly})
			continue
		}
		volumes[v.Source] = c.volume(t, v.Target)
	}
	for _, secret := range s.Secrets {
		c.mounts = append(c.mounts, mount{source: project.Secrets[secret.Source].File, target: "/run/secrets/" + secret.Source, readOnly: true})
	}
	for _, dir := range s.Tmpfs {
		tmp := t.TempDir()
		if err := os.Chmod(tmp, 0o777); err != nil {
			t.Fatal(err)
		}
		c.mounts = append(c.mounts, mount{source: tmp, target: dir})
	}
	return c
}

// isHealthy runs the image's health check.
func (c *container) isHealthy(t *testing.T) func() error {
	return func() error {
		out, err := c.exec(t, "", c.config.Healthcheck.Test[1:]...)
		if err != nil {
			return errors.New(out)
		}
		return nil
	}
}

// startLegacyApp runs the application of the compose file, without its image, on this
// machine, where the proxy has the host name that the network gives it.
func startLegacyApp(t *testing.T, project *types.Project) *buffer {
	t.Helper()
	app := project.Services["app"]
	script := app.Volumes[0].Source
	if !slices.Equal(app.Command, []string{"sh", "/app/legacy-app.sh"}) || app.Volumes[0].Target != app.Command[1] {
		t.Fatalf("the application runs %q with %v", app.Command, app.Volumes)
	}
	hosts := write(t, filepath.Join(t.TempDir(), "hosts"), "127.0.0.1 localhost\n"+proxyHosts)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private", "sh", "-euc",
		`mount --bind "$1" /etc/hosts; exec sh "$2"`, "sh", hosts, script)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "PLEO_BASE_URL=" + *app.Environment["PLEO_BASE_URL"], "PLEO_INTERVAL=0.2"}
	log := &buffer{}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	return log
}

// The addresses of the proxy in its networks.
const (
	proxyAddress   = "172.30.84.9"
	machineAddress = "172.30.84.1"
	outsideAddress = "172.31.0.2" // in the network that leads to Pleo
	proxyHosts     = proxyAddress + " proxy\n"
)

// TestLegacyApplication runs the services of compose.yaml with the profile simulator: with
// the commands, environments, volumes and secrets of the file, in the order of its
// conditions.
func TestLegacyApplication(t *testing.T) {
	addAddress(t, proxyAddress+"/28")
	addAddress(t, machineAddress+"/32")
	addAddress(t, outsideAddress+"/32")
	project := loadCompose(t, repository(), "compose.yaml", simulatorEnvironment(t)...)
	volumes := map[string]string{}
	proxy := service(t, project, "proxy", "pleo-auth-proxy", volumes)
	proxy.start(t)
	service(t, project, "simulator", "pleo-sim", volumes).start(t)
	proxy.await(t, proxy.isHealthy(t))
	awaitPort(t, "127.0.0.1:8490")

	if out, err := proxy.exec(t, read(t, repository("deploy", "compose", "simulator-key")),
		"/pleo-auth-proxy", "connections", "add", "acme", "--kind", "standalone_key", "--key-file", "-"); err != nil {
		t.Fatalf("adding the connection: %v %s", err, out)
	}
	log := startLegacyApp(t, project)
	proxy.await(t, func() error {
		if !strings.Contains(log.String(), "email") {
			return errors.New("the application has printed " + log.String())
		}
		return nil
	})
	for who, address := range map[string]string{"another program": outsideAddress, "a program on the host": machineAddress} {
		status, body, err := get("http://"+address+":8484/v2/employees", "Pleo-Connection", "acme")
		if err != nil || status != http.StatusForbidden {
			t.Errorf("%s gets %d %s %v, want 403", who, status, body, err)
		}
	}
	if code := proxy.stop(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if _, err := os.Stat(filepath.Join(volumes["store"], "keyset.json")); err == nil {
		t.Error("the keyset is in the same directory as the store")
	}
	// As docker compose does after an upgrade: a new container, the same volumes.
	again := service(t, project, "proxy", "pleo-auth-proxy", volumes)
	again.start(t)
	again.await(t, again.isHealthy(t))
	if status, body, err := get("http://" + proxyAddress + ":8484/@acme/v2/employees"); err != nil || status != http.StatusOK {
		t.Errorf("after the upgrade: %d %s %v, want 200", status, body, err)
	}
}

// TestComposeOverride applies the override file of docs/compose.md: the new ports can be
// reached from the host only, and reading the dashboard requires the token.
func TestComposeOverride(t *testing.T) {
	addAddress(t, proxyAddress+"/28")
	block := regexp.MustCompile("(?ms)^```yaml compose.override.yaml\n(.*?)^```$").FindStringSubmatch(read(t, repository("docs", "compose.md")))
	if block == nil {
		t.Fatal("docs/compose.md shows no compose.override.yaml")
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "compose.yaml"), read(t, repository("compose.yaml")))
	write(t, filepath.Join(dir, "compose.override.yaml"), block[1])
	for name, text := range map[string]string{"pleo-client-secret": simulatedSecret, "pleo-admin-token": "a token for operators, long enough"} {
		write(t, filepath.Join(dir, "secrets", name), text)
	}
	project := loadCompose(t, dir, "compose.yaml", "PLEO_OAUTH_CLIENT_ID=my-client")
	for _, port := range project.Services["proxy"].Ports {
		if port.HostIP != "127.0.0.1" {
			t.Errorf("port %d is published at %q, want 127.0.0.1", port.Target, port.HostIP)
		}
	}
	proxy := service(t, project, "proxy", "pleo-auth-proxy", map[string]string{})
	proxy.start(t)
	proxy.await(t, proxy.isHealthy(t))
	for token, want := range map[string]int{"another": http.StatusUnauthorized, "a token for operators, long enough": http.StatusOK} {
		status, body, err := get("http://"+proxyAddress+":8485/api/v1/connections", "Authorization", "Bearer "+token)
		if err != nil || status != want {
			t.Errorf("with the token %q the dashboard responds with %d %s %v, want %d", token, status, body, err, want)
		}
	}
	if status, body, err := get("http://"+proxyAddress+":8486/", "Host", "connect.example.com"); err != nil || !strings.Contains(body, "Pleo") {
		t.Errorf("the pages respond with %d %s %v, want a page", status, body, err)
	}
}

// postgresBin returns the directory of the newest PostgreSQL in Debian's layout.
func postgresBin(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		missing(t, "PostgreSQL is not installed")
	}
	return found[len(found)-1]
}

// startPostgres runs the database of the compose file on this machine, with its user,
// database and password.
func startPostgres(t *testing.T, project *types.Project, address string) {
	t.Helper()
	bin, s := postgresBin(t), project.Services["postgres"]
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	as := func(name string, args ...string) []string {
		return append([]string{"-u", "postgres", "--", filepath.Join(bin, name)}, args...)
	}
	data := filepath.Join(dir, "data")
	output(t, "runuser", as("initdb", "--pgdata", data, "--username", *s.Environment["POSTGRES_USER"], "--no-sync",
		"--auth", "scram-sha-256", "--pwfile", project.Secrets["store-password"].File)...)
	// As in the image: access from every address with the password.
	rules := filepath.Join(data, "pg_hba.conf")
	if err := os.WriteFile(rules, []byte("host all all all scram-sha-256\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, "runuser", as("pg_ctl", "--pgdata", data, "--wait", "--log", filepath.Join(dir, "log"), "--options",
		"-c listen_addresses="+address+" -c unix_socket_directories="+dir+" -c fsync=off", "start")...)
	t.Cleanup(func() { output(t, "runuser", as("pg_ctl", "--pgdata", data, "--mode", "immediate", "stop")...) })
	password := strings.TrimSpace(read(t, project.Secrets["store-password"].File))
	cmd := exec.Command(filepath.Join(bin, "createdb"), "--host", address, "--username", *s.Environment["POSTGRES_USER"], *s.Environment["POSTGRES_DB"])
	cmd.Env = append(os.Environ(), "PGPASSWORD="+password)
	// The image creates this database, unless it has the name of the user.
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("creating the database: %v %s", err, out)
	}
}

// TestTwoReplicasShareConnections runs the services of compose.postgres.yaml: both replicas
// see the same connections, and one serves requests while the other is replaced.
func TestTwoReplicasShareConnections(t *testing.T) {
	const postgresAddress = "172.31.1.9"
	replicas := map[string]string{"proxy-1": "172.30.84.10", "proxy-2": "172.30.84.11"}
	addAddress(t, postgresAddress+"/32")
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "deploy", "compose"), os.DirFS(repository("deploy", "compose"))); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "compose.postgres.yaml"), read(t, repository("compose.postgres.yaml")))
	write(t, filepath.Join(dir, "secrets", "store-password"), "a password")
	write(t, filepath.Join(dir, "secrets", "store-dsn"), "postgres://pleo:a%20password@postgres/pleo")
	for at := dir; at != "/tmp"; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil { // for PostgreSQL's user
			t.Fatal(err)
		}
	}
	project := loadCompose(t, dir, "compose.postgres.yaml", simulatorEnvironment(t)...)
	volumes := map[string]string{}

	startPostgres(t, project, postgresAddress)
	simulatorFor(t, project)
	running := map[string]*container{}
	if on := project.Services["proxy-2"].DependsOn["proxy-1"]; on.Condition != types.ServiceConditionHealthy {
		t.Fatalf("proxy-2 waits for proxy-1 to be %q, want healthy: it creates the keyset", on.Condition)
	}
	for _, name := range []string{"proxy-1", "proxy-2"} {
		address := replicas[name]
		addAddress(t, address+"/28")
		c := service(t, project, name, "pleo-auth-proxy", volumes)
		c.hosts = postgresAddress + " postgres\n"
		// In compose the replicas have separate networks, here separate addresses.
		c.env["PLEO_PROXY_LISTEN"] = address + ":8484"
		c.env["PLEO_ADMIN_LISTEN"] = strings.Replace(address, "172.30.84", "127.0.0", 1) + ":8485"
		c.start(t)
		c.await(t, c.isHealthy(t))
		running[name] = c
	}
	if out, err := running["proxy-1"].exec(t, read(t, repository("deploy", "compose", "simulator-key")),
		"/pleo-auth-proxy", "connections", "add", "acme", "--kind", "standalone_key", "--key-file", "-"); err != nil {
		t.Fatalf("adding the connection: %v %s", err, out)
	}
	served := func(name string) func() error {
		return healthy("http://" + replicas[name] + ":8484/@acme/v2/employees")
	}
	running["proxy-1"].await(t, served("proxy-1"))
	running["proxy-2"].await(t, served("proxy-2"))
	if code := running["proxy-1"].stop(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	running["proxy-2"].await(t, served("proxy-2"))
}

// simulatorFor runs the simulator of a compose file.
func simulatorFor(t *testing.T, project *types.Project) {
	t.Helper()
	service(t, project, "simulator-1", "pleo-sim", map[string]string{}).start(t)
	awaitPort(t, "127.0.0.1:8490")
}
