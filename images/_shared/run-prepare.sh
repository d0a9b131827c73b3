#!/bin/sh
# Runs prepare.sh in /x with REPO_URL as its argument. The first line of standard input is HF_TOKEN, or empty: there it
# leaves no trace in a layer, an image or a container's settings.
set -eu
IFS= read -r HF_TOKEN || true
if [ -n "$HF_TOKEN" ]; then export HF_TOKEN; else unset HF_TOKEN; fi
cd /x
/usr/local/bin/prepare.sh "$REPO_URL" < /dev/null
# Some libraries write files that only their owner can read; who uses the image is somebody else.
chmod -R a+rX /x
if [ -z "$(find /x -type f -print -quit)" ]; then
  echo "prepare.sh left no file in /x" >&2
  exit 1
fi
