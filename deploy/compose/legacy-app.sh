#!/bin/sh
# A program without any authentication: it lists employees at its base URL, now and
# every minute.
while :; do
  if wget -q -O - "$PLEO_BASE_URL/v2/employees?limit=2"; then
    echo
  else
    echo "no answer from $PLEO_BASE_URL" >&2
  fi
  sleep "${PLEO_INTERVAL:-60}"
done
