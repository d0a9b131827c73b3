#!/bin/sh
# Run prepare.sh in /x with REPO_URL as its argument. Standard input provides NAME=value lines (HF_TOKEN, proxies) up to an
# empty line, so that no layer, image or container configuration stores them.
set -eu
while IFS= read -r line && [ -n "$line" ]; do
  export "${line?}"
done
cd /x
if [ -x /usr/local/bin/prepare.sh ]; then
  /usr/local/bin/prepare.sh "$REPO_URL" < /dev/null
else
  sh -eu /usr/local/bin/prepare.sh "$REPO_URL" < /dev/null
fi
# Some libraries write files that only the owner can read. The image's user has another uid.
chmod -R a+rX /x
if [ -z "$(find /x -type f -print -quit)" ]; then
  echo "prepare.sh left no file in /x" >&2
  exit 1
fi
