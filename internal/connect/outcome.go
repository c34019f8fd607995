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
	Why       why    `json:"why,omitempty"`    // empty: nothing has failed
	Got       string `json:"got,omitempty"`    // the company that was chosen
	Have      string `json:"have,omitempty"`   // the connection's, to tell it from that; empty: as ever
	Detail    string `json:"detail,omitempty"` // the code that Pleo gave
}

// outcomeKept is how long an outcome can be looked at again, in seconds.
const outcomeKept = 15 * 60

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
	p.setCookie(w, outcomeCookie(token), base64.RawURLEncoding.EncodeToString(text), outcomeKept)
}

func (p *Pages) forgetOutcome(w http.ResponseWriter, token credstore.Secret) {
	p.setCookie(w, outcomeCookie(token), "", -1)
}

// outcomeOf returns what this browser's latest attempt has come to, if it knows.
func (p *Pages) outcomeOf(r *http.Request, v visit) outcome {
	var o outcome
	cookie, err := r.Cookie(p.cookieName(outcomeCookie(v.token)))
	if err != nil {
		return o
	}
	text, err := base64.RawURLEncoding.DecodeString(cookie.Value)
	if err != nil || json.Unmarshal(text, &o) != nil {
		return outcome{}
	}
	if _, known := p.words[o.Why]; !known {
		o.Why = ""
	}
	return o
}

// names returns what the two companies are called that the outcome is about.
func (o outcome) names(have string) (string, string) { return cmp.Or(o.Have, have), o.Got }

// failed is the page after an attempt that did not connect anything. The link
// can be tried again.
func (p *Pages) failed(v visit, o outcome) view {
	n := p.names(v)
	n.have, n.got = o.names(n.have)
	page := p.stopped(o.Why, n)
	page.Status = http.StatusOK
	page.Again, page.Facts, page.Detail = true, true, o.Detail
	page.Tenant, page.Company = v.tenant(), v.company()
	page.Return = p.returnURL(v, o.Why)
	return page
}

// outcomeFor says what an error means for the customer.
func outcomeFor(err error) outcome {
	var (
		other    *credstore.OtherCompanyError
		answered *pleo.AnswerError
		mine     *refresh.Error
		taken    *refresh.CompanyTakenError
	)
	switch {
	case err == nil:
		return outcome{Connected: true}
	case errors.As(err, &other):
		have, got := companyLabels(other.Have, other.Got)
		return outcome{Why: otherCompany, Have: have, Got: got}
	case errors.Is(err, refresh.ErrCompanyNotTold):
		return outcome{Why: notTold}
	case errors.As(err, &taken):
		return outcome{Why: companyTaken, Got: companyLabel(taken.Company)}
	case errors.Is(err, credstore.ErrLinkUsed), errors.Is(err, credstore.ErrLinkExpired), errors.Is(err, credstore.ErrNotFound):
		return outcome{} // the link itself says so
	case errors.Is(err, refresh.ErrNoLastingGrant):
		return outcome{Why: pleoRefused}
	case errors.As(err, &answered):
		return outcome{Why: whyAnswered(answered), Detail: answered.Code}
	case errors.As(err, &mine), errors.Is(err, credstore.ErrTokenTaken):
		return outcome{Why: notSaved}
	}
	return outcome{Why: unreachable} // what is left is that Pleo could not be asked
}

// whyAnswered says what an answer of the token endpoint means.
func whyAnswered(a *pleo.AnswerError) why {
	switch a.Class {
	case pleo.Refused:
		return codeRefused
	case pleo.ClientRefused:
		return clientRefused
	case pleo.Busy:
		return unreachable
	}
	return pleoRefused
}
