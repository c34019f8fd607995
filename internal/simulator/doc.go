// Package simulator is a Pleo for tests and demos: an authorization server, an
// API and a control endpoint, all in memory, with Pleo's bad manners as
// settings and everything that can go wrong as a fault that can be set.
//
// It shares no code with the rest of the program, so that it is an honest other
// party. In a Go test:
//
//	sim, err := simulator.New(simulator.Config{})
//	server := httptest.NewServer(sim.Handler())
//	grant, err := sim.IssueGrant(simulator.GrantRequest{})
//
// As a program it is cmd/pleo-sim.
//
// # What it does by default
//
// Access tokens last 15 minutes, refresh tokens 60 days. A refresh gives a new
// pair and ends every earlier token at once. A refresh token that is presented
// after it was spent or has expired revokes the whole grant. Clients prove
// themselves by Basic authentication (RFC 6749 section 2.3.1), and PKCE with
// S256 is required. API keys go as the user name of Basic authentication with an
// empty password. Every answer has a request-Id, errors have Pleo's shape
// {"type","message"}. What Pleo's documentation leaves open is a member of
// [OAuthSettings] or [APISettings].
//
// # Endpoints
//
// Authorization server: GET /oauth/authorize, POST /oauth/token and POST
// /oauth/token/introspect. The authorization request takes the extra parameter
// sim_company (id or name), the company whose admin gives consent.
//
// API: /v1/introspect, /v1/installations/me (GET, POST, PUT, DELETE),
// /v1/installations/me:activate, /v1/installations/completions, /v2/employees,
// /v1/companies, /v3/export-jobs with items, /v3/export-job-events,
// /v3/export-items, /v2/accounting-entries:enrich. Any method on /echo and
// below answers with what arrived: method, target, header fields, length and
// SHA-256 of the body, trailers, and whose credential it was (never the
// credential). The request header Simulator-Expect-Company: UUID makes the
// counters tell requests that carry the credential of another company.
//
// # Control endpoint
//
// JSON in, JSON out; for programs on the same machine.
//
//	GET    /_control/settings
//	PATCH  /_control/settings               {"oauth":{"reuse":"refuse"}}   members given replace those in force
//	GET    /_control/companies
//	POST   /_control/companies              {"name":"Acme"}
//	POST   /_control/clients                {"id":"…","secret":"…","redirect_uris":["…"]}   adds or replaces
//	GET    /_control/grants
//	POST   /_control/grants                 {"company":"Acme","access_token_lifetime":"4s"}   {} makes a company too
//	DELETE /_control/grants/g1              the customer revokes it
//	POST   /_control/grants/revoke          {"grant":"g1"} or {"company_id":"…"}; {} revokes all
//	POST   /_control/keys                   {"kind":"integrated_key","company":"Acme","expires_in":"1h"}
//	DELETE /_control/keys/k1
//	POST   /_control/access-tokens/kill     {"grant":"g1"} or {"company_id":"…"}; {} kills all
//	POST   /_control/refresh-tokens/expire  the same
//	GET    /_control/faults
//	POST   /_control/faults                 {"kind":"drop","when":"after_commit","count":1}
//	DELETE /_control/faults/f1              clears it and lets what hangs on it go on; without an id: all
//	GET    /_control/counters
//	DELETE /_control/counters               sets them to zero
//	GET    /_control/events?after=0&wait=30s&phase=committed
//
// # Faults
//
// A [Fault] acts on the token endpoint ("target":"token", the default), on
// "introspection", on the "api" or on "all", on the next "count" requests or
// until cleared, for one "grant" or "company_id" or for any:
//
//	{"kind":"delay","delay":"30s","when":"before_commit"}       late; after_commit: done, answered late
//	{"kind":"hang","abandon":true}                              until cleared, or until the client leaves
//	{"kind":"drop","when":"after_commit"}                       closed without an answer
//	{"kind":"reset","when":"after_commit"}                      the same by TCP reset
//	{"kind":"truncate","cut":40}                                the answer breaks off within its body
//	{"kind":"truncate","cut_behind":"refresh_token"}            … just behind the refresh token
//	{"kind":"status","status":503}
//	{"kind":"status","status":429,"retry_after":"date","wait":"7s"}
//	{"kind":"html"}  {"kind":"garbage"}
//	{"kind":"unauthorized","target":"api","count":3}            401 for good tokens
//
// # Events
//
// Every token request goes through "received", then "committed" or "refused",
// then "answered". [Simulator.Subscribe], [Simulator.AwaitEvent] and GET
// /_control/events tell them as they happen, so that a test can stop the world
// with a hang and act between two steps instead of sleeping: set a hang before
// or after the commit, await "received" or "committed", kill the client, clear
// the fault.
package simulator
