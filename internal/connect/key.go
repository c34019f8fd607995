package connect

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// step is one of the steps to a key in Pleo.
type step struct {
	Text        string
	Link        string       // empty: none
	Permissions []permission // to choose in this step
}

// keyForm is the page that asks for a key.
func (p *Pages) keyForm(v visit) view {
	n := p.names(v)
	page := view{
		Body: keyBody, Status: http.StatusOK,
		Tenant: v.tenant(), Company: v.company(),
		Heading:    n.expand("Connect Pleo to {brand}"),
		Lead:       n.expand("{brand} needs an API key of your company in Pleo. You make it in Pleo and paste it here."),
		Steps:      p.steps(v.conn().Kind, n),
		AsksExpiry: v.conn().Kind == credstore.StandaloneKey,
		Validity:   linkValidity(v.link),
	}
	if v.conn().Version > 0 {
		page.Heading, page.Lead = n.expand("Give {brand} a new API key"), n.keyRenewalText(v)
	}
	return page
}

func (n names) keyRenewalText(v visit) string {
	text := "The key that you paste takes the place of the one before. All settings stay as they are."
	if v.conn().Status == credstore.ReauthorizationRequired {
		text = "Pleo no longer accepts the key that was given before, so nothing goes to or comes from Pleo until there is a new one. All settings stay as they are."
	}
	if v.company() != "" && !v.link.AllowOtherCompany {
		text += " It has to be a key of the same company."
	}
	return n.expand(text)
}

// steps tells where the key is to be had in Pleo.
func (p *Pages) steps(k credstore.Kind, n names) []step {
	signIn := step{Text: "Sign in to Pleo as an admin or a bookkeeper of the company.", Link: p.PleoURL}
	if p.Environment != "" {
		signIn.Text = "Sign in to Pleo’s " + p.Environment + " environment as an admin or a bookkeeper of the company."
	}
	if k == credstore.IntegratedKey {
		return []step{
			signIn,
			{Text: n.expand("Open Settings, then Accounting, and choose {brand}.")},
			{Text: "Pleo shows what the key will allow. Choose Allow.", Permissions: permissionsFor(p.Scopes)},
			{Text: "Pleo shows the key, once. Copy it, and come back here."},
		}
	}
	create := step{Text: n.expand("Create a key called {brand}. Pleo asks until when it is to last, for which company it is, and what it allows.")}
	if len(p.Scopes) > 0 {
		create.Text += " Choose these permissions:"
		create.Permissions = permissionsFor(p.Scopes)
	}
	return []step{
		signIn,
		{Text: "Open Settings, then API Keys. If there are no API Keys in your settings, ask Pleo’s support to switch them on."},
		create,
		{Text: "Pleo shows the key, once. Copy it, and come back here."},
	}
}

// keyExpiry returns when a key ends that the form names the last day of; zero if
// it names none. Keys of integrations do not end by themselves.
func (p *Pages) keyExpiry(r *http.Request, v visit) (time.Time, reason) {
	day := lastDay(r)
	if day == "" || v.conn().Kind != credstore.StandaloneKey {
		return time.Time{}, ""
	}
	ends, err := refresh.KeyExpiry(day)
	if err != nil {
		return ends, invalidDate
	}
	if !ends.After(p.Now()) {
		return ends, keyExpired
	}
	return ends, ""
}

func lastDay(r *http.Request) string { return strings.TrimSpace(r.PostForm.Get("expires_on")) }

// takeKey checks the key and stores it. The key is in no answer, whatever comes
// of it.
func (p *Pages) takeKey(w http.ResponseWriter, r *http.Request, v visit) {
	key, ok := readKey(r)
	ends, wrong := p.keyExpiry(r, v)
	if !ok {
		wrong = keyMalformed
	}
	if wrong != "" {
		p.show(w, r, p.keyFormWithError(r, v, outcome{Reason: wrong}, nil))
		return
	}
	ctx := credstore.WithActor(r.Context(), credstore.ActorCustomer)
	conn, err := p.Grants.SetKey(ctx, refresh.KeyChange{
		ConnectionID: v.conn().ID, Key: key, ExpiresAt: ends, Scopes: p.Scopes, LinkToken: v.token,
		AllowOtherCompany:  v.link.AllowOtherCompany,
		AllowSharedCompany: v.link.AllowSharedCompany,
	})
	o, lacking := outcomeForKey(err)
	if o.Reason != "" {
		p.show(w, r, p.keyFormWithError(r, v, p.recordFailure(ctx, v, o, o.Reason, err.Error()), lacking))
		return
	}
	if o.Connected {
		p.Logger.Info("a customer has given a key", zap.String("connection", conn.Name), zap.Int64("version", conn.Version))
		p.setOutcome(w, v.token, o)
	}
	http.Redirect(w, r, p.linkURL(v.token), http.StatusSeeOther)
}

