package simulator

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
)

// enrichment is the outcome of /v2/accounting-entries:enrich.
type enrichment struct {
	AccountingEntryID string   `json:"accountingEntryId,omitempty"`
	ReceiptStatus     string   `json:"receiptStatus"`
	Message           string   `json:"message,omitempty"`
	Tags              []string `json:"tags,omitempty"`
}

// enrich takes receipts. The last digit of the amount chooses the outcome, so
// that a client can meet all of them: 0 no entry matches (200), 9 matching goes
// on in the background (202), all else attached (201); the card 0000 is not
// found (404).
func (s *Simulator) enrich(c call) response {
	var body struct {
		Receipts []string `json:"receipts"`
		Tags     []string `json:"tags"`
	}
	if err := readJSON(c.r.Body, false, &body); err != nil {
		return exception(http.StatusBadRequest, "JSON_MAPPING_EXCEPTION", "the body is not the expected JSON")
	}
	if why := checkEnrichment(c, body.Receipts); why != "" {
		return exception(http.StatusBadRequest, "PARAMETER_VALIDATION_FAILED", why)
	}
	amount := c.query.Get("amount")
	switch {
	case c.query.Get("card_last_four_digits") == "0000":
		return jsonResponse(http.StatusNotFound, data{enrichment{ReceiptStatus: "UNRESOLVED", Message: "Card not found"}})
	case strings.HasSuffix(amount, "0"):
		return jsonResponse(http.StatusOK, data{enrichment{ReceiptStatus: "ADDED_TO_RECEIPT_INBOX"}})
	case strings.HasSuffix(amount, "9"):
		return jsonResponse(http.StatusAccepted, data{enrichment{ReceiptStatus: "ACCEPTED"}})
	}
	entry := deriveUUID("accounting entry", c.caller.subject.company, amount)
	return jsonResponse(http.StatusCreated, data{enrichment{AccountingEntryID: entry, ReceiptStatus: "UPLOADED", Tags: body.Tags}})
}

// checkEnrichment says what is wrong with the parameters or the receipts; empty:
// nothing.
func checkEnrichment(c call, receipts []string) string {
	if c.caller.subject.company == "" {
		return "the call needs a credential of a company"
	}
	for _, name := range []string{"amount", "currency", "card_last_four_digits", "merchant_name"} {
		if c.query.Get(name) == "" {
			return name + " is missing"
		}
	}
	if !hasOne(c.query, "performed_at", "settled_at") {
		return "performed_at or settled_at is missing"
	}
	for _, receipt := range receipts {
		if _, err := base64.StdEncoding.DecodeString(receipt); err != nil {
			return "a receipt is not base64"
		}
	}
	return ""
}

func hasOne(q url.Values, names ...string) bool {
	for _, name := range names {
		if q.Get(name) != "" {
			return true
		}
	}
	return false
}
