#!/bin/sh
# The entrypoint of every image with Python.
set -eu

# The image may run with any uid: create a writable home directory if there is none.
if [ "${HOME:-/}" = / ] || [ ! -w "$HOME" ]; then
  HOME="/tmp/home-$(id -u)"
  if [ ! -d "$HOME" ]; then mkdir -m 700 "$HOME"; fi
  export HOME
fi

# HF_HUB_OFFLINE=0 enables downloads in all libraries, transformers included.
case "${HF_HUB_OFFLINE:-}" in
  0 | "" | no | NO | false | FALSE | off | OFF) export TRANSFORMERS_OFFLINE=0 ;;
esac

for hook in /usr/local/lib/llmstack/start.d/*.sh; do
  # shellcheck source=/dev/null
  if [ -r "$hook" ]; then . "$hook"; fi
done

# NVIDIA's base images have an entrypoint, which must still run.
if [ -x /opt/nvidia/nvidia_entrypoint.sh ]; then
  exec /opt/nvidia/nvidia_entrypoint.sh "$@"
fi
exec "$@"
