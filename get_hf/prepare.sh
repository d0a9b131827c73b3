#!/bin/sh
# What `llmstack ferry REPO --prepare get_hf/prepare.sh` runs to get a repo's files. Copy it, and change the copy.
#
# It runs in an empty folder, /x; what it leaves there is carried. It is told
#   $1, REPO_URL          the repo's address
#   REPO_ID, REPO_TYPE    its id; model or dataset
#   REVISION              the branch, tag or commit that was asked for
#   HF_ENDPOINT           the hub
#   HF_TOKEN              your token, if you have one; it stays out of every layer
# and it has git with git-lfs, hf (also as huggingface-cli), python with huggingface_hub, curl and wget.
set -eu

hf download "$REPO_ID" --repo-type "$REPO_TYPE" --revision "$REVISION" --local-dir .
rm -rf .cache

# One format of the weights only:
#
# hf download "$REPO_ID" --revision "$REVISION" --local-dir . \
#   --exclude "*.bin" --exclude "*.h5" --exclude "*.msgpack" --exclude "*.onnx"
# rm -rf .cache

# By git, with the history left behind:
#
# git clone --depth 1 --branch "$REVISION" "$REPO_URL" .
# git lfs pull
# rm -rf .git

# From somewhere else; REPO_ID is then only the name that it is carried under:
#
# curl --fail --location --remote-name https://example.org/weights/model.safetensors
# wget --no-verbose https://example.org/weights/tokenizer.json
# echo "<sha256>  model.safetensors" | sha256sum --check

# A format that the other side needs:
#
# python - <<'PYTHON'
# import json, pathlib
# pathlib.Path("labels.json").write_text(json.dumps(["no", "yes"]))
# PYTHON
