package deploy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// releaseDir returns the directory of the release that make release-snapshot built.
func releaseDir(t *testing.T) string {
	t.Helper()
	dir := repository("dist", "release")
	if _, err := os.Stat(filepath.Join(dir, "SHA256SUMS")); err != nil {
		missing(t, "make release-snapshot builds a release: %v", err)
	}
	return dir
}

func TestReleaseIsComplete(t *testing.T) {
	dir := releaseDir(t)
	sums := read(t, filepath.Join(dir, "SHA256SUMS"))
	wanted := map[string]int{ // end of the name → how many
		"_linux_amd64.tar.gz": 1, "_linux_arm64.tar.gz": 1, "_darwin_amd64.tar.gz": 1, "_darwin_arm64.tar.gz": 1,
		".cdx.json": 4, "_amd64.deb": 1, "_arm64.deb": 1,
	}
	for line := range strings.Lines(sums) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		content := sha256.Sum256([]byte(read(t, filepath.Join(dir, name))))
		if got := hex.EncodeToString(content[:]); got != sum {
			t.Errorf("%s has the checksum %s, want %s", name, got, sum)
		}
		for end := range wanted {
			if strings.HasSuffix(name, end) {
				wanted[end]--
			}
		}
	}
	for end, lacking := range wanted {
		if lacking != 0 {
			t.Errorf("%d files with the suffix %s are missing:\n%s", lacking, end, sums)
		}
	}
}

func TestReleaseArchiveRuns(t *testing.T) {
	found, err := filepath.Glob(filepath.Join(releaseDir(t), "*_"+runtime.GOOS+"_"+runtime.GOARCH+".tar.gz"))
	if err != nil || len(found) != 1 {
		t.Fatalf("archives for this machine: %v %v, want one", found, err)
	}
	dir := t.TempDir()
	output(t, "tar", "--extract", "--gzip", "--strip-components=1", "--directory", dir, "--file", found[0])
	for _, name := range []string{"LICENSE", "README.md", "config.example.yaml", "man/pleo-auth-proxy.1.gz", "completions/pleo-auth-proxy.bash"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	var built struct{ Version, Revision string }
	if err := json.Unmarshal([]byte(output(t, filepath.Join(dir, "pleo-auth-proxy"), "version", "--json")), &built); err != nil {
		t.Fatal(err)
	}
	if head := strings.TrimSpace(output(t, "git", "rev-parse", "HEAD")); built.Revision != head {
		t.Errorf("the program was built from %q, want %q", built.Revision, head)
	}
	if !strings.Contains(output(t, filepath.Join(dir, "pleo-sim"), "settings"), "companies") {
		t.Error("pleo-sim prints no settings")
	}
}

// TestReleaseNamesItsModules checks that the SBOM lists the linked modules, which are
// recorded for Linux.
func TestReleaseNamesItsModules(t *testing.T) {
	found, err := filepath.Glob(filepath.Join(releaseDir(t), "*_linux_*.cdx.json"))
	if err != nil || len(found) != 2 {
		t.Fatalf("SBOMs for Linux: %v %v, want two", found, err)
	}
	for _, path := range found {
		var bom struct {
			BomFormat  string
			Components []struct{ Name, Version string }
		}
		if err := json.Unmarshal([]byte(read(t, path)), &bom); err != nil {
			t.Fatal(err)
		}
		listed := map[string]bool{}
		for _, c := range bom.Components {
			listed[c.Name] = c.Version != ""
		}
		for line := range strings.Lines(read(t, repository("testdata", "linked-modules.txt"))) {
			if module := strings.TrimSpace(line); bom.BomFormat != "CycloneDX" || !listed[module] {
				t.Errorf("%s does not list %s with its version", filepath.Base(path), module)
			}
		}
	}
}
