#!/bin/sh
# Start llama-server, and say so if clients need no key.
set -eu
case "${LLAMA_API_KEY:-}${LLAMA_ARG_API_KEY_FILE:-} $*" in
  " "*--api-key*) ;;
  " "*)
    echo "llama-serve: WARNING: every client can use the server: set LLAMA_API_KEY, or add --api-key-file FILE" >&2
    ;;
esac
exec llama-server "$@"
