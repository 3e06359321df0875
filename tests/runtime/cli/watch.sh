#!/usr/bin/env bash
# A run can be watched while it goes on: endpoint, textfile, weft top on both; a port that is taken ends the start; after a
# signal all of them say that it ended.
. "$(dirname "$0")/lib.sh"
command -v python3 >/dev/null || exit 77
small_config
port=$(free_port)
long=(--set train.steps=1000000 --set train.reproducible=false --set train.batch=12)
start 2 "$weft" train run.yaml -q "${long[@]}" --set log.metrics_port="$port" --set log.textfile=run.prom --set save.every=5 \
  --set run.dir=watched --set run.name='a "b"' >watched.txt 2>&1 &
mpi=$!
if ! "$weft" train run.yaml --set log.metrics_port=1 --set train.steps=1 --set run.dir=unbuilt 2>&1 | grep -q 'without libmicrohttpd'; then
  shows_url() { "$weft" top "http://127.0.0.1:$port" --json >url.json 2>/dev/null && grep -q '"step": [1-9]' url.json && grep -q '"checkpoints": [1-9]' url.json && grep -q '"state": "running"' url.json; }
  soon shows_url || true
  python3 - url.json <<'P' || { cat watched.txt url.json; fail "weft top URL"; }
import json, sys
j = json.load(open(sys.argv[1]))
assert j["state"] == "running" and j["title"] == 'a "b"' and j["steps"] == 1000000, j
assert 0 < j["loss_train"] < 10 and j["tokens_per_s"] > 0 and j["phases"]["forward"] > 0, j
P
  expect 78 'cannot listen on 127.0.0.1, port '"$port" "$weft" train run.yaml --set log.metrics_port="$port" --set run.dir=second
  [ ! -e second/metrics.jsonl ] || [ ! -s second/metrics.jsonl ] || fail "a refused run left records"
  expect 78 'not a numeric address' "$weft" train run.yaml --set log.metrics_port="$port" --set log.metrics_bind=nowhere --set run.dir=second
  command -v promtool >/dev/null && python3 -c "
import urllib.request; print(urllib.request.urlopen(urllib.request.Request('http://127.0.0.1:$port/metrics', headers={'Accept': 'text/plain'})).read().decode(), end='')" | promtool check metrics
fi
expect 73 'run.prom' "$weft" train run.yaml --set log.textfile=nowhere/run.prom --set run.dir=second
shows_dir() { "$weft" top watched --json >dir.json 2>/dev/null && grep -q '"checkpoints": [1-9]' dir.json; }
soon shows_dir || true
is_running() { "$weft" top watched --once >view.txt && grep -q '^weft top .*running' view.txt; }
soon is_running || true
grep -q '^weft top  a "b" .*running' view.txt && grep -q '^saved     step ' view.txt && grep -q '^  forward ' view.txt || { cat view.txt; fail "the view"; }
[ "$(wc -l <view.txt)" -le 24 ] && [ "$(wc -L <view.txt)" -le 80 ] || { cat view.txt; fail "more than 80 x 24"; }
kill -USR1 $mpi
wait $mpi || true
"$weft" top watched --json >dir.json
grep -q '"state": "ended: signal"' dir.json || { cat dir.json watched.txt; fail "the end"; }
grep -q '^weft_run_running 0$' run.prom || { cat run.prom; fail "the textfile's end"; }
expect 66 '' "$weft" top none.such
expect 64 'no http' "$weft" top http://
expect 66 'no endpoint' "$weft" top "127.0.0.1:$port"

# Traces of both ranks become one at the end, and again by hand; two runs are compared.
for lr in 1e-3 3e-3; do
  ranks 2 "$weft" train run.yaml -q --set run.dir=lr$lr --set optim.lr=$lr --set log.trace=true >lr.txt 2>&1 || { cat lr.txt; fail "lr $lr"; }
done
python3 - lr1e-3/trace.json <<'P' || fail "trace.json"
import json, sys
t = json.load(open(sys.argv[1]))
assert t["otherData"]["ranks"] == 2 and t["otherData"]["clock_bound_us"] > 0, t["otherData"]
steps = {e["pid"] for e in t["traceEvents"] if e["ph"] == "X" and e["name"] == "backward"}
assert steps == {0, 1}, steps
P
"$weft" trace merge lr1e-3 -o merged.json | grep -q '^merged.json: 2 ranks, ' && cmp merged.json lr1e-3/trace.json || fail "weft trace merge"
expect 66 'holds no trace' "$weft" trace merge .
expect 64 'unknown' "$weft" trace split .
"$weft" compare lr1e-3 lr3e-3 --json --html page.html >compare.json
python3 - compare.json <<'P' || fail "weft compare"
import json, sys
j = json.load(open(sys.argv[1]))
assert [r["steps"] for r in j["runs"]] == [6, 6] and j["config"] == {"optim.lr": ["1e-3", "3e-3"]}, j
assert all(0 < r["loss_valid"] < 10 for r in j["runs"]), j
P
grep -q 'line c2' page.html || fail "the page"
"$weft" compare lr1e-3 lr3e-3 | grep -q '^  optim.lr  *1e-3  *3e-3$' || fail "the table"
expect 64 'At least two' "$weft" compare lr1e-3
expect 66 'none/metrics.jsonl' "$weft" compare lr1e-3 none
echo ok
