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
	known := map[string]bool{fileVariable: true}
	for _, k := range l.keys {
		if k.items != nil {
			continue
		}
		name := k.variable()
		known[name] = true
		if value := env[name]; value != "" {
			l.set(l.root(), k, k.path, place{variable: name}, k.split(value))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if strings.HasPrefix(name, variablePrefix) && !known[name] && !isServiceVariable(name, env[name]) {
			l.report.mistake(place{variable: name}, "", "unknown variable%s", suggest(name, slices.Sorted(maps.Keys(known))))
		}
	}
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
