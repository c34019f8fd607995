package connect

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// view is the data of a page. Which fields are used depends on the body.
type view struct {
	Status int
	Body   string

	Brand, Style, Logo string // of every page
	BrandFirst         string // the brand at the beginning of a sentence
	Tone               string // the colour of the page: stopped, done or empty

	Title   string // empty means Heading
	Heading string
	Lead    string

	Tenant, Company string // the facts
	Organisation    bool   // the company is an organisation
	ShowFacts       bool   // on a stopped page
	Permissions     []permission
	Missing         []permission
	Steps           []step
	Validity        string // of the link

	AsksExpiry  bool   // the form has a field for the expiry date of a key
	Expiry      string // the date that was entered before
	InvalidDate bool   // the problem is the date

	Problem     string // of a key, in a few words
	Explanation string
	NextStep    string
	CanRetry    bool   // the page has a button to try again
	ReturnURL   string // empty: the page has no button to go back
	SupportCode string
}

// step is one of the steps to a key in Pleo.
type step struct {
	Text        string
	Link        string       // empty: none
	Permissions []permission // to choose in this step
}

// views makes the views of pages.
type views struct {
	brand       string
	scopes      []string
	pleoURL     string // see Config
	environment string
	returnURLs  []string
	texts       texts
}

// known reports whether there is a message for the reason.
func (s views) known(why reason) bool {
	_, ok := s.texts.Messages[why]
	return ok
}

func (s views) names(v visit) names {
	n := names{brand: s.brand}
	if v.conn().ID != "" {
		n.tenant, n.company = v.tenant(), v.company()
	}
	return n
}

// consent returns the page with the button that starts a consent.
func (s views) consent(v visit) view {
	n := s.names(v)
	page := view{
		Body: consentBody, Status: http.StatusOK,
		Tenant: v.tenant(), Company: v.company(),
		Heading:     n.expand("Connect Pleo to {brand}"),
		Lead:        n.expand("{brand} would like to access your company’s data in Pleo."),
		Permissions: s.texts.permissions(s.scopes),
		Validity:    linkValidity(v.link),
	}
	if v.conn().Version > 0 {
		page.Heading, page.Lead = n.expand("Reconnect Pleo to {brand}"), n.expand(reconnectText(v))
	}
	return page
}

// reconnectText explains why a customer who was connected before is asked again.
func reconnectText(v visit) string {
	switch {
	case v.disabledForCompany() && v.company() != "":
		return "The company that was chosen in Pleo last time is not {company}, so no data is exchanged with Pleo. Please choose {company} this time."
	case v.disabledForCompany():
		return "The company that was chosen in Pleo last time is already connected to {brand} under another account, so no data is exchanged with Pleo. Please choose the company that belongs to {tenant}."
	}
	text := "You were connected before and can reconnect here. Your settings stay the same."
	switch v.conn().Status {
	case credstore.Active:
		text = "You are already connected. You only need to reconnect if {brand} asked you to. Your settings stay the same."
	case credstore.ReauthorizationRequired:
		text = "Pleo no longer accepts your earlier approval, so no data is exchanged with Pleo until you reconnect. Your settings stay the same."
	}
	if v.company() != "" && !v.link.AllowOtherCompany {
		text += " In Pleo, please choose the same company as before."
	}
	return text
}

func linkValidity(l credstore.Link) string {
	return "You can use this link once, until " + l.ExpiresAt.UTC().Format("2 January 2006, 15:04") + " UTC."
}

// key returns the page with the form for a key.
func (s views) key(v visit) view {
	n := s.names(v)
	page := view{
		Body: keyBody, Status: http.StatusOK,
		Tenant: v.tenant(), Company: v.company(),
		Heading:    n.expand("Connect Pleo to {brand}"),
		Lead:       n.expand("{brand} needs an API key for your company in Pleo. You create the key in Pleo and paste it here."),
		Steps:      s.steps(v.conn().Kind, n),
		AsksExpiry: v.conn().Kind == credstore.StandaloneKey,
		Validity:   linkValidity(v.link),
	}
	if v.conn().Version > 0 {
		page.Heading, page.Lead = n.expand("Enter a new API key for {brand}"), replaceKeyText(v)
	}
	return page
}

func replaceKeyText(v visit) string {
	text := "The new key replaces the current one. Your settings stay the same."
	if v.conn().Status == credstore.ReauthorizationRequired {
		text = "Pleo no longer accepts the current key, so no data is exchanged with Pleo until you enter a new one. Your settings stay the same."
	}
	if v.company() != "" && !v.link.AllowOtherCompany {
		text += " The key must be for the same company."
	}
	return text
}

