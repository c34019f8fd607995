package simulator

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"slices"
	"strings"
)

// echoed is the response of /echo: a request as it arrived, without the
// credential.
type echoed struct {
	Method        string            `json:"method"`
	Target        string            `json:"target"` // as received, byte for byte
	Proto         string            `json:"proto"`
	Host          string            `json:"host"`
	Headers       []headerField     `json:"headers"` // in canonical form, sorted by name
	Authorization authorizationInfo `json:"authorization"`
	Body          bodyInfo          `json:"body"`
	Trailers      []headerField     `json:"trailers"`
}

type headerField struct {
	Name  string `json:"name"`
	Value string `json:"value"`
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

func echo(c call) response {
	hash := sha256.New()
	length, err := io.Copy(hash, c.r.Body)
	if err != nil {
		return exception(http.StatusBadRequest, "BODY_UNREADABLE", "the body is incomplete")
	}
	return jsonResponse(http.StatusOK, echoed{
		Method: c.r.Method, Target: c.r.RequestURI, Proto: c.r.Proto, Host: c.r.Host,
		Headers: headerFields(c.r.Header),
		Authorization: authorizationInfo{
			Count: len(c.r.Header.Values("Authorization")), Scheme: c.caller.scheme, Method: c.caller.method,
			Grant: c.caller.grant, Key: c.caller.key, Company: c.caller.company, Subject: subjectURN(c.caller.company),
		},
		Body:     bodyInfo{length, hex.EncodeToString(hash.Sum(nil))},
		Trailers: headerFields(c.r.Trailer),
	})
}

// headerFields returns the fields sorted by name, without credentials.
func headerFields(h http.Header) []headerField {
	fields := []headerField{}
	for name, values := range h {
		for _, v := range values {
			if name == "Authorization" {
				scheme, _, _ := strings.Cut(v, " ")
				v = scheme + " [hidden]"
			}
			fields = append(fields, headerField{name, v})
		}
	}
	slices.SortStableFunc(fields, func(a, b headerField) int { return strings.Compare(a.Name, b.Name) })
	return fields
}
