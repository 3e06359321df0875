#!/usr/bin/env bash
# How long it takes until rounds are committed again: after a site was killed (15 s at most), cut off without a word (given up
# after 12 s, next commit after 20 s), and after the hub was killed and restarted (5 s after it is back). Nobody's
# bits differ, nobody loses inner work, and everybody comes back. A program that only sleeps tells whether the machine was
# free: on one that was not, times are told, but not judged.
# Usage: recover.sh BIN_DIR
set -uo pipefail
bin=$1
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
fail() { echo "FAILED: $*; see $dir" >&2; exit 1; }
worker() { echo "run $1 in $1: exec $bin/sites_worker --invite $dir/$1.json --hub \$WAN_h:7700 --listen \$WAN_$1:7701 --seed $2 --step-ms 20 --every 25 --audit 2"; }
cat >"$dir/scenario" <<END
late 100
limit 1500
site h
site a
site b
site c
link *>* rate=200M delay=20ms jitter=2ms loss=0.05%
run ticks in h: exec python3 -c "import time; [(time.sleep(0.1), print(time.time(), sum(range(100000)), flush=True)) for _ in range(100000)]"
run hub in h: exec $bin/weft hub --dir $dir/hub --listen \$WAN_h:7700
wait hub "listening" 100
run keys in h: for n in a b c; do $bin/weft hub invite \$n --dir $dir/hub --out $dir/\$n.json || exit 1; done
exit keys 0 100
$(worker a 1)
wait a "joined" 150
$(worker b 2)
$(worker c 3)
wait b "joined" 300
wait c "joined" 300
wait a "sites=3" 300
# a site is killed
mark a
kill -KILL c
wait a "sites=2" 200
start c
wait c "joined" 300
mark a
wait a "sites=3" 300
# a black hole
mark a
link c<>h blackhole
link c<>a blackhole
link c<>b blackhole
wait a "sites=2" 300
mark c
link c<>h up
link c<>a up
link c<>b up
wait c "sites=3" 450
mark a
wait a "sites=3" 300
# the hub
kill -KILL hub
+3 mark a
start hub
wait a "merge" 300
mark b
wait b "sites=3" 300
wait b "sites=3" 300
kill -TERM c
exit c 0 300
kill -TERM b
exit b 0 300
kill -TERM a
exit a 0 300
END
"$bin/wanem" -v --out "$dir/out" --json "$dir/json" "$dir/scenario" 2>"$dir/err"
code=$?
[ $code = 77 ] && { cat "$dir/err" >&2; rm -rf "$dir"; exit 77; }
[ $code = 0 ] || [ $code = 76 ] || { tail -n 3 "$dir/err" >&2; fail "wanem: $code"; }
python3 "$here/churn.py" check --sites 3 "$dir/out" || fail "bits"
python3 - "$dir" <<'END' || fail "too slow"
import json, sys
d = sys.argv[1]
lines = open(d + "/scenario").read().split("\n")
at = {s["line"]: s["done_s"] for s in json.load(open(d + "/json"))["statements"]}
def line(text, after):
    return next(i for i in range(after, len(lines) + 1) if lines[i - 1].endswith(text))
def took(comment, cause, effect):
    c = line(cause, line(comment, 1))
    return at[line(effect, c)] - at[c]
killed = took("# a site is killed", "kill -KILL c", '"sites=2" 200')
hole = took("# a black hole", "link c<>h blackhole", '"sites=2" 300')
hub = took("# the hub", "start hub", '"merge" 300')
print(f"next commit {killed:.1f} s after a kill, {hole:.1f} s after a black hole, {hub:.1f} s after the hub is started again")
ticks = [float(l.split()[0]) for l in open(d + "/out/ticks.log")]
gaps = sorted(b - a for a, b in zip(ticks, ticks[1:]))
mean = sum(gaps) / len(gaps)
print(f"pauses of 0.1 s took {mean:.3f} s, at most {gaps[-1]:.1f} s")
busy = mean > 0.115 or gaps[-1] > 1
sys.exit(not busy and not (killed <= 15 and hole <= 20 and hub <= 5))
END
rm -rf "$dir"
