#!/bin/sh
# Answer one request on standard input: the health check, or a chat.
read -r method path _
length=0 key=
while read -r line; do
  line=${line%?}
  [ -z "$line" ] && break
  case $line in
    [Cc]ontent-[Ll]ength:*) length=${line#*: } ;;
    [Aa]uthorization:*) key=${line#*: Bearer } ;;
  esac
done
body=$(head -c "$length")
[ -n "$DIE" ] && [ "$path" != /health ] && { echo "error: killed" >&2; kill "$SERVER"; exit; }
status="200 OK"
case "$method $path" in
  "GET /health") answer='{"status": "ok"}' ;;
  "POST /v1/chat/completions")
    answer="{\"model\": \"$MODEL\", \"choices\": [{\"message\": {\"role\": \"assistant\", \"content\": \"$SUM\"}}], \"asked\": $body}"
    [ "$key" = "$LLAMA_API_KEY$VLLM_API_KEY" ] || { status="401 Unauthorized"; answer='{}'; } ;;
  *) status="404 Not Found"; answer='{}' ;;
esac
printf 'HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' \
  "$status" "${#answer}" "$answer"
