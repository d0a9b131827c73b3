#!/bin/sh
# Arguments that start with - are flags of `llmstack hub`; others are a command, such as `llmstack extract …`.
set -eu
case "${1:-}" in
  "" | -*) set -- llmstack hub --listen 0.0.0.0:8080 "$@" ;;
esac
exec "$@"
