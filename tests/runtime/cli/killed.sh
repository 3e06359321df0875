#!/usr/bin/env bash
# kill -9 of a rank ends the job within 10 s with a message that names the rank, and leaves metrics that can be read.
. "$(dirname "$0")/lib.sh"
small_config
start 3 "$weft" train run.yaml --set run.dir=dead --set train.steps=1000000 --set train.batch=12 --set train.reproducible=false >dead.txt 2>&1 &
mpi=$!
for _ in $(seq 200); do
  [ "$(grep -c '"step"' dead/metrics.jsonl 2>/dev/null || true)" -ge 5 ] 2>/dev/null && break
  sleep 0.1
done
for p in $(pgrep -P $mpi -x weft); do
  tr '\0' '\n' <"/proc/$p/environ" | grep -qx OMPI_COMM_WORLD_RANK=1 && victim=$p
done
kill -KILL "$victim"
begin=$(date +%s)
code=0
wait $mpi || code=$?
[ $(($(date +%s) - begin)) -le 10 ] || fail "the job went on for more than 10 s"
[ $code != 0 ] || fail "exit code 0"
grep -qE "weft: error: .*rank 1 .*pid $victim" dead.txt || { cat dead.txt; fail "no message names rank 1 (pid $victim)"; }
"$weft" report dead >/dev/null || fail "no report of a killed run"
[ "$(losses dead | wc -l)" -ge 5 ] || fail "metrics lost"
echo ok
