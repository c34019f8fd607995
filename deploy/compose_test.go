package deploy

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// loadCompose reads a compose file as docker compose does, in the repository or
// a copy of it.
func loadCompose(t *testing.T, dir, file string, environ ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join(dir, file)},
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
				t.Errorf("the application's environment is %v, want its base URL alone", app.Environment)
			}
			for _, name := range proxies {
				if d := app.DependsOn[name]; d.Condition != types.ServiceConditionHealthy {
					t.Errorf("the application waits for %s to be %q, want healthy", name, d.Condition)
				}
			}
			if _, there := project.Services["simulator"]; there {
				t.Error("the simulator runs without its profile")
			}
		})
	}
}

// checkProxyService looks for what keeps connections, and keeps others out.
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
		t.Errorf("%s can write to its image, or has rights", name)
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
	if !pleo.Internal || pleo.Ipam.Config[0].Subnet != *s.Environment["PLEO_PROXY_CLIENT_NETWORKS"] {
		t.Errorf("the network pleo is %+v, and clients may come from %s", pleo, *s.Environment["PLEO_PROXY_CLIENT_NETWORKS"])
	}
	for other, service := range project.Services {
		if _, joined := service.Networks["pleo"]; joined && other != "app" && !strings.HasPrefix(other, "proxy") {
			t.Errorf("%s is in the network pleo as well", other)
		}
	}
}

func TestComposeNeedsAClient(t *testing.T) {
	options, err := cli.NewProjectOptions([]string{repository("compose.yaml")}, cli.WithWorkingDirectory(repository()), cli.WithInterpolation(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := options.LoadProject(t.Context()); err == nil || !strings.Contains(err.Error(), "is the id of your OAuth client at Pleo") {
		t.Errorf("without PLEO_OAUTH_CLIENT_ID: %v, want what it is", err)
	}
}

// service makes the container of a service of ours, with its volumes and
// secrets. Volumes of the same name are the same directory.
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
		// A new volume takes over the owner and the mode of what is below it.
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

// startLegacyApp runs the application as the compose file says, but for its
// image: on this machine, which calls the proxy by the name that the network
// gives it.
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

// The addresses that the networks give the proxy.
const (
	proxyAddress   = "172.30.84.2"
	outsideAddress = "172.31.0.2" // in the network that leads to Pleo
	proxyHosts     = proxyAddress + " proxy\n"
)

// TestLegacyApplication runs what compose.yaml runs, with the profile simulator:
// the commands, environments, volumes and secrets are those of the file, and the
// order that of its conditions.
func TestLegacyApplication(t *testing.T) {
	addAddress(t, proxyAddress+"/28")
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
	if status, body, err := get("http://"+outsideAddress+":8484/v2/employees", "Pleo-Connection", "acme"); err != nil || status != http.StatusForbidden {
		t.Errorf("a stranger is answered %d %s %v, want 403", status, body, err)
	}
	if code := proxy.stop(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if _, err := os.Stat(filepath.Join(volumes["store"], "keyset.json")); err == nil {
		t.Error("the keyset lies beside the store")
	}
	// What docker compose does after an upgrade: a new container, the same volumes.
	again := service(t, project, "proxy", "pleo-auth-proxy", volumes)
	again.start(t)
	again.await(t, again.isHealthy(t))
	if status, body, err := get("http://" + proxyAddress + ":8484/@acme/v2/employees"); err != nil || status != http.StatusOK {
		t.Errorf("after the upgrade: %d %s %v, want 200", status, body, err)
	}
}
