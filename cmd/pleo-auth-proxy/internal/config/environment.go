package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

const (
	variablePrefix = "PLEO_"
	fileVariable   = "PLEO_CONFIG" // names the file, and is not a key
)

// readEnvironment reads the values in the environment, which override those of
// the file. An empty variable counts as not set: compose files and charts leave
// such variables behind for options that are not used.
func (l *loader) readEnvironment(env map[string]string) {
	known := []string{fileVariable}
	fileOnly := map[string]string{} // variable → path of a list of mappings
	for _, k := range l.keys {
		name := k.variable()
		if k.items != nil {
			fileOnly[name] = k.path
			continue
		}
		known = append(known, name)
		if value := env[name]; value != "" {
			l.set(l.root(), k, k.path, place{variable: name}, k.split(value))
		}
	}
	slices.Sort(known)
	for _, name := range unknownVariables(env, known) {
		switch similar := nearest(name, known, maxTypos); {
		case fileOnly[name] != "":
			l.report.mistake(place{variable: name}, "", "%s can only be set in the configuration file", fileOnly[name])
		case similar != "":
			l.report.mistake(place{variable: name}, "", "unknown variable; did you mean %s?", similar)
		case env[name] != "":
			l.config.UnknownVariables = append(l.config.UnknownVariables, name)
		}
	}
}

// UnknownVariablesNotice is the warning about [Config.UnknownVariables].
const UnknownVariablesNotice = "ignoring unknown environment variables that begin with PLEO_"

// maxTypos is how many edits away from the variable of a key another variable is a
// misspelling of it. One that is further away belongs to another program.
const maxTypos = 2

// foreignVariables are read by clients of the Pleo API, which may share a file of
// variables with the proxy.
var foreignVariables = []string{"PLEO_API_BASE", "PLEO_API_KEY", "PLEO_BASE_URL", "PLEO_COMPANY_ID", "PLEO_TOKEN"}

// unknownVariables returns the names with our prefix that are not known to belong to
// the proxy, to a client of the Pleo API or to a Service, in alphabetical order.
func unknownVariables(env map[string]string, known []string) []string {
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if strings.HasPrefix(name, variablePrefix) && !slices.Contains(known, name) &&
			!slices.Contains(foreignVariables, name) && !isServiceVariable(name, env[name]) {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

// split returns the texts in the value of a variable.
func (k key) split(value string) []string {
	if !k.list {
		return []string{value}
	}
	parts := strings.Split(value, ",")
	for i, part := range parts {
		parts[i] = strings.TrimSpace(part)
	}
	return parts
}

// Kubernetes describes each Service of the namespace in the environment of every
// container, so a Service called pleo or pleo-proxy sets variables of our prefix:
// PLEO_PROXY_SERVICE_HOST, PLEO_PROXY_SERVICE_PORT_HTTP,
// PLEO_PROXY_PORT=tcp://10.0.0.1:80, PLEO_PROXY_PORT_80_TCP_ADDR.
var (
	servicePattern = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)
	portPattern    = regexp.MustCompile(`^(tcp|udp|sctp)://`)
)

func isServiceVariable(name, value string) bool {
	if servicePattern.MatchString(name) {
		return true
	}
	// The value distinguishes it from a misspelled key that ends in _PORT.
	return strings.HasSuffix(name, "_PORT") && portPattern.MatchString(value)
}
