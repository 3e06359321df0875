#!/usr/bin/env bash
# weft supervise in real jobs of Slurm.
# Usage: supervise.sh WEFT_BINARY SOURCE_DIR limit|repair|chain|cells [TRIALS]
#   limit   time limits: no committed step is lost, and the weights are those of one run without a limit
#   repair  a rank killed (alone on its node, and beside another), a rank stopped, a node killed: the training goes on in the
#           same job with the same weights
#   cells   three steps in one job: a rank of one is killed, the others go on; a spare node takes a dead one's place
#   chain   what follows each exit code; the cap; requeue; one life at a time
# More than one trial: with the negative controls, too.
. "$(dirname "$0")/lib.sh"
part=$3 trials=${4:-1}

# batch FILE SBATCH_OPTIONS SUPERVISE_OPTIONS -- PROGRAM: a script that ends in a supervisor with the directory d
batch() {
  local file=$1 options=$2 supervise=$3
  shift 4
  cat >"$file" <<Y
#!/bin/bash
#SBATCH $options --no-kill --requeue -J weft-$file -o $work/slurm-%j.out --open-mode=append
exec $weft supervise --dir $work/d --set health=false $supervise -- $*
Y
}
no_jobs() { [ -z "$(squeue -h -o %i)" ]; }
# Only heartbeats that stay away count here, not a loaded machine: hence --silent 60 where no node is to die.
in_file() { grep -qE "$1" "$2" 2>/dev/null; }
show() { tail -n 30 "$work"/slurm-*.out "$work"/d/train.*.log >&2 2>/dev/null || true; }
die() { show; fail "$@"; }
chain() { sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p" d/chain.json; }
status() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,}\"]*\).*/\1/p" d/status.json; }
steps_done() { readlink "$1/checkpoints/latest" | tr -dc 0-9 | sed 's/^0*//'; }
# progressed LAUNCH: the ranks of that step have trained on
progressed() { [ -f "d/train.0.$1.log" ] && in_file 'resumed|step' "d/train.0.$1.log" && saved_more; }
saved_more() { [ "$(steps_done run)" -gt "$before" ]; }
end_run() { touch d/stop; until_true 300 no_jobs || die "the job does not end when asked to"; }
# The weights of a run that was cut and of one that was not are the same.
whole() {
  "$weft" train -q run.yaml --set run.dir="$work/whole" --set train.steps="$(steps_done run)" >/dev/null || fail "the uncut run"
  same run whole || die "$1: other weights than those of the uncut run"
  rm -rf whole run d slurm-*.out
}
training() {
  small_config
  sed -i 's/steps: 6/steps: 1000000/; s/lr: 3e-3/lr: 3e-3, schedule: constant, warmup: 0/' run.yaml
  echo "save: {every: 25}" >>run.yaml
}

# --- limit

