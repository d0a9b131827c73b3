#!/bin/sh
# Flags are those of `llmstack hub`; anything else is a command of its own, such as `llmstack extract …`.
set -eu
case "${1:-}" in
  "" | -*) set -- llmstack hub --listen 0.0.0.0:8080 "$@" ;;
esac
exec "$@"
