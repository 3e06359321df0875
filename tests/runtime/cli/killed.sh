#!/usr/bin/env bash
# kill -9 of a rank ends the job soon (10 s on an idle machine; the timeout of its waits is ten minutes) with a message that
# names the rank, and leaves metrics that can be read.
. "$(dirname "$0")/lib.sh"
small_config
dies() { # NAME SETTINGS...: three ranks, the middle one is killed
  local name=$1 victim= code=0 begin mpi p
  shift
  start 3 "$weft" train run.yaml --set run.dir="$name" --set train.steps=1000000 --set train.batch=12 --set train.reproducible=false "$@" >"$name.txt" 2>&1 &
  mpi=$!
  soon counts 5 '"step"' "$name/metrics.jsonl" || { cat "$name.txt"; fail "$name: no steps"; }
  for p in $(pgrep -P $mpi -x weft); do
    if tr '\0' '\n' <"/proc/$p/environ" | grep -qx OMPI_COMM_WORLD_RANK=1; then victim=$p; fi
  done
  kill -KILL "$victim"
  begin=$SECONDS
  wait $mpi || code=$?
  [ $((SECONDS - begin)) -le 100 ] || fail "$name: the job went on for more than 100 s"
  [ $code != 0 ] || fail "$name: exit code 0"
  grep -qE "weft: error: .*rank 1 .*pid $victim" "$name.txt" || { cat "$name.txt"; fail "$name: no message names rank 1 (pid $victim)"; }
  "$weft" report "$name" >/dev/null || fail "$name: no report of a killed run"
  [ "$(losses "$name" | wc -l)" -ge 5 ] || fail "$name: metrics lost"
}
dies dead
dies stages --set layout.pp=3 --set model.layers=6 --set layout.chunks=2

# killed while it saves after every step, taken up by another number of ranks: the same weights, moments and losses as never stopped
even=(--set optim.schedule=constant --set optim.warmup=0) # a step is the same however many there are
start 2 "$weft" train run.yaml -q --set run.dir=cut --set train.steps=1000000 "${even[@]}" --set save.every=1 >cut.log 2>&1 &
mpi=$!
soon counts 3 '"ev":"checkpoint"' cut/metrics.jsonl || { cat cut.log; fail "no checkpoints"; }
kill -KILL "$(pgrep -P $mpi -x weft | head -n 1)"
wait $mpi && fail "a killed run ended well"
steps=$(($(readlink cut/checkpoints/latest | tr -dc 0-9 | sed 's/^0*//') + 20))
expect 0 'resumed' ranks 4 "$weft" train run.yaml --set run.dir=cut --set train.steps=$steps "${even[@]}" --set save.every=50
ranks 1 "$weft" train run.yaml -q --set run.dir=whole --set train.steps=$steps "${even[@]}" --set save.every=-1
same cut whole "" || fail "killed and taken up by 4 ranks, a run has another state"
[ "$(losses cut | tail -n 20)" = "$(losses whole | tail -n 20)" ] || fail "killed and taken up, a run has other losses"
echo ok
