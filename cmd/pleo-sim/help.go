package main

const longHelp = `Serve a simulated Pleo on this machine: the authorization server, the API and a
control endpoint, with all state in memory, for clients in any language.

When it is ready it prints one line of JSON to standard output:

  {"api_url":"http://127.0.0.1:8490","auth_url":…,"control_url":…,
   "client_id":…,"client_secret":…,"redirect_uris":[…],
   "companies":[{"id":…,"name":…,…}],"keys":[{"id":…,"kind":…,"key":…,…}]}

Logs go to standard error. SIGTERM and SIGINT stop it with exit status 0.

Endpoints
  auth_url     GET /oauth/authorize, POST /oauth/token, POST /oauth/token/introspect
  api_url      GET /v1/introspect, GET and DELETE /v1/installations/me,
               GET /v2/employees, GET /v1/companies
               /echo and below, any method: the request as it arrived
  control_url  below, from this machine only

Control endpoint (JSON)
  GET    /_control/companies
  POST   /_control/companies              {"name":"Acme"}
  GET    /_control/grants
  POST   /_control/grants                 {"company":"Acme","access_token_lifetime":"4s"}; {} adds a company too
  DELETE /_control/grants/g1              revokes the grant, as the customer can
  POST   /_control/grants/revoke          {"grant":"g1"} or {"company_id":"…"}; {} revokes all
  POST   /_control/keys                   {"kind":"integrated_key","company":"Acme","expires_in":"1h"}
  DELETE /_control/keys/k1
  POST   /_control/access-tokens/kill     {"grant":"g1"} or {"company_id":"…"}; {} kills all
  POST   /_control/refresh-tokens/expire  the same
  GET    /_control/faults
  POST   /_control/faults                 see below
  DELETE /_control/faults/f1              also resumes the requests that it delays; without an id: all
  GET    /_control/counters               DELETE resets them to zero

Faults
  target  token (default), introspection, api, all
  kind    delay, hang, drop, reset, truncate, status, html, garbage, unauthorized
  when    before_commit (default) or after_commit: before or after the request took effect
  also    count (0: until cleared), grant (or key), path, delay, abandon, cut,
          cut_after, cut_reset, status, body, retry_after (seconds|date|none), wait
  {"kind":"drop","when":"after_commit","count":1}          refreshed, but the response is lost
  {"kind":"truncate","cut_after":"refresh_token"}
  {"kind":"status","status":429,"retry_after":"seconds","wait":"7s","target":"api"}
  {"kind":"unauthorized","target":"api","count":3}         401 for valid tokens

Settings are a JSON file. "pleo-sim settings" prints an example with every member
and its values. Flags override the file.`

const exampleHelp = `  pleo-sim
  pleo-sim --access-token-lifetime 4s --client-auth basic,post
  pleo-sim --listen 127.0.0.1:0 --fault '{"kind":"status","status":503,"count":2}'
  pleo-sim settings > sim.json && pleo-sim --settings sim.json
  curl -d '{}' http://127.0.0.1:8490/_control/grants`
