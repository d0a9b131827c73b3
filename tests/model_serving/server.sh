#!/bin/sh
# A server of the tests with the interface of the recipes llama.cpp and vllm: `server.sh NAME ARGUMENTS`. Its answer
# to a chat is the SHA-256 of the file that it has loaded. `--die-with N` lets it fail while it loads.
name=$1; shift
trap "exit 143" TERM
port=8080 file= repo=
[ "$name" = vllm ] && { port=8000 file=$1/config.json; shift; }
while [ $# -gt 0 ]; do
  case $1 in
    --model) file=$2; shift ;;
    --hf-repo) repo=$2; shift ;;
    --hf-file) file=$2; shift ;;
    --revision) revision=$2; shift ;;
    --alias | --served-model-name) MODEL=$2; shift ;;
    --port) port=$2; shift ;;
    --host) shift ;;
    --die-with) echo "loading $file" >&2; echo "error: not enough memory" >&2; exit "$2" ;;
    --die-when-asked) DIE=1 ;;
    --load-forever) sleep 1000000 & wait ;;
    --ctx-size | --max-model-len) echo "context of $2" ; shift ;;
    *) echo "error: unknown argument $1" >&2; exit 2 ;;
  esac
  shift
done
if [ -n "$HF_ENDPOINT" ]; then
  url=$HF_ENDPOINT/${repo:+$repo/resolve/main/}$file
  [ -n "$repo" ] || url=$HF_ENDPOINT/${file%/*}/resolve/$revision/${file##*/}
  file=/tmp/downloaded
  wget -q -O "$file" "$url" || exit 1
fi
echo "loading $file"
SUM=$(sha256sum "$file") || exit 1
export SUM="${SUM%% *}" MODEL DIE SERVER=$$
# Not exec: process 1 ignores signals that it does not handle.
nc -ll -p "$port" -e /answer.sh &
wait
