package config

import (
	"fmt"
	"strings"
)

// referenceHead begins docs/configuration.md.
const referenceHead = `# Configuration

<!-- Written by: go test ./cmd/pleo-auth-proxy/internal/config -run Example -update -->

One YAML file, read when the program starts. It is the file that ` + "`--config`" + ` names, else ` + "`PLEO_CONFIG`" + `, else
` + "`./pleo-auth-proxy.yaml`" + `, else ` + "`/etc/pleo-auth-proxy/config.yaml`" + `, else none: then everything comes from the environment.

* Every key but those of lists of objects is also an environment variable, which wins over the file. An empty variable
  counts as not set. Lists are given with commas between: ` + "`PLEO_PROXY_ALLOWED_HOSTS=a.example,b.example`" + `.
* Unknown keys and unknown ` + "`PLEO_`" + ` variables are errors, and all mistakes are reported at once, with their lines:
  ` + "`pleo-auth-proxy config validate`" + `. Variables that Kubernetes sets for Services are left alone.
* Durations are written like ` + "`20s`, `2m` or `168h`" + `, sizes like ` + "`64MiB`" + `.
* Secrets are better kept in files of their own (` + "`oauth.client_secret_file`" + `). Those are read again when they change, so
  that a secret is replaced without a restart.
* ` + "`HTTP_PROXY` and `HTTPS_PROXY`" + ` are ignored; ` + "`upstream.proxy_url`" + ` is the way.

[config.example.yaml](../config.example.yaml) has the same keys in the form of a file.
`

// Reference returns a page in Markdown that holds every key once, with its
// variable, its default and one sentence.
func Reference() string {
	var b strings.Builder
	b.WriteString(referenceHead)
	open := ""
	for _, k := range allKeys() {
		if heading := k.heading(); heading != open {
			open = heading
			fmt.Fprintf(&b, "\n## %s\n\n| key, variable | default | |\n| --- | --- | --- |\n", heading)
		}
		k.writeRow(&b)
	}
	return b.String()
}

// heading returns what the key stands under: the first part of its path.
func (k key) heading() string {
	first, _, nested := strings.Cut(k.path, ".")
	if nested || k.items != nil {
		return first
	}
	return "general"
}

// writeRow writes the key, and those of its items, as rows of a table.
func (k key) writeRow(b *strings.Builder) {
	names := code(k.path)
	if k.form != objects && !strings.Contains(k.path, "[]") {
		names += "<br>" + code(k.variable())
	}
	value := ""
	if k.fallback != "" {
		value = code(strings.ReplaceAll(k.fallback, ",", ", "))
	}
	fmt.Fprintf(b, "| %s | %s | %s |\n", names, value, inTable(k.doc))
	if k.items == nil {
		return
	}
	for _, field := range k.items.fields {
		field.writeRow(b)
	}
}

func code(s string) string { return "`" + s + "`" }

// inTable makes a sentence one cell: pipes would end it, and asterisks are meant.
func inTable(s string) string {
	return strings.NewReplacer("|", `\|`, "*", `\*`, "<", "&lt;").Replace(s)
}
