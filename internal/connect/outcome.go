package connect

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// outcome is what has come of an attempt. It travels in a cookie, so that it is
// shown to the browser that made the attempt, to nobody else, and by whichever
// replica is asked. It says nothing that the page does not show, so that it may
// be read; what it makes the page say about a success is read from the store.
type outcome struct {
	Connected bool   `json:"connected,omitempty"`
	Reason    reason `json:"why,omitempty"`    // empty: nothing has failed
	Chosen    string `json:"got,omitempty"`    // the company that was chosen
	Expected  string `json:"have,omitempty"`   // the connection's, to tell it from that; empty: as ever
	Detail    string `json:"detail,omitempty"` // the code that Pleo gave
}

// outcomeMaxAge is how long an outcome can be looked at again, in seconds.
const outcomeMaxAge = 15 * 60

// outcomeCookie is one for each link: two may be on their way in one browser.
func outcomeCookie(token credstore.Secret) string {
	hash := token.Hash()
	return "outcome-" + hex.EncodeToString(hash[:8])
}

func (p *Pages) setOutcome(w http.ResponseWriter, token credstore.Secret, o outcome) {
	text, err := json.Marshal(o)
	if err != nil {
		return // strings can be encoded
	}
	p.setCookie(w, outcomeCookie(token), base64.RawURLEncoding.EncodeToString(text), outcomeMaxAge)
}

func (p *Pages) clearOutcome(w http.ResponseWriter, token credstore.Secret) {
	p.setCookie(w, outcomeCookie(token), "", -1)
}

// outcomeFromCookie returns what this browser's latest attempt has come to, if it knows.
func (p *Pages) outcomeFromCookie(r *http.Request, v visit) outcome {
	var o outcome
	cookie, err := r.Cookie(p.cookieName(outcomeCookie(v.token)))
	if err != nil {
		return o
	}
	text, err := base64.RawURLEncoding.DecodeString(cookie.Value)
	if err != nil || json.Unmarshal(text, &o) != nil {
		return outcome{}
	}
	if _, known := p.messages[o.Reason]; !known {
		o.Reason = ""
	}
	return o
}

// companies returns what the two companies are called that the outcome is about.
func (o outcome) companies(have string) (string, string) { return cmp.Or(o.Expected, have), o.Chosen }

// failed is the page after an attempt that did not connect anything. The link
// can be tried again.
func (p *Pages) failed(v visit, o outcome) view {
	n := p.names(v)
	n.company, n.chosen = o.companies(n.company)
	page := p.stopped(o.Reason, n)
	page.Status = http.StatusOK
	page.CanRetry, page.ShowFacts, page.SupportCode = true, true, o.Detail
	page.Tenant, page.Company = v.tenant(), v.company()
	page.ReturnURL = p.returnURL(v, o.Reason)
	return page
}

// outcomeFor says what an error means for the customer.
func outcomeFor(err error) outcome {
	var (
		other    *credstore.OtherCompanyError
		answered *pleo.ResponseError
		mine     *refresh.Error
		taken    *refresh.CompanyTakenError
	)
	switch {
	case err == nil:
		return outcome{Connected: true}
	case errors.As(err, &other):
		have, got := companyLabels(other.Have, other.Got)
		return outcome{Reason: otherCompany, Expected: have, Chosen: got}
	case errors.Is(err, refresh.ErrCompanyUnknown):
		return outcome{Reason: companyUnknown}
	case errors.As(err, &taken):
		return outcome{Reason: companyTaken, Chosen: companyLabel(taken.Company)}
	case errors.Is(err, credstore.ErrLinkUsed), errors.Is(err, credstore.ErrLinkExpired), errors.Is(err, credstore.ErrNotFound):
		return outcome{} // the link itself says so
	case errors.Is(err, refresh.ErrTokensMissing):
		return outcome{Reason: consentFailed}
	case errors.As(err, &answered):
		return outcome{Reason: reasonForResponse(answered), Detail: answered.Code}
	case errors.As(err, &mine), errors.Is(err, credstore.ErrTokenTaken):
		return outcome{Reason: notSaved}
	}
	return outcome{Reason: pleoUnavailable} // what is left is that Pleo could not be asked
}

// reasonForResponse says what an answer of the token endpoint means.
func reasonForResponse(a *pleo.ResponseError) reason {
	switch a.Class {
	case pleo.TokenRejected:
		return codeRejected
	case pleo.ClientRejected:
		return clientRejected
	case pleo.RateLimited:
		return pleoUnavailable
	}
	return consentFailed
}
