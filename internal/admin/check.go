package admin

import "github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"

// Checkup is what was found about a connection, as operators see it. Nothing in
// it is secret.
type Checkup struct {
	Connection Connection `json:"connection"`
	Healthy    bool       `json:"healthy"` // active, and nothing speaks against it
	Findings   []Finding  `json:"findings"`
}

// Finding is what was found about one part of a credential.
type Finding struct {
	Part      string  `json:"part"`  // access_token, refresh_token, api_key or next_api_key
	Found     string  `json:"found"` // good, expired, not_good, other_company, not_asked or unknown
	CompanyID *string `json:"company_id"`
	Message   string  `json:"message"`
}

// DescribeCheckup returns what a check has found as operators see it.
func DescribeCheckup(c refresh.CredentialCheck) Checkup {
	check := Checkup{Connection: Describe(c.Connection), Healthy: c.Healthy(), Findings: []Finding{}}
	for _, f := range c.Findings {
		check.Findings = append(check.Findings, Finding{
			Part: f.Part, Found: string(f.Result), CompanyID: orNull(f.CompanyID), Message: f.Message,
		})
	}
	return check
}
