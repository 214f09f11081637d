#!/usr/bin/env bash
# Plays a market day into the service of `make run`: three buyers, two sellers, orders, receipts, recalls,
# an edit, and a dozen callbacks twice. Run it as often as you like: the counts stay what they are.
set -euo pipefail
cd "$(dirname "$0")/.."
export IM_CALLBACK_CONFIG=config/demo.toml
im_callback() { cargo run --release --locked --quiet -- "$@"; }
im_callback send scripts/demo/market-day.jsonl
echo
im_callback unread --user seller1 --peer buyer1,buyer2,buyer3 --order A-1001,A-1002
echo
im_callback unread --user seller2 --peer buyer3 --order B-2001
echo
im_callback unread --user buyer1 --peer seller1,seller2
echo
im_callback unread --user buyer3 --peer seller2
