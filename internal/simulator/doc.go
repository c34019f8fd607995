// Package simulator simulates Pleo for tests and demos.
//
// It is an authorization server, an API and a control endpoint with all state
// in memory. Settings choose among the behaviours that Pleo's documentation
// leaves open, and faults make requests fail. The package shares no code with
// the proxy, so that a misreading of Pleo's documentation in one of them shows
// in the other. In a Go test:
//
//	sim, err := simulator.New(simulator.Config{})
//	server := httptest.NewServer(sim.Handler())
//	grant, err := sim.IssueGrant(simulator.GrantRequest{})
//
// The program cmd/pleo-sim serves it to clients in any language.
//
// # Defaults
//
// Access tokens are valid for 15 minutes, refresh tokens for 60 days. A refresh
// returns a new pair and invalidates every earlier token at once. A refresh
// token that is sent again after it was used or has expired revokes its grant.
// Clients authenticate with HTTP Basic (RFC 6749 section 2.3.1), and PKCE with
// S256 is required. An API key is the user name of HTTP Basic with an empty
// password. Every response has a request-Id, and errors have Pleo's form
// {"type","message"}.
//
// # Endpoints
//
// The authorization server has GET /oauth/authorize, POST /oauth/token and POST
// /oauth/token/introspect. The authorization request accepts the additional
// parameter sim_company (id or name), which names the company that gives
// consent.
//
// The API has GET /v1/introspect, GET and DELETE /v1/installations/me, and the
// paged lists /v1/companies and /v2/employees. Any method on /echo and below
// responds with the request as it arrived: method, target, header fields,
// length and SHA-256 of the body, trailers, and which credential it carried
// (never the credential itself).
//
// A request with the header field Simulator-Expect-Company: UUID increments the
// counter wrong_company if its credential belongs to another company.
//
// # Control endpoint
//
// Requests and responses are JSON. Only programs on the same machine may use
// it.
//
//	GET    /_control/companies
//	POST   /_control/companies              {"name":"Acme"}
//	GET    /_control/grants
//	POST   /_control/grants                 {"company":"Acme","access_token_lifetime":"4s"}; {} adds a company too
//	DELETE /_control/grants/g1              revokes the grant, as the customer can
//	POST   /_control/grants/revoke          {"grant":"g1"} or {"company_id":"…"}; {} revokes all
//	POST   /_control/keys                   {"kind":"integrated_key","company":"Acme","expires_in":"1h"}
//	DELETE /_control/keys/k1
//	POST   /_control/access-tokens/kill     {"grant":"g1"} or {"company_id":"…"}; {} kills all
//	POST   /_control/refresh-tokens/expire  the same
//	GET    /_control/faults
//	POST   /_control/faults                 {"kind":"drop","when":"after_commit","count":1}
//	DELETE /_control/faults/f1              also resumes the requests that it delays; without an id: all
//	GET    /_control/counters
//	DELETE /_control/counters               resets them to zero
//
// # Faults
//
// A [Fault] applies to the token endpoint ("target":"token", the default), to
// token introspection ("introspection"), to the "api" or to "all"; to the next
// "count" requests or until it is cleared; to one "grant" or to all:
//
//	{"kind":"delay","delay":"30s","when":"before_commit"}       or after_commit: the response is late
//	{"kind":"hang","abandon":true}                              until cleared, or until the client disconnects
//	{"kind":"drop","when":"after_commit"}                       closes the connection without a response
//	{"kind":"reset","when":"after_commit"}                      the same with a TCP reset
//	{"kind":"truncate","cut":40}                                ends the response within its body
//	{"kind":"truncate","cut_after":"refresh_token"}             … just after the refresh token
//	{"kind":"status","status":503}
//	{"kind":"status","status":429,"retry_after":"date","wait":"7s"}
//	{"kind":"html"}  {"kind":"garbage"}
//	{"kind":"unauthorized","target":"api","count":3}            401 for valid tokens
//
// # Events
//
// Every token request passes through the phases "received", then "committed" or
// "rejected", then "responded". [Simulator.Subscribe] and
// [Simulator.AwaitEvent] report them as they happen, so that a test can stop a
// request with a hang and act between two phases instead of sleeping: set a
// hang before or after the commit, wait for "received" or "committed", kill the
// client, clear the fault.
package simulator