// maxKey is how long a key may be, in bytes.
const maxKey = 1024

// readKey takes the key out of the form.
func readKey(r *http.Request) (credstore.Secret, bool) {
	key := refresh.TrimKey(r.PostForm.Get("key"))
	// A colon would end the user name that the key is sent as (RFC 7617 section 2).
	odd := func(c rune) bool { return c <= ' ' || c > '~' || c == ':' }
	if key == "" || len(key) > maxKey || strings.ContainsFunc(key, odd) {
		return credstore.Secret{}, false
	}
	return credstore.NewSecret(key), true
}

// outcomeForKey says what an error of a key means for the customer, and which
// scopes the key lacks.
func outcomeForKey(err error) (outcome, []string) {
	var narrow *refresh.MissingScopesError
	switch {
	case errors.Is(err, refresh.ErrWrongEnvironment):
		return outcome{Reason: keyOfOtherEnvironment}, nil
	case errors.Is(err, pleo.ErrUnauthorized):
		return outcome{Reason: keyRejected}, nil
	case errors.As(err, &narrow):
		return outcome{Reason: keyMissingPermissions}, narrow.Missing
	}
	return outcomeFor(err), nil
}

// keyFormWithError is the form once more, with what is wrong. The day can stay in it; the
// key cannot.
func (p *Pages) keyFormWithError(r *http.Request, v visit, o outcome, lacking []string) view {
	n := p.names(v)
	n.company, n.chosen = o.companies(n.company)
	n.environment, n.otherEnvironment = p.environmentName(), p.otherEnvironmentName()
	words := p.messages[o.Reason]
	if byKey, ok := keyVariants()[o.Reason]; ok {
		words = byKey
	}
	page := p.keyForm(v)
	page.Status = http.StatusUnprocessableEntity
	page.Problem, page.Explanation, page.NextStep = n.expand(words.heading), n.expand(words.explanation), n.expand(words.nextStep)
	page.Title = page.Problem + " – " + page.Heading
	page.Missing = permissionsFor(lacking)
	page.InvalidDate = o.Reason == invalidDate || o.Reason == keyExpired
	// What is no day may be the key, in the wrong field.
	if day := lastDay(r); day != "" {
		if _, err := refresh.KeyExpiry(day); err == nil {
			page.LastDay = day
		}
	}
	return page
}

// keyVariants are those that read otherwise for keys than for consent.
func keyVariants() map[reason]message {
	return map[reason]message{
		otherCompany: {
			heading:     "This key is of another company",
			explanation: "This connection belongs to {have} in Pleo, and the key to {got}. It was not stored.",
			nextStep:    "Make a key in Pleo for {have}. If the connection is to move to {got}, ask {brand} for a link that allows it.",
		},
		companyTaken: {
			heading:     "This company is connected already",
			explanation: "{got} in Pleo is connected to {brand} already, for somebody other than {tenant}. A company can be connected once. The key was not stored.",
			nextStep:    "If you have several companies in Pleo, make a key for the one that belongs to {tenant}. If you do not know of another connection, ask {brand}.",
		},
		companyUnknown: {
			heading:     "Pleo does not say which company this key is for",
			explanation: "The connection belongs to {have} in Pleo, so the key was not stored.",
			nextStep:    "Wait a minute, paste the key again and try once more. If it happens again, tell {brand}.",
		},
		pleoUnavailable: {
			heading:     "Pleo does not answer at the moment",
			explanation: "The key could not be checked, and was not stored.",
			nextStep:    "Wait a minute, paste the key again and try once more. Your link stays good.",
		},
		notSaved: {
			heading:     "The key cannot be stored at the moment",
			explanation: "Something on our side is not available.",
			nextStep:    "Wait a minute, paste the key again and try once more. Your link stays good.",
		},
	}
}

// environmentName and there name Pleo's environments, where a key belongs to the other one.
func (p *Pages) environmentName() string {
	if p.Environment == "" {
		return "your real Pleo account"
	}
	return "Pleo’s " + p.Environment + " environment"
}

func (p *Pages) otherEnvironmentName() string {
	if p.Environment == "" {
		return "Pleo’s test environment"
	}
	return "the real Pleo"
}
