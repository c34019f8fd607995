package deploy

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestDocumentedValues installs the values of docs/kubernetes.md with the Secrets that the
// page creates before, and no others: the charts render them, and the real program accepts
// the configuration.
func TestDocumentedValues(t *testing.T) {
	page := read(t, repository("docs", "kubernetes.md"))
	secrets := documentedSecrets(t, page)
	for _, s := range documentedSetups(t, page) {
		t.Run(s.name, func(t *testing.T) {
			objects := decode(t, s.render(t))
			checkPod(t, podOf(t, objects))
			c := startable(t, objects, secrets)
			if out, err := c.exec(t, "", "/pleo-auth-proxy", "config", "validate"); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// documentedSetups returns a setup for each block of values: blocks of a sidecar are for
// the chart of an application; files are for the gateway, each on top of the earlier ones.
func documentedSetups(t *testing.T, page string) []setup {
	t.Helper()
	var found []setup
	var files []string // arguments for helm
	for _, m := range regexp.MustCompile("(?ms)^```yaml ?([^\n]*)\n(.*?)^```$").FindAllStringSubmatch(page, -1) {
		name, text := m[1], m[2]
		if strings.Contains(text, "{{") {
			continue // a template
		}
		var values map[string]any
		if err := yaml.UnmarshalStrict([]byte(text), &values); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		path := write(t, filepath.Join(t.TempDir(), "values.yaml"), text)
		switch {
		case values["pleo-auth-proxy"] != nil:
			found = append(found, setup{name: "a sidecar", chart: "examples/erp", values: []string{"--values", path}})
		case name != "":
			files = append(files, "--values", path)
			found = append(found, setup{name: "a gateway by " + name, chart: "pleo-auth-proxy", values: slices.Clone(files)})
		}
	}
	if len(found) != 4 {
		t.Errorf("found %d setups in the page, want 4", len(found))
	}
	return found
}

// documentedSecrets returns the entries of kept that the page creates with kubectl.
func documentedSecrets(t *testing.T, page string) map[string]map[string]string {
	t.Helper()
	all, made := kept(t), map[string]map[string]string{}
	take := func(name, key string) {
		if made[name] == nil {
			made[name] = map[string]string{}
		}
		text, ok := all[name][key]
		if !ok {
			t.Errorf("the page creates the Secret %s with the key %s, which no setup uses", name, key)
		}
		made[name][key] = text
	}
	for _, m := range regexp.MustCompile("kubectl create secret (generic|tls) ([a-z-]+)([^#`\n]*)").FindAllStringSubmatch(page, -1) {
		if m[1] == "tls" {
			take(m[2], "tls.crt")
			take(m[2], "tls.key")
		}
		for _, file := range regexp.MustCompile(`--from-file=(\S+)`).FindAllStringSubmatch(m[3], -1) {
			take(m[2], filepath.Base(file[1]))
		}
	}
	return made
}