# cut: some generation was stopped by the limit while it trained, and the next one has resumed. Sets $last and $next_log.
cut() {
  local g
  for ((g = 0; g < 20; g++)); do
    last=$(sed -n 's/.*step \([0-9]*\): saving, then the end: time limit.*/\1/p' "d/train.$g.1.log" 2>/dev/null)
    next_log=d/train.$((g + 1)).1.log
    [ -n "$last" ] && in_file 'resumed .* at step' "$next_log" && return 0
  done
  return 1
}
limit() { # TRIAL: every other one without a signal, by the remaining time alone
  local signal=--signal=B:USR1@30
  [ $(($1 % 2)) = 0 ] || signal=
  batch limit.sh "-N 2 --ntasks-per-node=1 -t 1 $signal" "--chain successor --lead 30 --silent 60 --set chain.no_progress=0" -- "$paced" train "$work/run.yaml"
  sbatch --parsable limit.sh >/dev/null
  until_true 900 cut || die "no second generation"
  before=$last
  until_true 600 saved_more || die "the next generation does not get on"
  end_run
  in_file "resumed .* at step $last\$" "$next_log" || die "stopped at step $last, resumed elsewhere"
  if grep -q 'JobState=TIMEOUT' "$bed"/*/log/jobcomp.txt; then die "Slurm ended a job at its limit"; fi
  whole "cut by a time limit"
}

# The control: ranks that do not hear the supervisor are killed before the limit, and steps are done twice.
limit_control() {
  batch deaf.sh "-N 2 --ntasks-per-node=1 -t 1" "--chain successor --lead 30 --silent 60 --set chain.no_progress=0" -- env -u WEFT_SUPERVISOR "$paced" train "$work/run.yaml"
  sbatch --parsable deaf.sh >/dev/null
  until_true 600 in_file 'resumed .* at step|step' d/train.1.1.log || die "no second generation of the deaf one"
  end_run
  in_file 'saving, then the end: time limit' d/train.0.1.log && die "the control heard the supervisor"
  rm -rf run d slurm-*.out
}

# --- repair

rank_on() { # NODE: pids of the training's ranks there
  local p
  for p in $(pgrep -f "$work/run.yaml"); do
    tr '\0' '\n' <"/proc/$p/environ" 2>/dev/null | grep -qx "SLURMD_NODENAME=$1" && [ "$(ps -o comm= -p "$p")" = weft ] &&
      tr '\0' '\n' <"/proc/$p/environ" | grep -q ^PMIX_RANK= && echo "$p"
  done
}
now_ms() { date +%s%3N; }
launched() { [ -f "d/train.0.$1.log" ]; }
# hurt TEXT COMMAND...: something dies under the running step; the next one goes on from a checkpoint
hurt() {
  local launch=1 text=$1 began
  shift
  while launched "$launch"; do launch=$((launch + 1)); done
  before=$(steps_done run)
  began=$(now_ms)
  "$@"
  until_true 600 launched "$launch" || die "$text: nothing was launched again"
  echo "$text: launched again after $(($(now_ms) - began)) ms"
  until_true 300 in_file 'resumed .* at step' "d/train.0.$launch.log" || die "$text: not resumed"
  until_true 300 saved_more || die "$text: the training does not get on"
}
has_rank() { [ -n "$(rank_on "$1" 2>/dev/null)" ]; }
kill_rank() { until_true 100 has_rank "$1" && kill -9 "$(rank_on "$1" | head -n 1)"; }
stop_rank() { until_true 100 has_rank "$1" && kill -STOP "$(rank_on "$1" | head -n 1)"; }
has_saved() { [ -e run/checkpoints/latest ]; }

repair() {
  batch repair.sh "-N 4 --ntasks-per-node=1 -t 60" "--silent 60 --hang 45" -- "$paced" train "$work/run.yaml"
  sbatch --parsable repair.sh >/dev/null
  until_true 300 has_saved || die "no training"
  hurt "a rank alone on its node killed" kill_rank n2
  hurt "a rank stopped" stop_rank n3
  hurt "a node killed" "$testbed/kill-node" --dir "$bed" n4
  until_true 60 in_file '"ranks":2' d/status.json || die "3 nodes do not fit the layout, 2 do: $(cat d/status.json)"
  until_true 60 in_file '"nodes":\["n1","n2","n3"\].*"bad":\[[^]]*"n4"' d/status.json || die "the dead node: $(cat d/status.json)"
  [ "$(status relaunch)" -ge 3 ] || die "relaunches: $(cat d/status.json)"
  touch d/stop
  until_true 300 in_file 'ends with 85' slurm-*.out || die "the job does not end when asked to"
  "$testbed/revive-node" --dir "$bed" n4
  until_true 300 no_jobs || die "the job stays"
  whole "ranks and nodes died"

  batch pair.sh "-N 2 --ntasks-per-node=2 -t 60" "--silent 60 --tasks-per-node 2 --spares 0" -- "$paced" train "$work/run.yaml"
  sbatch --parsable pair.sh >/dev/null
  until_true 300 has_saved || die "no training with two ranks a node"
  hurt "a rank beside another killed" kill_rank n2
  end_run
  whole "a rank beside another died"
}

spare() {
  batch spare.sh "-N 3 --ntasks-per-node=1 -t 60" "--silent 60 --spares 1" -- "$paced" train "$work/run.yaml"
  sbatch --parsable spare.sh >/dev/null
  until_true 300 has_saved || die "no training with a spare"
  hurt "a node killed, a spare takes its place" "$testbed/kill-node" --dir "$bed" n2
  in_file 'step [0-9]+ on n1,n3' slurm-*.out || die "the spare was not taken"
  touch d/stop
  until_true 300 in_file 'ends with 85' slurm-*.out || die "the job does not end when asked to"
  "$testbed/revive-node" --dir "$bed" n2
  until_true 300 no_jobs || die "the job stays"
  whole "a spare took a dead node's place"
}

# The control: without a supervisor the others wait for a rank that died alone on its node.
repair_control() {
  srun --overlap --mpi=pmix --no-kill --kill-on-bad-exit=0 -N2 -n2 "$paced" train "$work/run.yaml" >control.txt 2>&1 &
  local step=$!
  until_true 300 has_saved || fail "the control does not train"
  kill_rank n2
  sleep 20
  kill -0 $step 2>/dev/null || fail "the control ended by itself: $(tail -n 5 control.txt)"
  kill -9 $step
  scancel --me
  until_true 300 no_jobs || fail "the control stays"
  rm -rf run
}

# --- cells

# The steps of one launch: cell 1 to 3, each on a node of its own with a run of its own.
cells() {
  local c before_c
  batch cells.sh "-N 3 --ntasks-per-node=1 -t 60" "--silent 60 --cells 3" -- "$paced" train "$work/run.yaml" --set run.dir="$work/run-c{cell}"
  sbatch --parsable cells.sh >/dev/null
  for c in 1 2 3; do until_true 300 test -e run-c$c/checkpoints/latest || die "cell $c does not train"; done
  before_c=$(steps_done run-c2)
  kill_rank n2
  until_true 300 test -f d/train.0.c2.2.log || die "cell 2 is not launched again"
  until_true 300 in_file 'resumed .* at step' d/train.0.c2.2.log || die "cell 2 is not resumed"
  cell_saved() { [ "$(steps_done run-c2)" -gt "$before_c" ]; }
  until_true 300 cell_saved || die "cell 2 does not get on"
  [ ! -e d/train.0.c1.2.log ] && [ ! -e d/train.0.c3.2.log ] || die "the other cells were launched again, too"
  end_run
  for c in 1 3; do
    in_file 'resumed' d/train.0.c$c.1.log && die "cell $c was resumed"
    mv run-c$c run
    cp -r d keep && whole "cell $c" && mv keep d
  done
  rm -rf d run-c2 slurm-*.out
}

# --- chain

# expect_end CODE: the chain has ended, the last job with that code
expect_end() {
  until_true 300 no_jobs || die "$1: a job stays"
  [ "$(chain ended)" = true ] || die "$1: $(cat d/chain.json)"
  [ "$(status exit)" = "$1" ] || die "$1: $(cat d/status.json)"
}
requeued() { [ "$(chain generation 2>/dev/null)" = 1 ]; }
# Not in the second in which slurmd was told to kill it: it would refuse the new life as the one that it has just ended.
due() {
  if [ "$(squeue -h -j "$1" -o %T)" = PENDING ]; then
    sleep 5
    scontrol update JobId="$1" StartTime=now 2>/dev/null || true
  fi
  requeued
}

chain_codes() {
  # 85 is followed, up to the cap, though the script resets the counter
  batch cap.sh "-N 1 -t 5" "--chain successor --set chain.max_generations=3" -- sh -c "'exit 85'"
  sed -i 's/^exec/export WEFT_GENERATION=0\nexec/' cap.sh
  sbatch --parsable cap.sh >/dev/null
  until_true 300 in_file '"ended":true' d/chain.json || die "the cap does not hold: $(cat d/chain.json)"
  expect_end 85
  [ "$(chain generation)" = 2 ] || die "cap: $(cat d/chain.json)"
  [ "$(ls slurm-*.out | wc -l)" = 3 ] || die "cap: $(ls slurm-*.out)"
  rm -rf d slurm-*.out
  # a fault of the site three times; an error and a voucher at once; done
  local code jobs
  for code in 75:3 86:1 3:1 0:1; do
    jobs=${code#*:} code=${code%:*}
    batch code.sh "-N 1 -t 5" "--chain successor" -- sh -c "'exit $code'"
    sbatch --parsable code.sh >/dev/null
    until_true 300 in_file '"ended":true' d/chain.json || die "code $code: no end"
    expect_end "$code"
    [ "$(ls slurm-*.out | wc -l)" = "$jobs" ] || die "code $code: $(ls slurm-*.out)"
    rm -rf d slurm-*.out
  done
}

chain_others() {
  # requeue: the same job comes back; the second life is done
  batch again.sh "-N 1 -t 5" "--chain requeue" -- sh -c "'[ \$WEFT_GENERATION = 1 ] || exit 85'"
  local job
  job=$(sbatch --parsable again.sh)
  until_true 300 due "$job" || die "requeue: no second life: $(cat d/chain.json)"
  expect_end 0
  rm -rf d slurm-*.out
  # two jobs of one directory: the second finds the lock
  batch one.sh "-N 1 -t 5" "--chain successor" -- sleep 600
  batch two.sh "-N 1 -t 5" "--set lock_s=1" -- true
  sbatch --parsable one.sh >/dev/null
  until_true 300 in_file '"state":"run"' d/status.json || die "no first job"
  job=$(sbatch --parsable two.sh)
  until_true 300 in_file 'another job leads this run' "slurm-$job.out" || die "the lock: $(cat "slurm-$job.out")"
  scancel --me
  until_true 300 no_jobs || die "the jobs stay"
  in_file '"next_job":[1-9]' d/chain.json && die "a cancelled job has a successor"
  # outside a job it says what to do
  local got=0
  "$weft" supervise --dir d -- true >out.txt 2>&1 || got=$?
  [ $got = 78 ] && grep -q 'sbatch' out.txt || fail "outside a job: $got $(cat out.txt)"
}

# Runs beside each other whose jobs have one name: a successor does not wait for another run's job, and a run that cannot
# submit does not take another run's pending job for its own.
chain_beside() {
  local name job next
  beside() { # NAME PROGRAM: as batch does, in a directory of its own
    batch same.sh "-N 1 -t 30" "--chain successor" -- "$2"
    sed "s|--dir $work/d |--dir $work/d-$1 |; s|slurm-%j|slurm-$1-%j|" same.sh >"$1.sh"
    sbatch --parsable "$1.sh" >/dev/null
    until_true 300 in_file '"state":"run"' "d-$1/status.json" || die "$1 does not run"
  }
  mkdir shim
  printf '#!/bin/sh\nexit 1\n' >shim/sbatch
  chmod +x shim/sbatch
  beside long "sleep 600"
  beside first "sh -c '[ \$WEFT_GENERATION = 0 ] || exit 0; while [ ! -e $work/go-first ]; do sleep 0.2; done; exit 85'"
  PATH="$work/shim:$PATH" && export PATH # of the job, too: there is no sbatch for it
  sbatch() { command -p sbatch "$@"; }
  beside second "sh -c 'while [ ! -e $work/go-second ]; do sleep 0.2; done; exit 85'"
  scontrol update PartitionName=all State=DOWN || die "the partition stays up"
  touch go-first
  pending() { next=$(sed -n 's/.*"next_job":\([0-9]*\).*/\1/p' d-first/chain.json); [ "${next:-0}" != 0 ] && [ "$(squeue -h -j "$next" -o %T)" = PENDING ]; }
  until_true 300 pending || die "the first has no successor: $(cat d-first/chain.json)"
  touch go-second
  until_true 300 in_file 'ends with' slurm-second-*.out || die "the second does not end"
  grep -q 'could not be submitted' slurm-second-*.out || die "the second: $(cat slurm-second-*.out)"
  in_file '"next_job":[1-9]' d-second/chain.json && die "another run's job as successor: $(cat d-second/chain.json)"
  scontrol update PartitionName=all State=UP
  until_true 300 in_file '"ended":true' d-first/chain.json || die "the successor waits for another run: $(squeue)"
  in_file '"state":"run"' d-long/status.json || die "the control: nobody ran beside"
  scancel --me
  until_true 300 no_jobs || die "the jobs stay"
}

bed_up --cluster north:4
case $part in
limit)
  training
  for ((i = 0; i < trials; i++)); do limit $((i + 1)); done
  [ "$trials" = 1 ] || limit_control
  ;;
repair)
  training
  for ((i = 0; i < trials; i++)); do repair; done
  [ "$trials" = 1 ] || repair_control
  ;;
cells)
  training
  cells
  spare
  ;;
chain)
  chain_codes
  chain_others
  chain_beside
  ;;
esac
echo ok
