#!/bin/sh
# Lists the employees of a connection. Needs curl and jq.
# Usage: employees.sh CONNECTION [PROXY_URL]
set -eu
connection=$1
proxy=${2:-http://127.0.0.1:8484}

body=$(mktemp)
trap 'rm -f "$body"' EXIT

after=
while :; do
  status=$(curl -sS -o "$body" -w '%{http_code}' -H "Pleo-Connection: $connection" \
    -G "$proxy/v2/employees" -d limit=10 ${after:+--data-urlencode "after=$after"})
  if [ "$status" != 200 ]; then
    if [ "$(jq -r '.code?' "$body")" = reauthorization_required ]; then
      jq -r '"\(.connection) must be connected again: \(.connect_url // .message)"' "$body" >&2
      exit 2
    fi
    echo "status $status: $(cat "$body")" >&2
    exit 1
  fi
  jq -r '.data[] | "\(.firstName) \(.lastName) <\(.email)>"' "$body"
  [ "$(jq .pagination.hasNextPage "$body")" = true ] || break
  after=$(jq -r .pagination.endCursor "$body")
done
