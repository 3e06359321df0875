#!/usr/bin/env bash
# kill -9 of a rank ends the job within 10 s with a message that names the rank, and leaves metrics that can be read.
. "$(dirname "$0")/lib.sh"
small_config
dies() { # NAME SETTINGS...: three ranks, the middle one is killed
  local name=$1 victim= code=0 begin mpi p
  shift
  start 3 "$weft" train run.yaml --set run.dir="$name" --set train.steps=1000000 --set train.batch=12 --set train.reproducible=false "$@" >"$name.txt" 2>&1 &
  mpi=$!
  for _ in $(seq 200); do
    [ "$(grep -c '"step"' "$name/metrics.jsonl" 2>/dev/null || true)" -ge 5 ] 2>/dev/null && break
    sleep 0.1
  done
  for p in $(pgrep -P $mpi -x weft); do
    if tr '\0' '\n' <"/proc/$p/environ" | grep -qx OMPI_COMM_WORLD_RANK=1; then victim=$p; fi
  done
  kill -KILL "$victim"
  begin=$(date +%s)
  wait $mpi || code=$?
  [ $(($(date +%s) - begin)) -le 10 ] || fail "$name: the job went on for more than 10 s"
  [ $code != 0 ] || fail "$name: exit code 0"
  grep -qE "weft: error: .*rank 1 .*pid $victim" "$name.txt" || { cat "$name.txt"; fail "$name: no message names rank 1 (pid $victim)"; }
  "$weft" report "$name" >/dev/null || fail "$name: no report of a killed run"
  [ "$(losses "$name" | wc -l)" -ge 5 ] || fail "$name: metrics lost"
}
dies dead
dies stages --set layout.pp=3 --set model.layers=6 --set layout.chunks=2

# killed while it saves after every step, taken up by another number of ranks: the same weights, moments and losses as never stopped
start 2 "$weft" train run.yaml -q --set run.dir=cut --set train.steps=300 --set save.every=1 >cut.log 2>&1 &
mpi=$!
for _ in $(seq 200); do
  [ "$(grep -c '"ev":"checkpoint"' cut/metrics.jsonl 2>/dev/null || true)" -ge 3 ] 2>/dev/null && break
  sleep 0.05
done
kill -KILL "$(pgrep -P $mpi -x weft | head -n 1)"
wait $mpi && fail "a killed run ended well"
expect 0 'resumed' ranks 4 "$weft" train run.yaml --set run.dir=cut --set train.steps=300 --set save.every=50
ranks 1 "$weft" train run.yaml -q --set run.dir=whole --set train.steps=300 --set save.every=-1
same cut whole "" || fail "killed and taken up by 4 ranks, a run has another state"
[ "$(losses cut | tail -n 20)" = "$(losses whole | tail -n 20)" ] || fail "killed and taken up, a run has other losses"
echo ok
