package refresh

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var mutations = flag.Bool("mutations", false, "break the protocol in several ways and check that the simulation catches each")

// mutation is the protocol with one promise broken.
type mutation struct {
	name   string
	breaks string // the message of the violated invariant
	edits  []edit
}

type edit struct{ file, from, to string }

// transitions is the status machine, which the store of the simulation runs too.
const transitions = "../../credstore/transition.go"

func protocolMutations() []mutation {
	return []mutation{
		{"the state is not read again under the lease", "which was exchanged, while", []edit{
			{"refresh.go", "	lease, err := r.acquireLease(ctx, e, f)\n", "	state, err := r.loadState(ctx, e)\n	if err != nil || e.current.Load().satisfies(f.purpose, r.Now()) {\n		return nil, err\n	}\n	lease, err := r.acquireLease(ctx, e, f)\n"},
			{"refresh.go", "	state, err := r.loadState(ctx, e)\n	if err != nil || e.current.Load().satisfies(f.purpose, r.Now()) {\n		return nil, err\n	}\n	l := leased{", "	l := leased{"},
			{transitions, "apply(t *Transition, _ time.Time) error {\n	s := &t.State\n	if err := s.checkParent(a.Parent); err != nil {\n		return err\n	}\n	if s.Intent == nil || s.Intent.Parent != a.Parent {\n		s.Intent = &Intent", "apply(t *Transition, _ time.Time) error {\n	s := &t.State\n	if s.Intent == nil || s.Intent.Parent != a.Parent {\n		s.Intent = &Intent"},
		}},
		{"saved onto anything", "an older pair over a newer one", []edit{
			{transitions, "if err := s.checkParent(n.Parent); err != nil || s.Connection.Kind != OAuth {", "if false {"},
		}},
		{"a saved pair leaves the status as it is", "want it to work", []edit{
			{transitions, "	s.setStatus(Active, \"\")\n	switch {\n	case s.Alarmed", "	switch {\n	case s.Alarmed"},
		}},
		{"used before it is saved", "before it is durable", []edit{
			{"save.go", "	attempt := s.trySave(p)\n", "	s.handOut(p)\n	attempt := s.trySave(p)\n"},
		}},
		{"an orphaned intent is ignored", "which was exchanged, while", []edit{
			{"refresh.go", "	intent, token := l.state.Intent, l.state.Credential\n", "	intent, token := l.state.Intent, l.state.Credential\n	if true {\n		return false, nil\n	}\n"},
		}},
		{"a pair that the store does not save is dropped", "before it is durable", []edit{
			{"save.go", "		case <-retry:\n", "		case <-retry:\n			if written == nil {\n				return false, nil\n			}\n"},
		}},
	}
}

// overlay writes the changed files, and returns which file each replaces.
func (m mutation) overlay(t *testing.T) map[string]string {
	t.Helper()
	overlay := map[string]string{}
	for _, e := range m.edits {
		overlayEdit(t, overlay, e.file, e.from, e.to)
	}
	return overlay
}

// TestMutationsAreUpToDate finds the code that the mutations change, without building
// them: they run seldom, and the code changes often.
func TestMutationsAreUpToDate(t *testing.T) {
	for _, m := range protocolMutations() {
		t.Run(m.name, func(t *testing.T) { m.overlay(t) })
	}
}

// TestSimulationCatchesMutations builds the tests again with one promise
// of the protocol broken at a time: a simulation that passes proves
// nothing.
func TestSimulationCatchesMutations(t *testing.T) {
	if !*mutations {
		t.Skip("runs with -args -mutations, as `make faults` does")
	}
	for _, m := range protocolMutations() {
		t.Run(m.name, func(t *testing.T) {
			out, err := runMutant(t, m.overlay(t))
			// Not just any failure: a schedule must have broken the invariant.
			if err == nil || !strings.Contains(out, "run it alone with") || !strings.Contains(out, m.breaks) {
				t.Errorf("the simulation printed (%v):\n%s\nwant a schedule that fails with %q", err, out, m.breaks)
			}
		})
	}
}

// overlayEdit replaces from by to in the file, on top of earlier edits.
func overlayEdit(t *testing.T, overlay map[string]string, file, from, to string) {
	t.Helper()
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	source := path
	if edited, ok := overlay[path]; ok {
		source = edited
	}
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), from); n != 1 {
		t.Fatalf("%s holds %q %d times, want once: bring the mutation up to date", file, from, n)
	}
	edited := filepath.Join(t.TempDir(), filepath.Base(file))
	if err := os.WriteFile(edited, []byte(strings.Replace(string(text), from, to, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay[path] = edited
}

func runMutant(t *testing.T, overlay map[string]string) (string, error) {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-overlay", file, "-run", "^TestSimulation$", ".", "-args", "-schedules", "20000")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
