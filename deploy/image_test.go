package deploy

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	digest "github.com/opencontainers/go-digest"
)

func architecture() string { return runtime.GOARCH }

// noRegistry stands in for a registry, which the tests cannot reach.
type noRegistry struct{}

func (noRegistry) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	return ref, "", []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:` + strings.Repeat("0", 64) + `"]}}`), nil
}

// TestDockerfileIsClean runs BuildKit's linter on the Dockerfile, with all rules.
func TestDockerfileIsClean(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{"ours", read(t, repository("Dockerfile")), nil},
		{"one with a mistake", "FROM scratch as x\nCMD true\n", []string{"FromAsCasing", "JSONArgsRecommended"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			// Experimental rules are enabled by a directive in the file.
			text := []byte("# check=experimental=all\n" + test.text)
			source := llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", text)
			source.Definition = &llb.Definition{}
			results, err := dockerfile2llb.DockerfileLint(t.Context(), text, dockerfile2llb.ConvertOpt{
				MetaResolver: noRegistry{}, SourceMap: source,
			})
			if err != nil {
				t.Fatal(err)
			}
			if results.Error != nil {
				t.Fatal(results.Error.Message)
			}
			var got []string
			for _, w := range results.Warnings {
				got = append(got, w.RuleName)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("warnings (-want +got):\n%s\n%v", diff, results.Warnings)
			}
		})
	}
}

func TestImageIsWholeForEachPlatform(t *testing.T) {
	for _, name := range []string{"pleo-auth-proxy", "pleo-sim"} {
		index, manifest := loadIndex(t, name)
		if err := validate.Index(index); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var got []string
		for _, d := range manifest.Manifests {
			got = append(got, d.Platform.String())
		}
		if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, got); diff != "" {
			t.Errorf("platforms of %s (-want +got):\n%s", name, diff)
		}
	}
}

// TestImageIsReproducible compiles and builds the image again: the same commit
// produces the same bytes.
func TestImageIsReproducible(t *testing.T) {
	first, err := os.ReadFile(repository("dist", "image", "pleo-auth-proxy", "index.json"))
	if err != nil {
		missing(t, "make image builds the images: %v", err)
	}
	output(t, "make", "-C", repository(), "image")
	second := read(t, repository("dist", "image", "pleo-auth-proxy", "index.json"))
	if diff := cmp.Diff(string(first), second); diff != "" {
		t.Errorf("index of the second build (-first +second):\n%s", diff)
	}
}

func TestImageConfiguration(t *testing.T) {
	file, err := loadImage(t, "pleo-auth-proxy").ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	got := file.Config
	if !strings.HasPrefix(got.Labels["org.opencontainers.image.title"], "pleo-auth-proxy") || got.Labels["org.opencontainers.image.licenses"] != "Apache-2.0" {
		t.Errorf("labels = %v, want title and licence", got.Labels)
	}
	got.Labels = nil
	for i, e := range got.Env {
		if strings.HasPrefix(e, "PATH=") { // in every image
			got.Env = append(got.Env[:i:i], got.Env[i+1:]...)
		}
	}
	health := got.Healthcheck
	got.Healthcheck = nil
	got.ArgsEscaped = false // set by BuildKit, and without effect on Linux
	want := v1.Config{
		User: "65532:65532", Entrypoint: []string{"/pleo-auth-proxy"}, Cmd: []string{"serve"}, WorkingDir: "/",
		Env:          []string{"STATE_DIRECTORY=/var/lib/pleo-auth-proxy"},
		ExposedPorts: map[string]struct{}{"8484/tcp": {}, "8486/tcp": {}, "8487/tcp": {}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"CMD", "/pleo-auth-proxy", "healthcheck"}, health.Test); diff != "" {
		t.Errorf("health check (-want +got):\n%s", diff)
	}
}

// TestImageRuns runs the image as its users do: only two volumes are writable, and the
// user has no privileges.
func TestImageRuns(t *testing.T) {
	startSimulator(t)
	c := newContainer(t, "pleo-auth-proxy", loadImage(t, "pleo-auth-proxy"))
	data := c.volume(t, "/var/lib/pleo-auth-proxy")
	c.volume(t, "/var/lib/pleo-auth-proxy-keyset")
	c.env = map[string]string{
		"PLEO_ENVIRONMENT": "custom", "PLEO_UPSTREAM_API_URL": simulatorURL, "PLEO_UPSTREAM_AUTH_URL": simulatorURL,
		"PLEO_STORE_KEYSET_FILE": "/var/lib/pleo-auth-proxy-keyset/keyset.json", "PLEO_HEALTH_LISTEN": ":8487",
	}
	if out, err := c.exec(t, "", c.config.Healthcheck.Test[1:]...); err == nil {
		t.Errorf("the health check succeeds before the start: %s", out)
	}
	c.start(t)
	c.await(t, func() error { _, err := c.exec(t, "", c.config.Healthcheck.Test[1:]...); return err })

	status := read(t, filepath.Join("/proc", pidOf(c), "status"))
	for _, want := range []string{"Uid:\t65532\t65532\t65532\t65532\n", "CapEff:\t0000000000000000\n", "NoNewPrivs:\t1\n"} {
		if !strings.Contains(status, want) {
			t.Errorf("the process has privileges: %q is not in\n%s", want, status)
		}
	}
	if _, err := os.Stat(filepath.Join(data, "store.db")); err != nil {
		t.Errorf("the volume does not contain the store: %v", err)
	}
	if out, err := exec.Command("nsenter", "--mount=/proc/"+pidOf(c)+"/ns/mnt", "touch", filepath.Join(c.root, "x")).CombinedOutput(); !bytes.Contains(out, []byte("Read-only")) {
		t.Errorf("writing to the root = %v %s, want an error", err, out)
	}
	if code := c.stop(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// pidOf returns the process of a running container, which replaced the program that created
// its namespace.
func pidOf(c *container) string { return strconv.Itoa(c.running.Process.Pid) }

// TestImageHoldsNothingElse checks that the image contains no shell, and no program but ours.
func TestImageHoldsNothingElse(t *testing.T) {
	c := newContainer(t, "pleo-auth-proxy", loadImage(t, "pleo-auth-proxy"))
	got := strings.Split(strings.TrimSpace(output(t, "find", c.root, "-mindepth", "1", "-printf", "%m %U %y /%P\\n")), "\n")
	slices.Sort(got)
	want := []string{
		"755 0 d /etc", "755 0 d /etc/ssl", "755 0 d /etc/ssl/certs", "644 0 f /etc/ssl/certs/ca-certificates.crt",
		"755 0 f /pleo-auth-proxy", "755 0 d /var", "755 0 d /var/lib",
		"700 65532 d /var/lib/pleo-auth-proxy", "700 65532 d /var/lib/pleo-auth-proxy-keyset",
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("mode, owner, type and path of the files in the image (-want +got):\n%s", diff)
	}
}
