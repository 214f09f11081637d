#!/usr/bin/env bash
# The inner part of run.sh: says what to try, then serves. MONGODB_URI names the server.
set -euo pipefail
export IM_CALLBACK_CONFIG=config/demo.toml
export IM_CALLBACK__MONGODB__URI=$MONGODB_URI
listen=${IM_CALLBACK__HTTP__LISTEN:-127.0.0.1:8080}
cat <<TEXT

im-callback serves the demo app on http://$listen. In a second shell, try:

  make demo
      plays a market day into it and shows the unread counts

  printf '{"eventType":"1","convType":"PERSON","to":"ann","fromAccount":"bob","msgType":"TEXT","body":"hi","msgTimestamp":"1789500000000","msgidServer":"1"}' \\
    | cargo run --release -q -- sign --config config/demo.toml --curl --url http://$listen/callbacks/otc | bash
      posts one signed callback

  curl -s -H 'Authorization: Bearer demo-read-key-not-secret' 'http://$listen/v1/unread?user=ann&peers=bob'
      asks how many messages ann has not read

  curl -sN -H 'Authorization: Bearer demo-read-key-not-secret' 'http://$listen/v1/unread/stream?user=ann&peers=bob'
      shows each change of that count as it comes

  http://$listen/docs
      shows the whole API in a browser

  mongosh '$MONGODB_URI' --eval 'db.getSiblingDB("im").messages.find()'
      looks at what is stored

Ctrl-C ends it.

TEXT
exec cargo run --release --locked --quiet -- serve
