#!/usr/bin/env bash
# Fuzzes every target of fuzz/ for so many seconds each (600), and stops at the first fault. What it learned stays
# in fuzz/corpus. FUZZ_TARGETS="decode spool" picks targets.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}

if ! command -v cargo-fuzz >/dev/null; then
    cargo install cargo-fuzz --locked --version ^0.13
fi

# A body of its own begins with six zero bytes: see tests/properties/decode.rs, and rongcloud.rs beside it.
mkdir -p fuzz/corpus/{signature,decode,spool,rongcloud}
for sample in tests/samples/netease/*.json; do
    { head -c 6 /dev/zero; cat "$sample"; } >"fuzz/corpus/decode/$(basename "$sample" .json)"
done
# With five of them in tests/properties/wildfire.rs.
mkdir -p fuzz/corpus/wildfire
for sample in tests/samples/wildfire/*.json; do
    { head -c 5 /dev/zero; cat "$sample"; } >"fuzz/corpus/wildfire/$(basename "$sample" .json)"
done

for sample in tests/samples/rongcloud/*; do
    { head -c 6 /dev/zero; cat "$sample"; } >"fuzz/corpus/rongcloud/$(basename "$sample")"
done
for found in tests/properties/found/*-*; do
    [ -e "$found" ] || continue
    name=$(basename "$found")
    cp "$found" "fuzz/corpus/${name%%-*}/$name"
done

# No sanitizer: there is no unsafe code here for one to watch, and without it the stable toolchain will do.
for target in ${FUZZ_TARGETS:-signature decode spool rongcloud wildfire}; do
    echo "== $target, $seconds s"
    cargo fuzz run --sanitizer none "$target" -- \
        -max_total_time="$seconds" -timeout=10 -print_final_stats=1 -verbosity=0
done
