package connect

import (
	"bytes"
	"cmp"
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// reason is why nothing was connected. It is used in cookies, URLs and the history.
type reason string

const (
	// After a consent; the link can be used again.
	consentDenied   reason = "consent_denied"
	otherCompany    reason = "other_company"
	companyTaken    reason = "company_connected_elsewhere"
	pleoUnavailable reason = "pleo_unavailable"
	codeRejected    reason = "consent_not_completed"
	clientRejected  reason = "oauth_client_rejected"
	wrongIssuer     reason = "wrong_issuer"
	consentFailed   reason = "consent_failed"
	notSaved        reason = "not_saved"
	companyUnknown  reason = "company_unknown"

	keyMalformed          reason = "key_malformed"
	keyRejected           reason = "key_rejected"
	keyOfOtherEnvironment reason = "key_of_another_environment"
	keyMissingPermissions reason = "key_without_permissions"
	keyExpired            reason = "key_expired"
	invalidDate           reason = "invalid_date"

	linkUsed           reason = "link_used"
	linkExpired        reason = "link_expired"
	linkInvalid        reason = "link_invalid"
	otherBrowser       reason = "other_browser"
	attemptExpired     reason = "attempt_expired"
	connectionDisabled reason = "connection_disabled"
	oauthNotConfigured reason = "oauth_not_configured"
	storeUnavailable   reason = "store_unavailable"
	tooManyAttempts    reason = "too_many_requests"
	serverBusy         reason = "too_busy"
	badRequest         reason = "bad_request"
	crossSiteRequest   reason = "cross_site_request"
	hostNotAllowed     reason = "host_not_allowed"
	notFound           reason = "not_found"
)

// texts are the texts of the pages.
type texts struct {
	Messages map[reason]message
	Scopes   map[string]string // scope → description
}

// message is the text of a page for one reason.
type message struct {
	Status      int // of the page
	Heading     string
	Explanation string
	NextStep    string   `yaml:"next_step"`
	Key         *message // the text for keys; nil: the same as for consents
}

// readTexts reads the texts from the embedded file.
func readTexts() (texts, error) {
	var t texts
	raw, err := pageFiles.ReadFile("pages/texts.yaml")
	if err != nil {
		return t, fmt.Errorf("reading the texts: %w", err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&t); err != nil {
		return t, fmt.Errorf("parsing the texts: %w", err)
	}
	return t, nil
}

// permissions returns the permissions of the scopes, in their order.
func (t texts) permissions(scopes []string) []permission {
	all := make([]permission, 0, len(scopes))
	for _, scope := range scopes {
		all = append(all, permission{Description: t.describeScope(scope), Scope: scope})
	}
	return all
}

// permission is a scope with its description.
type permission struct {
	Description string
	Scope       string
}

// describeScope describes what a scope allows. Scopes without a description have the
// form RESOURCE:read or RESOURCE:write.
func (t texts) describeScope(scope string) string {
	if text, ok := t.Scopes[scope]; ok {
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

// names are the values of the placeholders.
type names struct {
	brand, tenant                 string
	company, chosen               string // the connection's company, and the customer's choice
	environment, otherEnvironment string
}

func (n names) expand(text string) string {
	return capitalized(strings.NewReplacer(
		"{brand}", plain(n.brand), "{tenant}", cmp.Or(plain(n.tenant), "your account"),
		"{company}", cmp.Or(plain(n.company), "another company"), "{chosen}", cmp.Or(plain(n.chosen), "the company that you chose"),
		"{environment}", cmp.Or(n.environment, "another Pleo environment"), "{otherEnvironment}", cmp.Or(n.otherEnvironment, "a different one"),
	).Replace(text))
}

// capitalized returns a text that begins with a capital letter if it begins with the
// default for a name.
func capitalized(text string) string {
	if rest, ok := strings.CutPrefix(text, "the "); ok {
		return "The " + rest
	}
	return text
}

// plain returns a name without the characters that change the direction of the text
// around it (Unicode Standard Annex 9, section 2).
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= '\u202A' && r <= '\u202E' || r >= '\u2066' && r <= '\u2069' || r == '\u200E' || r == '\u200F' || r == '\u061C' {
			return -1
		}
		return r
	}, name)
}

// A credential of an organisation has no company.
const (
	organisationURN = "urn:pleo:organisation:"
	organisation    = "the organisation "
)

// companyLabel returns the name of a company, or its id if the name is not known.
func companyLabel(c credstore.Company) string {
	if name := strings.TrimSpace(plain(c.Name)); name != "" {
		return name
	}
	if id, ok := strings.CutPrefix(c.Subject, organisationURN); ok && c.ID == "" {
		return organisation + id
	}
	return cmp.Or(c.ID, c.Subject)
}

// companyLabels returns labels that distinguish two companies.
func companyLabels(have, got credstore.Company) (string, string) {
	a, b := companyLabel(have), companyLabel(got)
	if a != b {
		return a, b
	}
	return a + " (" + cmp.Or(have.ID, have.Subject) + ")", b + " (" + cmp.Or(got.ID, got.Subject) + ")"
}
