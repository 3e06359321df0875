#!/usr/bin/env bash
# weft bench tune: in time, a table that weft_init and weft info read, in the place where they look; bad places and tables.
. "$(dirname "$0")/lib.sh"
export XDG_CACHE_HOME=$work/cache
unset WEFT_TUNE

expect 0 'tuning +defaults' "$weft" info --no-probe
expect 64 'at least two' "$weft" bench tune
expect 64 'whole number' "$weft" bench tune --ranks 1
expect 64 'unknown command' "$weft" bench tuna
expect 0 'Examples' "$weft" bench tune --help

expect 0 'chosen' "$weft" bench tune --ranks 2 --seconds 1
for name in together slot stream_push stream_copy; do grep -q "^$name " out.txt || fail "no line $name"; done
[ "$(grep -c chosen out.txt)" = 4 ] || fail "a cut-off has not one choice"
[ "$(grep -c default out.txt)" = 4 ] || fail "a cut-off has not one default"
table=$(echo cache/weft/tune-*)
[ -s "$table" ] && [ "$(ls cache/weft | wc -l)" = 1 ] || fail "no table, or more than that"
expect 0 "tuning +$work/$table, measured with 2 ranks" "$weft" info --no-probe

"$weft" bench tune --ranks 2 --seconds 0.2 --json --out named.txt >named.json 2>err.txt || { cat err.txt; fail json; }
python3 - named.json named.txt <<'P'
import json, sys
j = json.load(open(sys.argv[1]))
table = dict(line.split() for line in open(sys.argv[2]) if line[0] != '#' and ' ' in line)
assert j['ranks'] == 2 and len(j['parameters']) == 4
for p in j['parameters']:
    us = {c['value']: c['median_us'] for c in p['candidates']}
    assert str(p['chosen']) == table[p['name']] and p['rounds'] > 0 and min(us.values()) > 0
    assert p['chosen'] == p['default'] or us[p['chosen']] * 1.05 < us[p['default']]
P
export WEFT_TUNE=named.txt
expect 0 '"tuning": .*"file": "named.txt".*"ranks": 2' "$weft" info --json --no-probe

# a table that cannot be used: said, and the defaults hold
head -c -3 named.txt >cut.txt
WEFT_TUNE=cut.txt expect 0 'defaults: cut.txt: cut off' "$weft" info --no-probe
WEFT_TUNE=nothere expect 0 'defaults: .*nothere' "$weft" info --no-probe
expect 73 'nowhere/t' "$weft" bench tune --ranks 2 --seconds 0.1 --out nowhere/t
echo ok
