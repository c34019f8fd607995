#!/bin/sh
# Shows pleo-auth-proxy at work on this machine, against a simulated Pleo: requests
# with three connections, a refresh before expiry, a token that Pleo invalidates
# early, and a revoked grant. Run it with `make demo`.
#
# Every step prints the commands that it runs. The script exits 1, with the logs of
# both programs, if a step does not have the expected result. Its files stay in
# .demo, which the next run replaces. DEMO_WORK, DEMO_BIN and DEMO_TIMEOUT override
# that directory, the one with the programs, and the time to wait for an event.
set -eu
cd "$(dirname "$0")/.."

work=${DEMO_WORK:-.demo}
bin=${DEMO_BIN:-$PWD/bin}
timeout=${DEMO_TIMEOUT:-15} # seconds to wait for anything
token_lifetime=4s           # short enough to watch a refresh; Pleo's tokens last minutes

# PLEO_ variables would override the configuration that the demo shows.
for name in $(env | sed -n 's/^\(PLEO_[A-Za-z0-9_]*\)=.*/\1/p'); do unset "$name"; done
export no_proxy='*' NO_PROXY='*' PATH="$bin:$PATH"

pids=
cleanup() {
  status=$?
  trap - EXIT
  if [ "$status" != 0 ]; then
    printf '\nThe demo failed. The logs of the programs:\n'
    tail -n 50 "$work/pleo-sim.log" "$work/proxy.log" 2>/dev/null || true
  fi >&2
  for pid in $pids; do kill "$pid" 2>/dev/null || true; done
  wait
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP PIPE

step=0
explain() { step=$((step + 1)) && printf '\n%d. %s\n' "$step" "$1"; }
indent() { sed 's/^/     /'; }
fail() { echo "demo: $*" >&2 && exit 1; }

# run COMMAND... prints a command, runs it and indents its output.
run() {
  printf '     $ %s\n' "$*"
  "$@" >"$work/out" 2>&1 || { indent <"$work/out" && fail "the command exited with status $?"; }
  indent <"$work/out"
}

# get CONNECTION PATH STATUS sends a request through the proxy and checks the status
# code of the response.
get() {
  printf "     \$ curl -si -H 'Pleo-Connection: %s' '%s'\n" "$1" "$proxy$2"
  curl -si -H "Pleo-Connection: $1" "$proxy$2" | tr -d '\r' >"$work/out"
  sed -n '1p' "$work/out" | indent
  sed '1,/^$/d' "$work/out" | cut -c 1-600 | indent
  [ "$(sed -n '1s/[^ ]* \([0-9]*\).*/\1/p' "$work/out")" = "$3" ] || fail "the status code is not $3"
}

# control METHOD PATH [BODY] sends a request to the simulator's control endpoint.
control() { curl -sf -X "$1" "$pleo/_control/$2" -d "${3-}"; }

# member NAME prints a string or number of the JSON document on standard input.
member() { sed -n 's/.*"'"$1"'": *"\{0,1\}\([^",}]*\).*/\1/p'; }

# connection NAME MEMBER prints a member of a connection.
connection() { pleo-auth-proxy --config "$work/config.yaml" connections show "$1" --json 2>/dev/null | member "$2"; }

# wait_until DESCRIPTION COMMAND... runs a command until it succeeds.
wait_until() {
  what=$1 tries=0
  shift
  until "$@"; do
    tries=$((tries + 1))
    [ "$tries" -lt "$((timeout * 10))" ] || fail "timeout while waiting until $what"
    sleep 0.1
  done
}

rm -rf "$work" && mkdir -m 700 "$work"
if ! command -v curl >/dev/null; then
  echo 'curl is not installed; the demo builds a substitute for the requests below.'
  CGO_ENABLED=0 go build -o "$work/bin/curl" ./demo/curl
  PATH="$(cd "$work/bin" && pwd):$PATH"
fi

explain "Start a simulated Pleo whose access tokens are valid for $token_lifetime."
printf '     $ pleo-sim --listen 127.0.0.1:0 --access-token-lifetime %s\n' "$token_lifetime"
pleo-sim --listen 127.0.0.1:0 --access-token-lifetime "$token_lifetime" >"$work/pleo-sim.json" 2>"$work/pleo-sim.log" &
pids=$!
wait_until "pleo-sim becomes ready" test -s "$work/pleo-sim.json"
pleo=$(member api_url <"$work/pleo-sim.json")
client_id=$(member client_id <"$work/pleo-sim.json")
umask 077
member client_secret <"$work/pleo-sim.json" | tr -d '\n' >"$work/client-secret"

explain 'Write the configuration of the proxy. Port 0 means any free port.'
cat >"$work/config.yaml" <<END
environment: custom   # or production, without the URLs below
data_dir: $work/data
upstream:
  api_url: $pleo
  auth_url: $pleo
oauth:
  client_id: $client_id
  client_secret_file: $work/client-secret
proxy:
  listen: 127.0.0.1:0
admin:
  listen: 127.0.0.1:0
END
run cat "$work/config.yaml"

explain 'The customer of acme consents (the simulator does that without a browser). Import the tokens.'
control POST grants '{"company":"Company 1 ApS"}' >"$work/grant.json"
grant=$(member grant <"$work/grant.json")
sed 's/.*\("access_token":"[^"]*"\).*\("refresh_token":"[^"]*"\).*\("expires_at":"[^"]*"\).*/{"name":"acme","kind":"oauth",\1,\2,\3}/' \
  "$work/grant.json" >"$work/acme.jsonl"
run pleo-auth-proxy --config "$work/config.yaml" connections import "$work/acme.jsonl"
rm "$work/acme.jsonl" "$work/grant.json"

explain 'Add bolt with an integrated key, and crux with a standalone key. Keys are read from files, never from arguments.'
control POST keys '{"kind":"integrated_key","company":"Company 2 ApS"}' | member key >"$work/bolt.key"
control POST keys '{"kind":"standalone_key","company":"Company 3 ApS"}' | member key >"$work/crux.key"
run pleo-auth-proxy --config "$work/config.yaml" connections add bolt --kind integrated_key --key-file "$work/bolt.key"
run pleo-auth-proxy --config "$work/config.yaml" connections add crux --kind standalone_key --key-file "$work/crux.key"

explain 'Start the proxy.'
printf '     $ pleo-auth-proxy serve --json --config %s\n' "$work/config.yaml"
pleo-auth-proxy serve --json --config "$work/config.yaml" >"$work/proxy.json" 2>"$work/proxy.log" &
pids="$! $pids"
wait_until "the proxy becomes ready" test -s "$work/proxy.json"
proxy=http://$(member proxy <"$work/proxy.json")

explain 'Send plain requests. The proxy adds the Bearer token of acme, and the keys of bolt and crux.'
get acme /v1/introspect 200
get bolt /v1/introspect 200
get crux /v1/introspect 200

explain "The access token of acme is about to expire. The proxy refreshes it in advance, because it is in use."
before=$(connection acme version)
version_changed() { [ "$(connection acme version)" -gt "$before" ]; }
wait_until "acme is refreshed" version_changed
echo "     the credential has changed from version $before to version $(connection acme version)"
get acme '/v2/employees?limit=1' 200

explain 'Pleo invalidates the token of acme early. The proxy gets a 401, refreshes and sends the request again.'
control POST access-tokens/kill "{\"grant\":\"$grant\"}" >/dev/null
get acme '/v1/companies?limit=1' 200
sent_twice() { grep '"path":"/v1/companies"' "$work/proxy.log" | grep -q '"attempts":2'; }
wait_until "the log says that the request was sent twice" sent_twice
run grep '"path":"/v1/companies"' "$work/proxy.log"

explain 'The customer of acme removes the integration at Pleo. The next refresh is rejected, and the response says what to do.'
control DELETE "grants/$grant"
is_rejected() { [ "$(connection acme status)" = reauthorization_required ]; }
wait_until "the refresh of acme is rejected" is_rejected
get acme '/v2/employees?limit=1' 401
grep -q '"code": *"reauthorization_required"' "$work/out" || fail "the response has another code"

explain 'The other connections are not affected.'
get bolt '/v2/employees?limit=1' 200
run pleo-auth-proxy --config "$work/config.yaml" connections list

control GET counters >"$work/counters.json"
refreshes=$(sed 's/.*"refreshes":\([0-9]*\),"rejections".*/\1/' "$work/counters.json")
max_times_sent=$(member max_times_sent <"$work/counters.json")
[ "$refreshes" -ge 2 ] || fail "the simulator counted $refreshes refreshes, want at least 2"
[ "$max_times_sent" = 1 ] || fail "a refresh token was sent $max_times_sent times, want once"
cat <<END

The demo succeeded:
  requests     three connections, with an OAuth token and two kinds of keys
  refreshes    $refreshes, and no refresh token was sent more than once
  early 401    handled by a refresh and a second attempt; the client got a 200
  revocation   reported as reauthorization_required; the other connections kept working
The configuration and the logs are in $work.
END
