package simulator

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"slices"
	"strings"
)

// echoed is what /echo tells about a request. It never holds the credential.
type echoed struct {
	Method  string      `json:"method"`
	Target  string      `json:"target"` // as received, byte for byte
	Proto   string      `json:"proto"`
	Host    string      `json:"host"`
	Headers []headField `json:"headers"`
	// AsReceived says that Headers has the order and spelling of the wire; else
	// the names are canonical and sorted.
	AsReceived    bool              `json:"headers_as_received"`
	Authorization authorizationInfo `json:"authorization"`
	Body          bodyInfo          `json:"body"`
	Trailers      []headField       `json:"trailers"`
}

type authorizationInfo struct {
	Count   int    `json:"count"` // of Authorization fields
	Scheme  string `json:"scheme"`
	Method  string `json:"auth_method"` // OAUTH2 or API_KEY
	Grant   string `json:"grant,omitempty"`
	Key     string `json:"key,omitempty"`
	Company string `json:"company_id,omitempty"`
	Subject string `json:"subject"`
}

type bodyInfo struct {
	Length int64  `json:"length"`
	SHA256 string `json:"sha256"`
}

// echo answers with what came.
func (s *Simulator) echo(c call) response {
	received := takeHead(c.r)
	hash := sha256.New()
	length, err := io.Copy(hash, c.r.Body)
	if err != nil {
		return exception(http.StatusBadRequest, "BODY_UNREADABLE", "the body broke off")
	}
	e := echoed{
		Method: c.r.Method, Target: c.r.RequestURI, Proto: c.r.Proto, Host: c.r.Host,
		Headers: hideAuthorization(received), AsReceived: received != nil,
		Authorization: authorizationOf(c),
		Body:          bodyInfo{length, hex.EncodeToString(hash.Sum(nil))},
		Trailers:      hideAuthorization(sorted(c.r.Trailer)),
	}
	if !e.AsReceived {
		e.Headers = hideAuthorization(sorted(c.r.Header))
	}
	return jsonResponse(http.StatusOK, e)
}

func authorizationOf(c call) authorizationInfo {
	return authorizationInfo{
		Count: len(c.r.Header.Values("Authorization")), Scheme: c.caller.scheme, Method: c.caller.method,
		Grant: c.caller.grant, Key: c.caller.key, Company: c.caller.subject.company, Subject: c.caller.subject.urn(),
	}
}

func sorted(h http.Header) []headField {
	fields := []headField{}
	for name, values := range h {
		for _, v := range values {
			fields = append(fields, headField{name, v})
		}
	}
	slices.SortStableFunc(fields, func(a, b headField) int { return strings.Compare(a.Name, b.Name) })
	return fields
}

// hideAuthorization replaces what must not be told.
func hideAuthorization(fields []headField) []headField {
	for i, f := range fields {
		if strings.EqualFold(f.Name, "Authorization") {
			scheme, _, _ := strings.Cut(f.Value, " ")
			fields[i].Value = scheme + " [hidden]"
		}
	}
	return fields
}
