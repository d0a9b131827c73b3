#!/bin/sh
# Serve the playground on one port: the prebuilt web page, and the live server that runs its queries.
set -eu
cd "$(python -c 'import importlib.util; print(importlib.util.find_spec("lmql").submodule_search_locations[0])')/ui/live"
export PORT="${PORT:-3000}" content_dir=/opt/playground
exec node live.js
