#!/bin/sh
# What every image with Python does before its command.
set -eu

# Any uid may run the image: a user without a home directory gets one to write to.
if [ "${HOME:-/}" = / ] || [ ! -w "$HOME" ]; then
  HOME="/tmp/home-$(id -u)"
  if [ ! -d "$HOME" ]; then mkdir -m 700 "$HOME"; fi
  export HOME
fi

# One switch for all libraries: with HF_HUB_OFFLINE=0 transformers is online too.
case "${HF_HUB_OFFLINE:-}" in
  0 | "" | no | NO | false | FALSE | off | OFF) export TRANSFORMERS_OFFLINE=0 ;;
esac

for hook in /usr/local/lib/llmstack/start.d/*.sh; do
  # shellcheck source=/dev/null
  if [ -r "$hook" ]; then . "$hook"; fi
done

# Images from NVIDIA's catalogue have an entrypoint of their own, which must go on to be run.
if [ -x /opt/nvidia/nvidia_entrypoint.sh ]; then
  exec /opt/nvidia/nvidia_entrypoint.sh "$@"
fi
exec "$@"
