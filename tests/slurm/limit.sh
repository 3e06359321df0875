#!/usr/bin/env bash
# Jobs that reach their time limit: each generation of a supervised training is told in time, all ranks save one step, the next
# job goes on from it. No committed step is lost, and after TRIALS limits losses and weights are, bit for bit, those of a run
# that was never stopped. Control (TRIALS > 2): ranks that do not hear are killed, and steps are lost.
# Usage: limit.sh WEFT_BINARY SOURCE_DIR TRIALS
. "$(dirname "$0")/lib.sh"
trials=$3
bed_up --cluster north:2
small_config
train="train -q $work/run.yaml --set train.steps=100000000 --set optim.schedule=constant --set optim.warmup=0"

# job NAME "SUPERVISE OPTIONS" COMMAND...: a batch script of one minute, 2 ranks on each of 2 nodes. Slurm counts limits in minutes.
job() {
  mkdir -p "$work/$1"
  cat >"$1.sh" <<Y
#!/bin/bash
#SBATCH --job-name=$1 --nodes=2 --ntasks-per-node=2 --time=1 --signal=B:USR1@20 --requeue --no-kill --open-mode=append
#SBATCH --output=$work/$1/job-%j.out
exec $weft supervise --dir $work/$1 --tasks-per-node 2 --lead 25 $2 -- ${*:3}
Y
  sbatch --parsable "$1.sh"
}
limits() { { cat run/metrics.jsonl 2>/dev/null || true; } | grep -c '"ev":"end","reason":"time limit"' || true; }
# and the life after the last of them has begun
enough() {
  ended && return
  [ "$(limits)" -ge "$trials" ] && [ "$(grep '"ev":"[er][ne]' run/metrics.jsonl | tail -n 1 | grep -c resume)" = 1 ]
}
ended() { local q; q=$(squeue -h) && [ -z "$q" ]; } # a controller that does not answer has not ended anything
story() { cat "$work"/chain/job-*.out "$work"/chain/train.*.log | tail -n 60; grep '"ev":"[er]' run/metrics.jsonl | tail -n 20; } >&2

job chain "--chain successor --set chain.no_progress=0 --set chain.max_generations=$((4 * trials + 8))" \
  "$paced $train" --set run.dir="$work/run" --set save.every=200 >/dev/null
# a machine so loaded that a generation is killed before it has saved still loses nothing that was committed; others follow
until_true $((300 * (trials + 1))) enough || { story; fail "$(limits) of $trials limits"; }
[ "$(limits)" -ge "$trials" ] || { story; fail "the chain ended after $(limits) of $trials limits"; }
touch chain/stop
until_true 300 ended || { story; fail "the last job does not end"; }
grep -q '"reason":"asked"' run/metrics.jsonl || { story; fail "the last job was not asked to stop"; }
grep -q '"exit":85' chain/status.json || { cat chain/status.json >&2; fail "the last job's exit code"; }

# The records, life by life: a life begins where the last one's newest checkpoint was; one that had said its end lost nothing.
judge='
  function number(key) { return match($0, "\"" key "\":[0-9]+") ? substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) + 0 : -1 }
  /"ev":"checkpoint",/ { saved = number("step") }
  /"ev":"end"/ { ended = 1 }
  /"ev":"resume"/ {
    from = number("step"); lives++
    if (from < saved) { print "life " lives ": goes on from " from ", but " saved " was committed"; bad = 1 }
    if (ended && from != at) { print "life " lives ": goes on from " from ", but the last step was " at; bad = 1 }
    lost += at - from; at = from; ended = 0
  }
  /"loss\/train"/ {
    if (number("step") != at + 1) { print "step " number("step") " after " at; bad = 1 }
    at = number("step")
  }
  END { print lives + 0 " resumed, " at " steps, " lost + 0 " computed twice"; exit bad }'
awk "$judge" run/metrics.jsonl >judged.txt || { cat judged.txt; story; fail "steps were lost"; }
cat judged.txt
steps=$(readlink run/checkpoints/latest | tr -dc 0-9 | sed 's/^0*//')
[ "$(awk "$judge" run/metrics.jsonl | sed -n 's/.*resumed, \([0-9]*\) steps.*/\1/p')" = "$steps" ] || fail "the last checkpoint is not of the last step"

# the same steps in one go, in one process
losses() { awk '/"loss\/train"/ { match($0, "\"step\":[0-9]+"); s = substr($0, RSTART + 7, RLENGTH - 7); match($0, "\"loss/train\":[^,}]*"); l[s + 0] = substr($0, RSTART, RLENGTH); if (s + 0 > n) n = s + 0 } END { for (i = 1; i <= n; i++) print i, l[i] }' "$1"; }
timeout 3000 "$weft" $train --set run.dir="$work/whole" --set train.steps="$steps" || fail "the reference: $?"
same run whole || fail "the chain's weights are not those of one run"
losses run/metrics.jsonl >run.txt
losses whole/metrics.jsonl | cmp - run.txt || fail "the chain's losses are not those of one run"

[ "$trials" -gt 2 ] || { echo ok; exit 0; }
# control: without the page nobody hears; what was not committed is lost, and the test above sees it
job deaf "--chain none" env WEFT_SUPERVISOR= "$paced $train" --set run.dir="$work/deaf.run" --set save.every=1000000 >/dev/null
until_true 600 ended || fail "a job beyond its limit"
grep -q '"loss/train"' deaf.run/metrics.jsonl || fail "the control did not train"
if grep -q '"ev":"end"' deaf.run/metrics.jsonl; then fail "a rank that cannot hear has heard"; fi
[ ! -e deaf.run/checkpoints/latest ] || fail "a rank that was killed has saved"
timeout 600 "$weft" $train --set run.dir="$work/deaf.run" --set train.steps=2 || fail "the control does not begin anew"
if awk "$judge" deaf.run/metrics.jsonl; then fail "lost steps are not noticed"; fi
echo ok
