package config

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Source is where a configuration is read from.
type Source struct {
	// Path is the file that was asked for; empty means the first of PLEO_CONFIG,
	// ./pleo-auth-proxy.yaml and /etc/pleo-auth-proxy/config.yaml, or no file.
	Path string
	// Environ is the environment in the form of [os.Environ].
	Environ []string
	// Root says that the program runs as root, which has another data_dir.
	Root bool
}

// Load reads and checks the configuration. The error is an [*Error] that holds
// every mistake. Secret files are not read: see [SecretSource.Open].
func Load(src Source) (*Config, error) {
	l := newLoader(src)
	l.readFallbacks()
	complete := l.readFile()
	l.readEnvironment()
	l.fillIn()
	if complete { // else much would seem to be missing that only could not be read
		l.check()
	}
	if len(l.mistakes) > 0 {
		return nil, &Error{Mistakes: l.mistakes}
	}
	l.config.places = l.places
	return l.config, nil
}

// loader is one run of Load.
type loader struct {
	src    Source
	env    map[string]string // variable → value
	config *Config

	order    []key
	keys     map[string]key   // path → key
	sections map[string]bool  // path of each section
	places   map[string]place // path → where its value stands, once it has one
	mistakes []Mistake
}

// place is where a value stands. The zero place is nowhere: the value is a
// default.
type place struct {
	file     string
	line     int
	variable string
}

func newLoader(src Source) *loader {
	l := &loader{
		src:      src,
		env:      environment(src.Environ),
		config:   &Config{},
		order:    allKeys(),
		keys:     map[string]key{},
		sections: map[string]bool{},
		places:   map[string]place{},
	}
	for _, k := range l.order {
		l.register(k)
	}
	return l
}

func environment(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok {
			env[name] = value
		}
	}
	return env
}

// mistake notes what is wrong with the value of the key at path.
func (l *loader) mistake(p place, path, format string, args ...any) {
	l.mistakes = append(l.mistakes, Mistake{
		File: p.file, Line: p.line, Variable: p.variable, Key: path,
		Problem: fmt.Sprintf(format, args...),
	})
}

func (l *loader) readFallbacks() {
	for _, k := range l.order {
		if k.fallback != "" {
			l.set(k, place{}, strings.Split(k.fallback, ","))
		}
	}
}

// set reads the value of a key from its texts, which stand at p.
func (l *loader) set(k key, p place, texts []string) {
	if p != (place{}) {
		l.places[k.path] = p
	}
	if err := k.set(l.config, texts); err != nil {
		l.mistake(p, k.path, "%v%s", err, k.show(texts))
	}
}

// show returns what was written, as the end of a message, or nothing where it
// may be a secret.
func (k key) show(texts []string) string {
	written := strings.Join(texts, ",")
	if k.private || strings.Contains(written, "@") || len(written) > 200 {
		return ""
	}
	return fmt.Sprintf(" (it is %q)", written)
}

// fillIn computes the defaults that depend on other keys or on the system.
func (l *loader) fillIn() {
	c := l.config
	c.DataDirConfigured = l.given("data_dir")
	if c.Store.Driver == DriverMemory { // which is for programs without a disk
		return
	}
	if c.DataDir == "" {
		c.DataDir = l.defaultDataDir()
	}
	if c.Store.Driver == DriverSQLite {
		c.Store.Path = cmp.Or(c.Store.Path, c.InDataDir(StoreFileName))
	}
	c.Store.KeysetFile = cmp.Or(c.Store.KeysetFile, c.InDataDir(KeysetFileName))
	c.Store.SpoolDir = cmp.Or(c.Store.SpoolDir, c.InDataDir(SpoolDirName))
	c.Admin.TokenFile = cmp.Or(c.Admin.TokenFile, c.InDataDir(AdminTokenFileName))
}

func (l *loader) defaultDataDir() string {
	// systemd lists several directories with colons between.
	if dir, _, _ := strings.Cut(l.env["STATE_DIRECTORY"], ":"); dir != "" {
		return dir
	}
	if l.src.Root {
		return "/var/lib/pleo-auth-proxy"
	}
	if dir := l.env["XDG_STATE_HOME"]; filepath.IsAbs(dir) {
		return filepath.Join(dir, "pleo-auth-proxy")
	}
	if home := l.env["HOME"]; filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "pleo-auth-proxy")
	}
	if !l.given("data_dir") { // else it was given and is wrong
		l.mistake(place{}, "data_dir", "is needed, since neither STATE_DIRECTORY nor XDG_STATE_HOME nor HOME is set")
	}
	return ""
}

// find returns the path of the file to read, or nothing when none was asked for
// and none is in the usual places.
func (l *loader) find() string {
	for _, asked := range []string{l.src.Path, l.env[fileVariable]} {
		if asked != "" {
			return asked
		}
	}
	for _, path := range []string{"pleo-auth-proxy.yaml", "/etc/pleo-auth-proxy/config.yaml"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// readFile reports whether all that the file says, if there is one, was read.
func (l *loader) readFile() bool {
	path := l.find()
	if path == "" {
		return true
	}
	data, err := os.ReadFile(path)
	if err != nil {
		l.mistake(place{file: path}, "", "reading the configuration: %v", errnoOf(err))
		return false
	}
	l.config.File = path
	return l.readYAML(path, data)
}

// known returns the paths of all keys and sections, for suggestions.
func (l *loader) known() []string {
	paths := slices.Collect(maps.Keys(l.keys))
	paths = slices.AppendSeq(paths, maps.Keys(l.sections))
	slices.Sort(paths)
	return paths
}
