#!/usr/bin/env bash
# Plays a market day into the service of `make run`: three buyers, two sellers, orders, receipts, recalls,
# an edit, and a dozen callbacks twice. Run it as often as you like: the counts stay what they are.
set -euo pipefail
cd "$(dirname "$0")/.."
export IM_CALLBACK_CONFIG=config/demo.toml
program=target/release/im-callback
[ -x "$program" ] || { echo "error: run \`make run\` in another shell first" >&2; exit 1; }
"$program" send scripts/demo/market-day.jsonl
echo
"$program" unread --user seller1 --peer buyer1,buyer2,buyer3 --order A-1001,A-1002
echo
"$program" unread --user seller2 --peer buyer3 --order B-2001
echo
"$program" unread --user buyer1 --peer seller1,seller2
echo
"$program" unread --user buyer3 --peer seller2
