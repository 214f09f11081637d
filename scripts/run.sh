#!/usr/bin/env bash
# Serves the demo app, with a MongoDB of its own unless MONGODB_URI names one. Ctrl-C ends both.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --locked
exec scripts/mongod.py run --data data/mongod -- scripts/serve-demo.sh
