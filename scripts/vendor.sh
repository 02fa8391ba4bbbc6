#!/usr/bin/env bash
# Fetch the libraries in chat/static/ from npm, for the playground and the admin.
#
# To update one, change its version here and run this script.
set -euo pipefail
static="$(cd "$(dirname "$0")/.." && pwd)/chat/static/chat"
draft="$(mktemp -d)"
trap 'rm -rf "$draft"' EXIT

# vendor PART NAME VERSION MODULE SAVED_AS [LICENCE]
vendor() {
  local archive folder="$static/$1/vendor"
  shift
  mkdir -p "$folder"
  archive="$(cd "$draft" && npm pack --silent "$1@$2")"
  tar -xzf "$draft/$archive" -C "$draft"
  {
    echo "// $1 $2, $3 of the npm package; its licence is in $1.LICENSE. Fetched by scripts/vendor.sh."
    grep -v '^//# sourceMappingURL=' "$draft/package/$3"
  } > "$folder/$4"
  cp "$draft/package/${5:-LICENSE}" "$folder/$1.LICENSE"
  rm -r "$draft/package"
}

vendor playground marked 18.2.1 lib/marked.esm.js marked.js
vendor playground dompurify 3.4.18 dist/purify.es.mjs dompurify.js
vendor playground eventsource-parser 3.1.1 dist/index.js eventsource-parser.js
vendor admin chart.js 4.6.1 dist/chart.umd.min.js chart.js LICENSE.md
