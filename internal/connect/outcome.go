package connect

import (
	"errors"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// outcome is the result of an attempt. It is stored in a cookie, so that only the
// browser that made the attempt shows it, whichever replica responds. It contains
// nothing that the page does not show, and the page reads a success from the store.
type outcome struct {
	Connected   bool   `json:"connected,omitempty"`
	Reason      reason `json:"why,omitempty"`    // empty: nothing failed
	Chosen      string `json:"got,omitempty"`    // the label of the company that was chosen
	Expected    string `json:"have,omitempty"`   // the label of the connection's, if that alone would be ambiguous
	SupportCode string `json:"detail,omitempty"` // the error code from Pleo

	linkReason reason // why the link cannot be used any more; its page shows it
}

// outcomeFor returns the outcome for an error of a consent or key.
func outcomeFor(err error) outcome {
	var (
		other    *credstore.OtherCompanyError
		response *pleo.ResponseError
		failed   *refresh.Error
		taken    *refresh.CompanyTakenError
	)
	switch {
	case err == nil:
		return outcome{Connected: true}
	case errors.As(err, &other):
		expected, chosen := companyLabels(other.Have, other.Got)
		return outcome{Reason: otherCompany, Expected: expected, Chosen: chosen}
	case errors.Is(err, refresh.ErrCompanyUnknown):
		return outcome{Reason: companyUnknown}
	case errors.As(err, &taken):
		return outcome{Reason: companyTaken, Chosen: companyLabel(taken.Company)}
	case errors.Is(err, credstore.ErrLinkUsed), errors.Is(err, credstore.ErrLinkExpired), errors.Is(err, credstore.ErrNotFound):
		return outcome{linkReason: reasonForLinkError(err)}
	case errors.Is(err, refresh.ErrTokensMissing):
		return outcome{Reason: consentFailed}
	case errors.As(err, &response):
		return outcome{Reason: reasonForResponse(response), SupportCode: response.Code}
	case errors.As(err, &failed), errors.Is(err, credstore.ErrTokenTaken):
		return outcome{Reason: notSaved}
	}
	return outcome{Reason: pleoUnavailable} // the remaining errors are those of a request to Pleo
}

// reasonForResponse returns the reason for an error response of the token endpoint.
func reasonForResponse(e *pleo.ResponseError) reason {
	switch e.Class {
	case pleo.TokenRejected:
		return codeRejected
	case pleo.ClientRejected:
		return clientRejected
	case pleo.RateLimited:
		return pleoUnavailable
	}
	return consentFailed
}
