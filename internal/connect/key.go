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
		Heading: n.in("Connect Pleo to {brand}"),
		Lead:    n.in("{brand} needs an API key of your company in Pleo. You make it in Pleo and paste it here."),
		Steps:   p.steps(v.conn().Kind, n),
		Ends:    v.conn().Kind == credstore.StandaloneKey,
		Until:   until(v.link),
	}
	if v.conn().Version > 0 {
		page.Heading, page.Lead = n.in("Give {brand} a new API key"), n.againByKey(v)
	}
	return page
}

func (n names) againByKey(v visit) string {
	text := "The key that you paste takes the place of the one before. All settings stay as they are."
	if v.conn().Status == credstore.ReauthorizationRequired {
		text = "Pleo no longer accepts the key that was given before, so nothing goes to or comes from Pleo until there is a new one. All settings stay as they are."
	}
	if v.company() != "" && !v.link.AllowOtherCompany {
		text += " It has to be a key of the same company."
	}
	return n.in(text)
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
			{Text: n.in("Open Settings, then Accounting, and choose {brand}.")},
			{Text: "Pleo shows what the key will allow. Choose Allow.", Permissions: permissionsOf(p.Scopes)},
			{Text: "Pleo shows the key, once. Copy it, and come back here."},
		}
	}
	create := step{Text: n.in("Create a key called {brand}. Pleo asks until when it is to last, for which company it is, and what it allows.")}
	if len(p.Scopes) > 0 {
		create.Text += " Choose these permissions:"
		create.Permissions = permissionsOf(p.Scopes)
	}
	return []step{
		signIn,
		{Text: "Open Settings, then API Keys. If there are no API Keys in your settings, ask Pleo’s support to switch them on."},
		create,
		{Text: "Pleo shows the key, once. Copy it, and come back here."},
	}
}

// whenItEnds returns when a key ends that the form names the last day of; zero if
// it names none. Keys of integrations do not end by themselves.
func (p *Pages) whenItEnds(r *http.Request, v visit) (time.Time, why) {
	day := lastDay(r)
	if day == "" || v.conn().Kind != credstore.StandaloneKey {
		return time.Time{}, ""
	}
	ends, err := refresh.KeyEnds(day)
	if err != nil {
		return ends, notADay
	}
	if !ends.After(p.Now()) {
		return ends, keyOver
	}
	return ends, ""
}

func lastDay(r *http.Request) string { return strings.TrimSpace(r.PostForm.Get("expires_on")) }

// takeKey checks the key and stores it. The key is in no answer, whatever comes
// of it.
func (p *Pages) takeKey(w http.ResponseWriter, r *http.Request, v visit) {
	key, ok := readKey(r)
	ends, wrong := p.whenItEnds(r, v)
	if !ok {
		wrong = keyMisshapen
	}
	if wrong != "" {
		p.show(w, r, p.refusedKey(r, v, outcome{Why: wrong}, nil))
		return
	}
	ctx := credstore.WithActor(r.Context(), credstore.ActorCustomer)
	conn, err := p.Grants.SetKey(ctx, refresh.KeyGrant{
		ConnectionID: v.conn().ID, Key: key, ExpiresAt: ends, Scopes: p.Scopes, LinkToken: v.token,
		AllowOtherCompany:  v.link.AllowOtherCompany,
		AllowSharedCompany: v.link.AllowSharedCompany,
	})
	o, lacking := outcomeForKey(err)
	if o.Why != "" {
		p.show(w, r, p.refusedKey(r, v, p.giveUp(ctx, v, o, o.Why, err.Error()), lacking))
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
	key := refresh.PastedKey(r.PostForm.Get("key"))
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
	case errors.Is(err, refresh.ErrKeyElsewhere):
		return outcome{Why: keyElsewhere}, nil
	case errors.Is(err, pleo.ErrUnauthorized):
		return outcome{Why: keyUnknown}, nil
	case errors.As(err, &narrow):
		return outcome{Why: keyTooNarrow}, narrow.Missing
	}
	return outcomeFor(err), nil
}

// refusedKey is the form once more, with what is wrong. The day can stay in it; the
// key cannot.
func (p *Pages) refusedKey(r *http.Request, v visit, o outcome, lacking []string) view {
	n := p.names(v)
	n.have, n.got = o.names(n.have)
	n.here, n.there = p.here(), p.there()
	words := p.words[o.Why]
	if byKey, ok := keyWordings()[o.Why]; ok {
		words = byKey
	}
	page := p.keyForm(v)
	page.Status = http.StatusUnprocessableEntity
	page.Problem, page.Says, page.Do = n.in(words.heading), n.in(words.says), n.in(words.do)
	page.Title = page.Problem + " – " + page.Heading
	page.Missing = permissionsOf(lacking)
	page.BadDay = o.Why == notADay || o.Why == keyOver
	// What is no day may be the key, in the wrong field.
	if day := lastDay(r); day != "" {
		if _, err := refresh.KeyEnds(day); err == nil {
			page.LastDay = day
		}
	}
	return page
}

// keyWordings are those that read otherwise for keys than for consent.
func keyWordings() map[why]wording {
	return map[why]wording{
		otherCompany: {
			heading: "This key is of another company",
			says:    "This connection belongs to {have} in Pleo, and the key to {got}. It was not stored.",
			do:      "Make a key in Pleo for {have}. If the connection is to move to {got}, ask {brand} for a link that allows it.",
		},
		companyTaken: {
			heading: "This company is connected already",
			says:    "{got} in Pleo is connected to {brand} already, for somebody other than {tenant}. A company can be connected once. The key was not stored.",
			do:      "If you have several companies in Pleo, make a key for the one that belongs to {tenant}. If you do not know of another connection, ask {brand}.",
		},
		notTold: {
			heading: "Pleo does not say which company this key is for",
			says:    "The connection belongs to {have} in Pleo, so the key was not stored.",
			do:      "Wait a minute, paste the key again and try once more. If it happens again, tell {brand}.",
		},
		unreachable: {
			heading: "Pleo does not answer at the moment",
			says:    "The key could not be checked, and was not stored.",
			do:      "Wait a minute, paste the key again and try once more. Your link stays good.",
		},
		notSaved: {
			heading: "The key cannot be stored at the moment",
			says:    "Something on our side is not available.",
			do:      "Wait a minute, paste the key again and try once more. Your link stays good.",
		},
	}
}

// here and there name Pleo's environments, where a key belongs to the other one.
func (p *Pages) here() string {
	if p.Environment == "" {
		return "your real Pleo account"
	}
	return "Pleo’s " + p.Environment + " environment"
}

func (p *Pages) there() string {
	if p.Environment == "" {
		return "Pleo’s test environment"
	}
	return "the real Pleo"
}
