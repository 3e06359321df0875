#!/usr/bin/env bash
# What dies or hangs under a supervised training, one after the other in one job: a rank beside another, a rank that stands still,
# a node; in a second job a rank that is alone on its node, where Slurm and MPI notice nothing. Each time the training is
# started anew on what is left, from its last checkpoint; in the end losses and weights are, bit for bit, those of a run to which
# nothing happened. Control: another seed has other weights.
# Usage: deaths.sh WEFT_BINARY SOURCE_DIR ROUNDS
. "$(dirname "$0")/lib.sh"
rounds=$3
bed_up --cluster north:5
small_config
train="train -q $work/run.yaml --set train.steps=100000000 --set optim.schedule=constant --set optim.warmup=0 --set save.every=20"

# Of the job in $dir (its run: $dir/run)
ended() { local q; q=$(squeue -h) && [ -z "$q" ]; } # a controller that does not answer has not ended anything
story() { { cat "$dir"/job-*.out; tail -n 15 "$dir"/train.*.log; cat "$dir/status.json"; } >&2 || true; }
field() { sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p" "$dir/status.json" 2>/dev/null || true; }
records() { cat "$dir/run/metrics.jsonl" 2>/dev/null || true; }
lives() { records | grep -c '"ev":"start"' || true; }
# A new life, `deep` steps into it: there is a checkpoint of it then
under_way() {
  if ended; then story; fail "the job has ended"; fi
  [ "$(lives)" -gt "$known" ] && [ "$(records | awk '/"ev":"start"/ { n = 0 } /"loss\/train"/ { n++ } END { print n + 0 }')" -ge "$deep" ]
}
await() {
  deep=$((25 + RANDOM % 20))
  until_true 600 under_way || { story; fail "after $1 nothing goes on"; }
  known=$(lives)
}
# node I: of the training's step, as the supervisor has started it last
node() {
  sed -n 's/.*weft: step [0-9]* on \([^:]*\):.*/\1/p' "$dir"/job-*.out | tail -n 1 | tr ',' '\n' >nodes.txt
  sed -n "$((1 + $1 % $(wc -l <nodes.txt)))p" nodes.txt
}
# ranks NODE: the processes of the training on it
ranks() {
  local p
  for p in $(pgrep -x weft); do
    { tr '\0' '\n' <"/proc/$p/environ"; } 2>/dev/null | awk -v node="$1" -v conf="$SLURM_CONF" '
      $0 == "SLURMD_NODENAME=" node { a = 1 } $0 == "SLURM_CONF=" conf { b = 1 } /^PMIX_RANK=/ { c = 1 }
      END { exit !(a && b && c) }' && echo "$p"
  done || true
}
# hit SIGNAL NODE: to one of its ranks; then the training goes on, and that process is gone
hit() {
  local victim
  ranks "$2" >ranks.txt
  victim=$(head -n 1 ranks.txt)
  [ -n "$victim" ] || { story; fail "no rank on $2"; }
  echo "round $round: SIG$1 to one of $(wc -l <ranks.txt) ranks of $2"
  kill "-$1" "$victim"
  await "SIG$1 to a rank of $2"
  ranks "$2" >ranks.txt
  if grep -qx "$victim" ranks.txt; then fail "a rank of a dead step lives"; fi
}
# begin NAME NODES RANKS_A_NODE OPTIONS
begin() {
  dir=$work/$1 known=0
  mkdir "$dir"
  cat >"$dir/job.sh" <<Y
#!/bin/bash
#SBATCH --nodes=$2 --ntasks-per-node=$3 --time=120 --no-kill --output=$dir/job-%j.out
exec $weft supervise --dir $dir --tasks-per-node $3 --hang 15 $4 -- $paced $train --set run.dir=$dir/run
Y
  sbatch "$dir/job.sh" >/dev/null
  await "the start"
}
losses() { awk '/"loss\/train"/ { match($0, "\"step\":[0-9]+"); s = substr($0, RSTART + 7, RLENGTH - 7); match($0, "\"loss/train\":[^,}]*"); l[s + 0] = substr($0, RSTART, RLENGTH); if (s + 0 > n) n = s + 0 } END { for (i = 1; i <= n; i++) print i, l[i] }' "$1"; }
# finish RELAUNCHES: as often at least; then the bits, of every step as computed last
finish() {
  local steps
  touch "$dir/stop"
  until_true 600 ended || { story; fail "the job does not end"; }
  [ "$(field exit)" = 85 ] || { story; fail "exit code $(field exit)"; }
  [ "$(field relaunch)" -ge "$1" ] || { story; fail "$(field relaunch) relaunches, expected $1"; }
  steps=$(readlink "$dir/run/checkpoints/latest" | tr -dc 0-9 | sed 's/^0*//')
  timeout 3000 "$weft" $train --set run.dir="$dir/whole" --set train.steps="$steps" || fail "the reference: $?"
  same "$dir/run" "$dir/whole" || { story; fail "the weights are not those of one run"; }
  losses "$dir/run/metrics.jsonl" >run.txt
  losses "$dir/whole/metrics.jsonl" | cmp - run.txt || fail "the losses are not those of one run"
  [ -e other ] || timeout 600 "$weft" $train --set run.dir="$work/other" --set train.steps="$steps" --set run.seed=4 || fail "the control: $?"
  if same "$dir/run" other; then fail "nothing makes a difference"; fi
  echo "$(field relaunch) relaunches, $steps steps: the bits of one run"
}

for round in $(seq "$rounds"); do
  begin "two$round" 5 2 "--spares 1"
  hit KILL "$(node $RANDOM)"
  hit STOP "$(node $RANDOM)"
  victim=$(node $RANDOM)
  echo "round $round: $victim dies"
  "$testbed/kill-node" --dir "$bed" "$victim"
  await "the death of $victim"
  finish 3
  "$testbed/revive-node" --dir "$bed" "$victim"

  begin "alone$round" 4 1 ""
  hit KILL "$(node $RANDOM)"
  finish 1
done
echo ok
