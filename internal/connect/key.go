package connect

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

const maxKeyLength = 1024

// takeKey checks the key in the form and stores it. No response contains the key.
func (p *Pages) takeKey(w http.ResponseWriter, r *http.Request, v visit) {
	expiry := strings.TrimSpace(r.PostForm.Get("expires_on"))
	key, ok := parseKey(r.PostForm.Get("key"))
	expiresAt, wrong := p.parseExpiry(expiry, v)
	if !ok {
		wrong = keyMalformed
	}
	if wrong != "" {
		p.show(w, r, p.views.keyError(v, outcome{Reason: wrong}, expiry, nil))
		return
	}
	ctx := credstore.WithActor(r.Context(), credstore.ActorCustomer)
	conn, err := p.Grants.SetKey(ctx, apikey.Change{
		ConnectionID: v.conn().ID, Key: key, ExpiresAt: expiresAt, Scopes: p.Scopes, LinkToken: v.token,
		AllowOtherCompany:  v.link.AllowOtherCompany,
		AllowSharedCompany: v.link.AllowSharedCompany,
	})
	o, missing := outcomeForKey(err)
	if o.Reason != "" {
		p.show(w, r, p.views.keyError(v, p.recordFailure(ctx, v, o, err.Error()), expiry, missing))
		return
	}
	if o.Connected {
		p.Logger.Info("key stored", zap.String("connection", conn.Name), zap.Int64("version", conn.Version))
		p.cookies.setOutcome(w, v.token, o)
	}
	http.Redirect(w, r, p.linkURL(v.token), http.StatusSeeOther)
}

// parseKey returns the key that was pasted into the form.
func parseKey(pasted string) (credstore.Secret, bool) {
	key := apikey.Trim(pasted)
	// A colon would end the user name that the key is sent as (RFC 7617 section 2).
	unexpected := func(c rune) bool { return c <= ' ' || c > '~' || c == ':' }
	if key == "" || len(key) > maxKeyLength || strings.ContainsFunc(key, unexpected) {
		return credstore.Secret{}, false
	}
	return credstore.NewSecret(key), true
}

// parseExpiry returns when a key with the expiry date ends, and zero without one.
// Integrated keys have none.
func (p *Pages) parseExpiry(date string, v visit) (time.Time, reason) {
	if date == "" || v.conn().Kind != credstore.StandaloneKey {
		return time.Time{}, ""
	}
	expiresAt, err := apikey.Expiry(date)
	if err != nil {
		return time.Time{}, invalidDate
	}
	if !expiresAt.After(p.Now()) {
		return time.Time{}, keyExpired
	}
	return expiresAt, ""
}

// outcomeForKey returns the outcome for an error of a key, and the scopes that the
// key lacks.
func outcomeForKey(err error) (outcome, []string) {
	var scopes *apikey.MissingScopesError
	switch {
	case errors.Is(err, apikey.ErrWrongEnvironment):
		return outcome{Reason: keyOfOtherEnvironment}, nil
	case errors.Is(err, pleo.ErrUnauthorized):
		return outcome{Reason: keyRejected}, nil
	case errors.As(err, &scopes):
		return outcome{Reason: keyMissingPermissions}, scopes.Missing
	}
	return outcomeFor(err), nil
}
