package connect

import "strings"

// permission is a scope with its description.
type permission struct {
	Description string
	Scope       string
}

// permissionsFor returns the permissions of the scopes, in their order.
func permissionsFor(scopes []string) []permission {
	all := make([]permission, 0, len(scopes))
	for _, scope := range scopes {
		all = append(all, permission{Description: describeScope(scope), Scope: scope})
	}
	return all
}

// describeScope describes what a scope of Pleo's allows. Scopes without a description
// have the form RESOURCE:read or RESOURCE:write.
func describeScope(scope string) string {
	if text, ok := scopeDescriptions()[scope]; ok {
		return text
	}
	resource, action, _ := strings.Cut(scope, ":")
	resource = strings.NewReplacer("-", " ", "_", " ", ".", " ").Replace(resource)
	switch action {
	case "read":
		return "See " + resource
	case "write":
		return "Add and change " + resource
	}
	return "Use the permission " + scope
}

func scopeDescriptions() map[string]string {
	return map[string]string{
		"accounting-entries:read":  "See expenses and other accounting entries, with their receipts",
		"accounting-entries:write": "Add receipts and details to accounting entries",
		"accounts:read":            "See your chart of accounts",
		"accounts:write":           "Add and change accounts in your chart of accounts",
		"companies:read":           "See your company’s name and details",
		"export-items:read":        "See the contents of exports",
		"export-jobs:read":         "See exports of your expenses",
		"export-jobs:write":        "Export your expenses and report the results",
		"export:read":              "See exports of your expenses",
		"export:write":             "Export your expenses",
		"tag-group:read":           "See your tags",
		"tag-group:write":          "Add and change tags",
		"tag-groups:read":          "See your tags",
		"tag-groups:write":         "Add and change tags",
		"tax-codes:read":           "See your tax codes",
		"tax-codes:write":          "Add and change tax codes",
		"test:test":                "Test the connection",
		"users:read":               "See the names and email addresses of people at your company",
		"users:write":              "Add and change people at your company",
		"vendors:read":             "See your vendors",
		"vendors:write":            "Add and change vendors",
	}
}
