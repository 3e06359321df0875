#!/usr/bin/env bash
# A run cut in two is the same run: weights and losses after 3 + 3 steps equal those after 6, bit for bit, also on another
# number of ranks. SIGTERM and SIGINT finish the step, save and exit with 85.
. "$(dirname "$0")/lib.sh"
small_config
ranks 2 "$weft" train -q run.yaml --set run.dir=cut --set optim.schedule=constant --set train.steps=3 --set optim.warmup=0
ranks 2 "$weft" train -q run.yaml --set run.dir=whole0 --set optim.schedule=constant --set optim.warmup=0
ranks 4 "$weft" train -q run.yaml --set run.dir=cut --set optim.schedule=constant --set optim.warmup=0
same cut whole0 "" || fail "a resumed run has another state"
losses cut >cut.txt
losses whole0 | cmp - cut.txt || fail "a resumed run has other losses"
# negative control: the same steps over other samples are another run
(cd cut/checkpoints/step_0000000003 && sed 's/"g":48,/"g":64,/' -i manifest.json && grep -q '"g":64,' manifest.json && sha256sum manifest.json >manifest.sha256)
mv cut/checkpoints/step_0000000006 later
ranks 2 "$weft" train -q run.yaml --set run.dir=cut --set optim.schedule=constant --set optim.warmup=0
same cut whole0 && fail "the position of the data changes nothing"

# every evaluation is in the record of its own step, whichever steps are recorded
ranks 1 "$weft" train -q run.yaml --set run.dir=logged --set train.steps=8 --set log.every=5 --set eval.every=3
[ "$(grep -o '"step":[0-9]*.*"loss/valid"' logged/metrics.jsonl | sed 's/,.*//' | tr '\n' ' ')" = '"step":3 "step":6 "step":8 ' ] ||
  fail "evaluations are not recorded at their steps"

wait_for_steps() { soon counts 5 '"step"' "$1/metrics.jsonl" || { cat "$1.txt"; fail "$1: no steps"; }; }
for sig in TERM INT; do
  dir=signal_$sig
  start 2 "$weft" train run.yaml --set run.dir=$dir --set train.steps=1000000 >$dir.txt 2>&1 &
  mpi=$!
  wait_for_steps $dir
  kill -$sig "$(pgrep -P $mpi -x weft | head -n 1)" # one rank is asked; all of them stop at the same step
  code=0
  wait $mpi || code=$?
  [ $code = 85 ] || { cat $dir.txt; fail "SIG$sig: exit code $code, expected 85"; }
  grep -q '"reason":"signal"' $dir/metrics.jsonl || fail "SIG$sig: no event"
  "$weft" ckpt verify $dir/checkpoints/latest || fail "SIG$sig: no checkpoint"
  steps=$(readlink $dir/checkpoints/latest | tr -dc 0-9 | sed 's/^0*//')
  ranks 2 "$weft" train -q run.yaml --set run.dir=$dir --set train.steps=$((steps + 2))
  [ -d "$dir/checkpoints/step_$(printf %010d $((steps + 2)))" ] || fail "SIG$sig: not resumed"
done
# Ctrl-C as a user knows it, and SIGUSR1 to an mpirun of one's own
"$weft" train run.yaml --ranks 2 --set run.dir=ctrl_c --set train.steps=1000000 >ctrl_c.txt 2>&1 &
job=$!
wait_for_steps ctrl_c
expect 73 'another run is writing' "$weft" train run.yaml --set run.dir=ctrl_c
kill -INT $job
code=0
wait $job || code=$?
[ $code = 85 ] || { cat ctrl_c.txt; fail "Ctrl-C: exit code $code, expected 85"; }
"$weft" ckpt verify ctrl_c/checkpoints/latest || fail "Ctrl-C: no checkpoint"
start 2 "$weft" train run.yaml --set run.dir=usr1 --set train.steps=1000000 >usr1.txt 2>&1 &
mpi=$!
wait_for_steps usr1
kill -USR1 $mpi
code=0
wait $mpi || code=$?
[ $code = 85 ] || { cat usr1.txt; fail "SIGUSR1 to mpirun: exit code $code, expected 85"; }
echo ok
