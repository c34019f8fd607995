package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

const (
	variablePrefix = "PLEO_"
	fileVariable   = "PLEO_CONFIG" // names the file; no key of it
)

// readEnvironment reads the values that stand in the environment. An empty
// variable counts as one that is not set, since compose files and charts leave
// such behind for options that are not used.
func (l *loader) readEnvironment() {
	known := map[string]bool{fileVariable: true}
	for _, k := range l.order {
		if k.form == objects {
			continue
		}
		name := k.variable()
		known[name] = true
		if value := l.env[name]; value != "" {
			l.set(k, place{variable: name}, k.split(value))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.env)) {
		if strings.HasPrefix(name, variablePrefix) && !known[name] && !isServiceVariable(name, l.env[name]) {
			l.mistake(place{variable: name}, "", "unknown variable%s", suggest(name, slices.Sorted(maps.Keys(known))))
		}
	}
}

// split returns the texts in the value of a variable: the parts between commas
// for a list.
func (k key) split(value string) []string {
	if k.form != list {
		return []string{value}
	}
	parts := strings.Split(value, ",")
	for i, part := range parts {
		parts[i] = strings.TrimSpace(part)
	}
	return parts
}

// Kubernetes describes each Service of the namespace in every container's
// environment, so one that is called pleo or pleo-proxy puts variables of our
// prefix there: PLEO_PROXY_SERVICE_HOST, PLEO_PROXY_SERVICE_PORT_HTTP,
// PLEO_PROXY_PORT=tcp://10.0.0.1:80, PLEO_PROXY_PORT_80_TCP_ADDR.
var (
	servicePattern = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)
	portPattern    = regexp.MustCompile(`^(tcp|udp|sctp)://`)
)

func isServiceVariable(name, value string) bool {
	if servicePattern.MatchString(name) {
		return true
	}
	// The value tells it from a key that somebody hoped for.
	return strings.HasSuffix(name, "_PORT") && portPattern.MatchString(value)
}
