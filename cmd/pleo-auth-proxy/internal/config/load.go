package config

import (
	"cmp"
	"os"
	"path/filepath"
	"reflect"
	"strings"
)

// Source is where a configuration is read from.
type Source struct {
	// Path is the file to read. Empty means the first that exists of PLEO_CONFIG,
	// ./pleo-auth-proxy.yaml and /etc/pleo-auth-proxy/config.yaml, or no file. A
	// file that Path or PLEO_CONFIG names must exist.
	Path string
	// Environ is the environment, in the form of [os.Environ].
	Environ []string
	// Root reports whether the program runs as root, which changes the default of
	// data_dir.
	Root bool
}

// Load reads and checks the configuration. The error is an [*Error] with every
// mistake. Load does not read files of secrets: see [SecretSource.Open].
func Load(src Source) (*Config, error) {
	l := &loader{config: &Config{}, keys: allKeys(), report: newReport()}
	env := environment(src.Environ)
	l.readDefaults()
	complete := l.readFile(find(src, env))
	l.readEnvironment(env)
	l.fillIn(env, src.Root)
	if complete { // a key that could not be read must not be reported as missing
		check(l.config, l.report)
	}
	if len(l.report.mistakes) > 0 {
		return nil, &Error{Mistakes: l.report.mistakes}
	}
	l.config.places = l.report.places
	return l.config, nil
}

// loader is one run of Load.
type loader struct {
	config *Config
	keys   []key
	report *report
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

// root is the value that the keys outside of lists are set in.
func (l *loader) root() reflect.Value { return reflect.ValueOf(l.config).Elem() }

func (l *loader) readDefaults() {
	for _, k := range l.keys {
		if k.fallback != "" {
			l.set(l.root(), k, k.path, place{}, k.split(k.fallback))
		}
	}
}

// set parses the texts of a key, which were read at p, and sets its value in
// owner. path is that of the key, with the indexes of items.
func (l *loader) set(owner reflect.Value, k key, path string, p place, texts []string) {
	if p != (place{}) {
		l.report.places[path] = p
	}
	value := k.in(owner)
	if !k.list {
		parsed, err := k.format.parse(texts[0])
		if err != nil {
			l.report.mistake(p, path, "%s", k.format.explain(err, texts[0]))
			return
		}
		value.Set(reflect.ValueOf(parsed))
		return
	}
	list := reflect.MakeSlice(value.Type(), 0, len(texts)) // not nil: an empty list was given
	for _, text := range texts {
		parsed, err := k.format.parse(text)
		if err != nil {
			l.report.mistake(p, path, "%s", k.format.explain(err, text))
			return
		}
		list = reflect.Append(list, reflect.ValueOf(parsed))
	}
	value.Set(list)
}

// fillIn sets the defaults that depend on other keys or on the environment.
func (l *loader) fillIn(env map[string]string, root bool) {
	c := l.config
	c.DataDirConfigured = l.report.given("data_dir")
	if c.Store.Driver == DriverMemory { // which is for programs without a disk
		return
	}
	if c.DataDir == "" && !c.DataDirConfigured { // else it was given and is wrong
		if c.DataDir = defaultDataDir(env, root); c.DataDir == "" {
			l.report.mistake(place{}, "data_dir", "is required, because none of STATE_DIRECTORY, XDG_STATE_HOME and HOME is set")
		}
	}
	if c.Store.Driver == DriverSQLite {
		c.Store.Path = cmp.Or(c.Store.Path, c.InDataDir(StoreFileName))
	}
	c.Store.KeysetFile = cmp.Or(c.Store.KeysetFile, c.InDataDir(KeysetFileName))
	c.Store.SpoolDir = cmp.Or(c.Store.SpoolDir, c.InDataDir(SpoolDirName))
	c.Admin.TokenFile = cmp.Or(c.Admin.TokenFile, c.InDataDir(AdminTokenFileName))
}

// defaultDataDir returns "" if the environment names no directory.
func defaultDataDir(env map[string]string, root bool) string {
	// systemd separates several directories by colons.
	if dir, _, _ := strings.Cut(env["STATE_DIRECTORY"], ":"); dir != "" {
		return dir
	}
	if root {
		return "/var/lib/pleo-auth-proxy"
	}
	if dir := env["XDG_STATE_HOME"]; filepath.IsAbs(dir) {
		return filepath.Join(dir, "pleo-auth-proxy")
	}
	if home := env["HOME"]; filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "pleo-auth-proxy")
	}
	return ""
}

// DefaultFiles returns where a configuration file is looked for that neither --config
// nor PLEO_CONFIG names; the first one that exists is read.
func DefaultFiles() []string {
	return []string{"pleo-auth-proxy.yaml", "/etc/pleo-auth-proxy/config.yaml"}
}

// find returns the path of the file to read; "" if there is none.
func find(src Source, env map[string]string) string {
	if named := cmp.Or(src.Path, env[fileVariable]); named != "" {
		return named
	}
	for _, path := range DefaultFiles() {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// readFile reports whether everything in the file, if there is one, was read.
func (l *loader) readFile(path string) bool {
	if path == "" {
		return true
	}
	data, err := os.ReadFile(path)
	if err != nil {
		l.report.mistake(place{file: path}, "", "reading the configuration: %v", errnoOf(err))
		return false
	}
	l.config.File = path
	return l.readYAML(path, data)
}
