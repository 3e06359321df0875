#!/usr/bin/env bash
# wanem itself: scenarios do what they say, a wait that is in vain fails, nothing outlives it, one connection of several can
# be slowed down, and a capture shows what was sent.
# Usage: wanem.sh WANEM HELPER     HELPER: wan_tcp.py
set -uo pipefail
wanem=$1 tcp=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
fail() { echo "FAILED: $*" >&2; exit 1; }

# Exit code of a scenario on standard input; 77 ends the test.
run() {
  timeout 600 "$wanem" --out "$dir/out" --json "$dir/json" "$@" - 2>"$dir/err"
  local code=$?
  [ $code = 77 ] && { cat "$dir/err" >&2; exit 77; }
  [ $code = 76 ] && { cat "$dir/err" >&2; code=0; } # a busy machine: times are not what is tested here
  return $code
}
done_s() { python3 -c 'import json,sys; print([s["done_s"] for s in json.load(open(sys.argv[1]))["statements"] if s["line"] == int(sys.argv[2])][-1])' "$dir/json" "$1"; }
holds() { awk "BEGIN { exit !($1) }" || fail "not so: $1"; }

run <<'END' || fail "a plain scenario: $(cat err)"
site a
site b
run x in a: echo $WAN_SITE $WAN_ADDRESS $WAN_b; sleep 0.2; echo again; sleep 100
wait x "a 10.77.1.1 10.77.2.1" 100
+0.5 kill -KILL x
start x
wait x "again" 100
wait x "again" 100
never x "something else"
run y in b: exit 3
exit y 3 100
END
t0=$(done_s 5) t1=$(done_s 8)
holds "$t1 > $t0 + 0.15" # the second "again" is that of the second start

code=0
run <<'END' || code=$?
site a
run x in a: echo no; sleep 100
wait x "yes" 0.3
END
[ $code = 75 ] || fail "a wait in vain: exit $code"
grep -q 'line 3: the log of x (x.log) does not say "yes" within 0.3 s' err || fail "no reason: $(cat err)"
grep -q '"failed"' json || fail "the report does not say that it failed"

code=0
run <<'END' || code=$?
site a
link a>b
END
[ $code = 78 ] || fail "a wrong scenario: exit $code"

# What was started dies with it, whatever it did to get away.
mark=$RANDOM$RANDOM
printf 'site a\nrun x in a: setsid sleep 9%s & nohup sleep 9%s\n+50\n' $mark $mark >s
"$wanem" --out out s >/dev/null 2>&1 &
pid=$!
for _ in $(seq 2000); do [ "$(pgrep -cf "^sleep 9$mark")" = 2 ] && break; sleep 0.05; done
[ "$(pgrep -cf "^sleep 9$mark")" = 2 ] || fail "two processes should run"
kill -KILL $pid
for _ in $(seq 2000); do pgrep -f "^sleep 9$mark" >/dev/null || break; sleep 0.05; done
! pgrep -f "^sleep 9$mark" >/dev/null || fail "processes outlived wanem"

# Three connections, the second at 1 Mbit/s; a canary is visible in what was captured; a black hole stops all.
run --capture "$dir/pcap" <<END || fail "connections: $(cat err)"
site a
site b
late 1000
link *>* delay=2ms
flow a>b port=5001 nth=2 rate=1M
run s in b: exec python3 $tcp serve
wait s "listening" 100
run c in a: exec python3 $tcp send \$WAN_b 3 400000 canary-of-wanem
wait s "connection 1 done" 100
wait s "connection 3 done" 100
wait s "connection 2 done" 100
mark s
link a>b blackhole
run d in a: exec python3 $tcp send \$WAN_b 1 400000 x
+1.5 never s "connection 4 done"
link a>b up
wait s "connection 4 done" 100
END
grep -qa canary-of-wanem pcap || fail "the canary does not show in the capture"
holds "$(done_s 11) - $(done_s 10) > 1.5" # 3.2 Mbit at 1 Mbit/s
python3 - "$dir/json" <<'END' || fail "counters"
import json, sys
r = json.load(open(sys.argv[1]))
link = {(p["from"], p["to"]): p for p in r["pipes"] if p["kind"] == "link"}
flow = [p for p in r["pipes"] if p["kind"] == "flow"]
assert len(flow) == 1 and 400000 < flow[0]["out_bytes"] < 800000, flow
assert link["a", "b"]["bytes"] > 1600000 and link["a", "b"]["blackholed"] > 0 and link["b", "a"]["blackholed"] == 0, link
END
echo ok