// steps describes how to get a key in Pleo.
func (s views) steps(k credstore.Kind, n names) []step {
	signIn := step{Text: "Sign in to Pleo as an admin or bookkeeper of your company.", Link: s.pleoURL}
	if s.environment != "" {
		signIn.Text = "Sign in to Pleo’s " + s.environment + " environment as an admin or bookkeeper of your company."
	}
	copyKey := step{Text: "Pleo shows the key only once. Copy it and come back to this page."}
	if k == credstore.IntegratedKey {
		return []step{
			signIn,
			{Text: n.expand("Open Settings, then Accounting, and choose {brand}.")},
			{Text: "Pleo shows what the key will be allowed to do. Choose Allow.", Permissions: s.texts.permissions(s.scopes)},
			copyKey,
		}
	}
	create := step{Text: n.expand("Create a key named {brand}. Pleo asks for an expiry date, the company and the permissions.")}
	if len(s.scopes) > 0 {
		create.Text += " Choose these permissions:"
		create.Permissions = s.texts.permissions(s.scopes)
	}
	return []step{
		signIn,
		{Text: "Open Settings, then API Keys. If you do not see API Keys there, ask Pleo support to turn them on."},
		create,
		copyKey,
	}
}

// keyError returns the form for a key together with what was wrong. It keeps the
// date that was entered, but not the key.
func (s views) keyError(v visit, o outcome, date string, missing []string) view {
	n := s.names(v)
	n.company, n.chosen = o.companies(n.company)
	n.environment, n.otherEnvironment = s.environmentNames()
	m := s.texts.Messages[o.Reason]
	if m.Key != nil {
		m = *m.Key
	}
	page := s.key(v)
	page.Status = http.StatusUnprocessableEntity
	page.Problem, page.Explanation, page.NextStep = n.expand(m.Heading), n.expand(m.Explanation), n.expand(m.NextStep)
	page.Title = page.Problem + " – " + page.Heading
	page.Missing = s.texts.permissions(missing)
	page.InvalidDate = o.Reason == invalidDate || o.Reason == keyExpired
	// A date that is not valid may be the key, in the wrong field.
	if _, err := apikey.Expiry(date); err == nil {
		page.Expiry = date
	}
	return page
}

// environmentNames returns the names of Pleo's environment and the other one.
func (s views) environmentNames() (string, string) {
	if s.environment == "" {
		return "your live Pleo account", "Pleo’s test environment"
	}
	return "Pleo’s " + s.environment + " environment", "a live Pleo account"
}

// done returns the page after a success.
func (s views) done(v visit) view {
	c := v.conn()
	page := view{
		Body: doneBody, Status: http.StatusOK,
		Heading: "Connected",
		Tenant:  v.tenant(), Company: v.company(),
		Permissions: s.texts.permissions(strings.Fields(c.Scope)),
		Missing:     s.texts.permissions(pleo.MissingScopes(s.scopes, c.Scope)),
		ReturnURL:   s.returnURL(v, ""),
	}
	switch {
	case c.CompanyUnverified:
		page.Heading = "Almost done"
		page.Lead = "Pleo cannot tell us at the moment which company you approved access for. The connection starts working as soon as we know. You do not need to do anything else."
	case page.Company == "":
		page.Lead = "Pleo is now connected to {tenant} in {brand}."
	default:
		page.Lead = "{company} in Pleo is now connected to {tenant} in {brand}."
	}
	page.Lead = s.names(v).expand(page.Lead)
	return page
}

// failed returns the page after an attempt that connected nothing. The customer can
// try again.
func (s views) failed(v visit, o outcome) view {
	n := s.names(v)
	n.company, n.chosen = o.companies(n.company)
	page := s.stopped(o.Reason, n)
	page.Status = http.StatusOK
	page.CanRetry, page.ShowFacts, page.SupportCode = true, true, o.SupportCode
	page.Tenant, page.Company = v.tenant(), v.company()
	page.ReturnURL = s.returnURL(v, o.Reason)
	return page
}

// companies returns the labels of the two companies that the outcome is about.
func (o outcome) companies(connected string) (expected, chosen string) {
	if o.Expected != "" {
		connected = o.Expected
	}
	return connected, o.Chosen
}

// stoppedForLink returns the page of a link that cannot be used.
func (s views) stoppedForLink(v visit, why reason) view {
	page := s.stopped(why, s.names(v))
	if why != linkInvalid && why != storeUnavailable {
		page.ReturnURL = s.returnURL(v, why)
	}
	return page
}

// stopped returns the page that shows the message for a reason.
func (s views) stopped(why reason, n names) view {
	m, ok := s.texts.Messages[why]
	if !ok {
		m = s.texts.Messages[notFound]
	}
	return view{
		Body: stoppedBody, Status: m.Status,
		Heading: n.expand(m.Heading), Explanation: n.expand(m.Explanation), NextStep: n.expand(m.NextStep),
	}
}

// returnURL returns the URL to go back to, with the connection, its status and, if
// nothing was connected, the reason. It is empty if the link has none, or has one
// that the configuration no longer allows.
func (s views) returnURL(v visit, why reason) string {
	if v.link.ReturnURL == "" || !slices.Contains(s.returnURLs, v.link.ReturnURL) {
		return ""
	}
	u, err := url.Parse(v.link.ReturnURL)
	if err != nil {
		return ""
	}
	q := u.Query()
	q.Set("connection", v.conn().Name)
	q.Set("status", string(v.conn().Status))
	if why != "" {
		q.Set("error", string(why))
	}
	u.RawQuery = q.Encode()
	return u.String()
}
