package simulator

import (
	_ "embed" // for settings.example.json
	"fmt"
	"strings"
)

//go:embed settings.example.json
var exampleSettings string

// ExampleSettings returns settings that show every member once.
func ExampleSettings() string { return exampleSettings }

// ExplainChoices lists, one to a line, the settings that take one of a few
// words, and these words. The first is the default.
func ExplainChoices() string {
	s := Settings{OAuth: OAuthSettings{ClientAuth: []string{""}, Omit: []string{""}}} // lists tell their choices per element
	var b strings.Builder
	for _, c := range s.choices() {
		fmt.Fprintf(&b, "%-24s %s\n", c.name, strings.Join(c.allowed, " | "))
	}
	return b.String()
}
