#!/usr/bin/env bash
# Prints MD5 and CheckSum of some bodies, made with openssl: the known answers in
# src/callback/netease/signature.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
secret=0123456789abcdef
cur_time=1440570500855
vector() { # NAME, body on standard input
    local md5 sum
    md5=$(openssl md5 -r | cut -d' ' -f1)
    sum=$(printf %s "$secret$md5$cur_time" | openssl sha1 -r | cut -d' ' -f1)
    printf '%-28s %s %s\n' "$1" "$md5" "$sum"
}
for name in 001_person_text 030_p2p_read_receipt 007_recall_p2p; do
    vector "$name" <"tests/samples/netease/$name.json"
done
vector empty </dev/null
printf '{}' | vector '{}'
printf '{"eventType":"1","body":"你好 👋"}' | vector utf8
printf '\x00\xff not JSON\r\n' | vector binary
printf 'checksum over upper-case MD5:  '
printf %s "${secret}976C63DC4263A5CF82D53DAA435BE67C${cur_time}" | openssl sha1 -r | cut -d' ' -f1
