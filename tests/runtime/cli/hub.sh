#!/usr/bin/env bash
# The hub as a process, with members that have no model (fake_member): it is killed and goes on; invitations decide who comes
# in; a full or failing disk ends it before anything false leaves; an old backup is refused. hub.sh WEFT SOURCE FAKE_MEMBER
member=$3
. "$(dirname "$0")/lib.sh"
command -v python3 >/dev/null || exit 77

# up DIR [OPTION...]: a hub in the background; $hub is its process, $address where it listens
up() {
  local dir=$1; shift
  rm -f "$dir/address"
  "$weft" hub --dir "$dir" --listen "127.0.0.1:${port:-0}" "$@" >>"$dir.log" 2>&1 &
  hub=$!
  listens() { [ -s "$dir/address" ] || gone $hub; }
  soon listens || true
  address=$(cat "$dir/address" 2>/dev/null) || { cat "$dir.log"; fail "the hub in $dir does not listen"; }
}
# ends CODE PID: that process ends with CODE
ends() { local got=0; wait "$2" || got=$?; [ "$got" = "$1" ] || { tail -n 5 ./*.log; fail "process ended with $got, expected $1"; }; }
seen() { grep -c '^commit' "$1" || true; } # commits that a member said
# until N FILE: the member whose words are in FILE has seen N commits
until_seen() { soon counts "$1" '^commit' "$2" || { tail -n 5 ./*.log; fail "no $1 commits in $2"; }; }
now_ms() { date +%s%3N; }

# --- nobody there
expect 69 'no hub runs in' "$weft" hub status --dir .
expect 69 'no hub runs' "$weft" hub drain a --dir .
expect 66 'roster.json is missing' "$weft" hub revoke a --dir .
expect 66 'holds no log' "$weft" hub verify-log .
expect 64 'no command' "$weft" hub inwite a
expect 64 'a name|no name' "$weft" hub drain 'a b'

# --- two members, a hub that is killed and started again
up h --page 127.0.0.1:0
port=${address##*:}
expect 0 '' "$weft" hub invite a --dir h --out a.json
[ "$(stat -c %a a.json)" = 600 ] || fail "an invitation that others may read"
"$weft" hub invite b --dir h >b.json
expect 64 'name' "$weft" hub invite 'b/c' --dir h
expect 73 'in use by another hub' "$weft" hub --dir h --listen 127.0.0.1:0
"$member" a.json 100000 40 >a.log 2>&1 & a=$!
"$member" b.json 100000 40 >b.log 2>&1 & b=$!
until_seen 10 a.log; until_seen 10 b.log
for try in 1 2 3 4 5 6; do # on an idle machine the first is in time; one that is busy gets several
  kill -9 $hub; wait $hub 2>/dev/null || true
  before=$(seen a.log)
  expect 69 'no hub runs' "$weft" hub status --dir h
  sleep 1
  started=$(now_ms)
  up h --page 127.0.0.1:0
  until_seen $((before + 1)) a.log
  took=$(($(now_ms) - started))
  echo "next commit $took ms after the hub was started again"
  [ $took -gt 5000 ] || break
done
[ $took -le 5000 ] || fail "next commit after $took ms, the best of $try"
grep -q 'term 2' h.log || fail "the term does not rise"

# --- what it says
"$weft" hub status --dir h >status.txt
grep -qE '^run run, hub 127.0.0.1:[0-9]+, term [2-7]' status.txt && grep -qE '^a +active' status.txt || { cat status.txt; fail "status"; }
page=$(grep -oE 'status page on port [0-9]+' h.log | tail -1 | grep -oE '[0-9]+$')
cat >page.py <<'P'
import json, re, sys, urllib.error, urllib.request
def get(path):
    with urllib.request.urlopen(f'http://127.0.0.1:{sys.argv[2]}{path}', timeout=60) as r: return r, r.read().decode()
s = json.load(open(sys.argv[1]))
assert sorted(s['active']) == ['a', 'b'] and s['term'] >= 2 and s['totals']['commits'] > 10, s['active']
for x in s['sites']: assert x['connected'] and x['joins'] == 1 and x['leaves'] == 0 and x['tokens'] > 0 and x['commits'] > 0, x
assert {e['what'] for e in s['events']} >= {'joined', 'hub started'}, s['events']
r, html = get('/')
assert '<svg id=map' in html and not re.search(r'(src|href)=["\']?(https?:)?//', html), 'something from elsewhere'
assert "default-src 'none'" in r.headers['Content-Security-Policy']
p = json.loads(get('/status.json')[1])
assert p['hub'] == 'run' and [x['site'] for x in p['sites']] == [x['site'] for x in s['sites']], p
m = get('/metrics')[1]
assert re.search(r'^weft_site_tokens_total\{site="a"\} \d+', m, re.M) and m.endswith('# EOF\n'), m
assert json.loads(get('/healthz')[1]) == {'ok': True}
try: get('/etc/passwd'); raise SystemExit('a page that is none')
except urllib.error.HTTPError as e: assert e.code == 404
P
all_is_there() { "$weft" hub status --dir h --json >status.json && python3 page.py status.json "$page" 2>page.err; } # both are back, and the page knows
soon all_is_there || { cat status.json page.err; fail "the page"; }
expect 0 'records in 1 segments, term [2-7]' "$weft" hub verify-log h
expect 66 "no site 'c'" "$weft" hub drain c --dir h
expect 0 'asked to leave' "$weft" hub drain b --dir h
ends 0 $b
grep -q '^content' b.log || fail "b did not leave whole"
expect 64 'min_sites' "$weft" hub set colour 3 --dir h
expect 0 '' "$weft" hub set audit_every 4 --dir h

# --- a revoked site is hung up on and stays out; invited again it comes back; a foreign certificate never does
expect 0 '1 invitation of a revoked; the hub knows' "$weft" hub revoke a --dir h
a_is_out() { "$weft" hub status --dir h | grep -qE '^a +ejected'; }
soon a_is_out || { "$weft" hub status --dir h; fail "a revoked site takes part"; }
count=$(seen a.log)
sleep 1
[ "$(seen a.log)" = "$count" ] || fail "a revoked site commits"
kill $a 2>/dev/null || true; wait $a 2>/dev/null || true
refused() { "$weft" hub status --dir h --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["connections"]["refused"])'; }
# stays_out INVITATION WHAT: the hub refuses it, and it takes no part
stays_out() {
  local out got=0 r0
  r0=$(refused)
  "$member" "$1" 5 20 >out.log 2>&1 & out=$!
  refused_more() { [ "$(refused)" -gt "$r0" ]; }
  soon refused_more || fail "$2: refused $(refused), before $r0"
  kill $out 2>/dev/null || true
  wait $out 2>/dev/null || got=$?
  [ $got != 0 ] && [ "$(seen out.log)" = 0 ] || { cat out.log; fail "$2 works"; }
}
stays_out a.json "a revoked invitation"
"$weft" hub invite a --dir h --out a2.json
target=$(( $("$weft" hub status --dir h --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["fragments"][0]["version"])') + 5 ))
expect 0 '^content' timeout 600 "$member" a2.json $target 20 # control: it was the certificate
port_h=$port port=0 first=$hub
up other
"$weft" hub invite a --dir other --hub "127.0.0.1:$port_h" --out foreign.json
kill $hub; ends 0 $hub
stays_out foreign.json "a certificate of another run"
kill $first # SIGTERM: in order
ends 0 $first
[ ! -e h/address ] && [ ! -e h/control ] || fail "address or control outlive the hub"

# --- a site that dies is given up by the fence, the other goes on
port=0
up f --fence 5
"$weft" hub invite a --dir f --out fa.json; "$weft" hub invite b --dir f --out fb.json
"$member" fa.json 100000 40 >fa.log 2>&1 & a=$!
"$member" fb.json 100000 40 >fb.log 2>&1 & b=$!
until_seen 8 fa.log; until_seen 8 fb.log
kill -9 $b; wait $b 2>/dev/null || true
last=$(seen fa.log)
until_seen $((last + 5)) fa.log
b_is_fenced() {
  "$weft" hub status --dir f --json | python3 -c '
import json, sys
s = json.load(sys.stdin); b = [x for x in s["sites"] if x["site"] == "b"][0]
assert s["active"] == ["a"] and b["state"] == "fenced" and b["leaves"] >= 1, (s["active"], b)' 2>fenced.err
}
soon b_is_fenced || { cat fenced.err; fail "a dead site"; }

# --- an old backup: the site has seen more
port=${address##*:}
kill -9 $hub; wait $hub 2>/dev/null || true
cp -r f backup; rm -f backup/lock backup/address backup/control
up f --fence 5
last=$(seen fa.log); until_seen $((last + 5)) fa.log
kill -9 $hub; wait $hub 2>/dev/null || true
up backup --fence 5
ends 75 $a
grep -q HUB_STALE fa.log || { cat fa.log; fail "why"; }
kill $hub; ends 0 $hub

# --- a disk that fails or is full: it ends, and what is there is whole
port=0
for fault in sync:9:74 write:9:72; do
  what=${fault%:*} code=${fault##*:} dir=d-${fault%%:*}
  mkdir "$dir"
  WEFT_FAULT= up "$dir"
  port=${address##*:}
  "$weft" hub invite a --dir "$dir" --out "$dir.json"
  kill $hub; ends 0 $hub
  WEFT_FAULT=$what "$weft" hub --dir "$dir" --listen "127.0.0.1:$port" >>"$dir.log" 2>&1 & hub=$!
  "$member" "$dir.json" 20 20 >"$dir.member" 2>&1 & a=$!
  ends "$code" $hub
  expect 0 'records' "$weft" hub verify-log "$dir"
  up "$dir"
  ends 0 $a
  [ "$(seen "$dir.member")" -ge 20 ] || fail "after $what the run does not end"
  kill $hub; ends 0 $hub
  port=0
done

# --- damage is refused, and cut on request
seg=$(ls d-sync/log-* | head -1)
python3 - "$seg" <<'P'
import sys
d = bytearray(open(sys.argv[1], 'rb').read()); d[len(d) // 2] ^= 1; open(sys.argv[1], 'wb').write(d)
P
expect 65 'damaged at byte' "$weft" hub verify-log d-sync
expect 65 '\-\-recover' timeout 300 "$weft" hub --dir d-sync --listen 127.0.0.1:0
up d-sync --recover
grep -q 'RECOVER' d-sync.log || fail "recovery is not said"
ls d-sync/cut-* >/dev/null || fail "what was cut is gone"
kill $hub; ends 0 $hub
