#!/usr/bin/env bash
# Prints the document of a signed call (POST /v1/calls).
#
#   sign.sh PRIVATE_KEY BRIDGE METHOD URL [BODY]
#
# The signature covers method, URL, body, bridge and an id of the call. It is valid for five minutes.
# Needs openssl 3. Method, URL and body must not contain `"`, `\` or line breaks: the document is not escaped.
set -euo pipefail

key=$1 bridge=$2 method=$3 url=$4 body=${5:-}

now=$(date +%s)
call=call-$now
nonce=$(openssl rand -hex 16)
digest="sha-256=:$(printf %s "$body" | openssl dgst -sha256 -binary | base64 -w 0):"
covered='("@method" "@target-uri" "content-digest" "bridge-name" "bridge-call")'
params="$covered;created=$now;expires=$((now + 300));nonce=\"$nonce\";alg=\"ed25519\""

# The signature base (RFC 9421, section 2.5). Its lines are separated, not ended, by line breaks.
base=$(mktemp)
trap 'rm -f "$base"' EXIT
printf '%s\n' \
    "\"@method\": $method" \
    "\"@target-uri\": $url" \
    "\"content-digest\": $digest" \
    "\"bridge-name\": $bridge" \
    "\"bridge-call\": $call" > "$base"
printf '"@signature-params": %s' "$params" >> "$base"
# From a file: openssl cannot sign with Ed25519 from a pipe, because it needs the length first.
signature=$(openssl pkeyutl -sign -inkey "$key" -rawin -in "$base" | base64 -w 0)

cat <<DOCUMENT
{
  "url": "$url",
  "method": "$method",
  "bridge": "$bridge",
  "headers": {
    "Bridge-Name": "$bridge",
    "Bridge-Call": "$call",
    "Content-Digest": "$digest",
    "Signature-Input": "sig=${params//\"/\\\"}",
    "Signature": "sig=:$signature:"
  },
  "body": "$body"
}
DOCUMENT
