#!/bin/sh
# Copy this file to get_hf/prepare.sh and change the copy: `llmstack ferry` then gets the files of all entries of the lists
# with it, except those with their own `--prepare SCRIPT` or with `--prepare none`.
#
# It runs in the empty directory /x. The files that it leaves there are carried. Its input:
#   $1, REPO_URL          URL of the repo
#   REPO_ID, REPO_TYPE    repo id; model or dataset
#   REVISION              commit of the requested revision
#   HF_ENDPOINT           URL of the Hub
#   HF_TOKEN              your token, if set; no layer contains it
# Available tools: git with git-lfs, hf (also as huggingface-cli), python with huggingface_hub, curl and wget.
set -eu

hf download "$REPO_ID" --repo-type "$REPO_TYPE" --revision "$REVISION" --local-dir .
rm -rf .cache

# Download only one weight format:
#
# hf download "$REPO_ID" --revision "$REVISION" --local-dir . \
#   --exclude "*.bin" --exclude "*.h5" --exclude "*.msgpack" --exclude "*.onnx"
# rm -rf .cache

# Clone with git, without the history:
#
# git clone --no-checkout "$REPO_URL" .
# git checkout --quiet "$REVISION"
# git lfs pull
# rm -rf .git

# Download from another server (REPO_ID is then only the name of the image):
#
# curl --fail --location --remote-name https://example.org/weights/model.safetensors
# wget --no-verbose https://example.org/weights/tokenizer.json
# echo "<sha256>  model.safetensors" | sha256sum --check

# Convert a file:
#
# python - <<'PYTHON'
# import json, pathlib
# pathlib.Path("labels.json").write_text(json.dumps(["no", "yes"]))
# PYTHON
