#!/usr/bin/env bash
# How long a supervised job stands still when something dies, and what watching it costs. On a test bed of four emulated nodes
# of this machine (docs/testbed.md), a small training with one rank a node.
# Usage: supervise.sh WEFT_BINARY SOURCE_DIR [TRIALS]
# "launched": the next srun is started. "steps": the first record of a step of the relaunched training, its load of the
# checkpoint and start of MPI included.
. "$2/tests/slurm/lib.sh"
trials=${3:-5}
ms() { date +%s%3N; }
soon() { until "$@"; do sleep 0.02; done; }
steps() { grep -c '"step":' run/metrics.jsonl 2>/dev/null || true; }
more_steps() { [ "$(steps)" -gt "$seen" ]; }
in_log() { grep -q "$1" "$2" 2>/dev/null; }
rank_on() {
  local p
  for p in $(pgrep -f "$work/run.yaml"); do
    tr '\0' '\n' <"/proc/$p/environ" 2>/dev/null | grep -qx "SLURMD_NODENAME=$1" && tr '\0' '\n' <"/proc/$p/environ" | grep -q ^PMIX_RANK= &&
      [ "$(cat "/proc/$p/comm")" = weft ] && echo "$p"
  done
}
ticks() { # of the processes whose command line has these words, and of what they are
  local p total=0 t
  for p in $(pgrep -f "$1"); do
    [ "$(cat "/proc/$p/comm" 2>/dev/null)" = weft ] || continue
    t=$(cut -d' ' -f14-15 "/proc/$p/stat" | tr ' ' '+')
    total=$((total + t))
  done
  echo $total
}
batch() { # NODES OPTIONS
  cat >job.sh <<Y
#!/bin/bash
#SBATCH -N $1 --ntasks-per-node=1 -t 60 --no-kill -o $work/slurm-%j.out
exec $weft supervise --dir $work/d $2 -- $weft train $work/run.yaml
Y
  rm -rf d run
  sbatch --parsable job.sh >/dev/null
  soon test -e run/checkpoints/latest
}
end() {
  touch d/stop
  soon in_log 'ends with' "$(ls -t slurm-*.out | head -n 1)"
}
next_launch=2
hurt() { # TEXT COMMAND...
  local text=$1 began launched
  shift
  "$@"
  began=$(ms)
  soon test -e "d/train.0.$next_launch.log"
  launched=$(ms)
  soon in_log resumed "d/train.0.$next_launch.log"
  seen=$(steps)
  soon more_steps
  echo "$text: launched $((launched - began)) ms, steps $(($(ms) - began)) ms"
  next_launch=$((next_launch + 1))
  sleep 3
}
kill_rank() { kill -9 "$(rank_on "$1" | head -n 1)"; }

no_jobs() { [ -z "$(squeue -h -o %i)" ]; }

bed_up --cluster north:4
small_config
sed -i 's/steps: 6/steps: 1000000/' run.yaml
echo "save: {every: 25}" >>run.yaml

for ((i = 0; i < trials; i++)); do
  next_launch=2
  batch 4 "--silent 3"
  hurt "rank killed, alone on its node" kill_rank n3
  hurt "node killed" "$testbed/kill-node" --dir "$bed" n4
  end
  "$testbed/revive-node" --dir "$bed" n4
  until_true 300 no_jobs
done

batch 4 ""
sleep 5
hertz=$(getconf CLK_TCK)
supervisor=$(ticks 'weft supervise') agents=$(ticks 'weft agent')
sleep 60
echo "CPU of the supervisor: $(awk -v t=$(($(ticks 'weft supervise') - supervisor)) -v h="$hertz" 'BEGIN { printf "%.2f %% of a core", t / h / 60 * 100 }'), of an agent: $(awk -v t=$(($(ticks 'weft agent') - agents)) -v h="$hertz" 'BEGIN { printf "%.2f %%", t / h / 60 * 100 / 4 }')"
end

# the next generation on an idle cluster: from the last word of one to the first of the other
cat >chain.sh <<Y
#!/bin/bash
#SBATCH -N 1 -t 5 -o $work/chain-%j.out
date +"begin %s%3N"
$weft supervise --dir $work/e --set health=false --chain successor --set chain.max_generations=$((trials + 1)) -- sh -c 'exit 85'
date +"end %s%3N"
Y
sbatch chain.sh >/dev/null
soon in_log '"ended":true' e/chain.json
sleep 2
cat chain-*.out | awk '/^begin/ { if (last) print "successor began " $2 - last " ms after its predecessor ended" } /^end/ { last = $2 }'
