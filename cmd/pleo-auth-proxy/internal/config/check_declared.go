package config

import "strings"

// checkDeclared reports connections that could not be told apart, or lack a key.
func (l *loader) checkDeclared() {
	names := map[string]string{} // in lower case → path of the connection
	for i, declared := range l.config.Connections {
		path := itemPath("connections", i)
		l.needs(path, "name")
		l.needs(path, "kind")
		folded := strings.ToLower(declared.Name)
		if other, taken := names[folded]; taken && folded != "" {
			l.mistake(l.places[path+".name"], path+".name", "is the name of %s too, but for upper and lower case", other)
		}
		names[folded] = path
		file, key := l.given(path+".api_key_file"), l.given(path+".api_key")
		switch {
		case file && key:
			l.mistake(l.places[path+".api_key"], path+".api_key", "cannot be used together with api_key_file; keep one of them")
		case !file && !key:
			l.mistake(l.places[path], path, "needs api_key_file or api_key")
		}
	}
}

// checkMemory refuses a store that keeps nothing where something is to be kept.
func (l *loader) checkMemory() {
	if l.config.Store.Driver != DriverMemory {
		return
	}
	at := l.places["store.driver"]
	if len(l.config.Connections) == 0 && !l.hasMistake("connections") {
		l.mistake(at, "store.driver", "is memory, which is for connections that the configuration declares; declare one under connections, or use sqlite")
	}
	if l.given("oauth.client_id") {
		l.mistake(l.places["oauth.client_id"], "oauth.client_id", "cannot be used with store.driver memory: refresh tokens would be lost with the process; use sqlite")
	}
	for _, path := range []string{"store.path", "store.keyset_file", "store.spool_dir"} {
		if l.given(path) {
			l.mistake(l.places[path], path, "has no meaning with store.driver memory; leave it out")
		}
	}
}
