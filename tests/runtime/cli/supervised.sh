#!/usr/bin/env bash
# A training whose job is supervised, without Slurm: `weft agent`, a peer in the supervisor's place, mpirun. The stop word of
# one node's page stops all ranks behind one step; they save and end with 85, and the same command goes on bit for bit.
#   supervised.sh WEFT SOURCE_DIR PEER
. "$(dirname "$0")/lib.sh"
peer=$3
token=0123456789abcdef0123456789abcdef
patience=1200 # tenths of a second for what must come

small_config
constant="--set optim.schedule=constant --set optim.warmup=0"

"$peer" . $token &
until [ -s address ]; do sleep 0.1; done
export WEFT_SUPERVISOR=$(cat address) WEFT_TOKEN=$token WEFT_JOB_PAGE=$work/page
"$weft" agent --every 0.1 >agent.txt 2>&1 &
agent=$!

# heard FIELD TEST...: until field FIELD of the last heartbeat passes [ FIELD TEST... ]
heard() {
  local field=$1 value=
  shift
  for _ in $(seq $patience); do
    value=$(cut -d' ' -f"$field" beat 2>/dev/null || true)
    [ -n "$value" ] && [ "$value" "$@" ] && return
    sleep 0.1
  done
  cat agent.txt beat >&2
  fail "no heartbeat with field $field $*"
}
order() { echo "$*" >order.new && mv order.new order; }

# told to stop: TIME with 90 s left
start 4 "$weft" train run.yaml --set run.dir=cut $constant --set train.steps=1000000 --set save.every=0 >cut.txt 2>&1 &
mpi=$!
heard 1 = 4 # live ranks
heard 3 -ge 5 # steps of the slowest
order 1 90000 0 0
code=0
wait $mpi || code=$?
[ $code = 85 ] || { cat cut.txt; fail "exit code $code, expected 85"; }
grep -q '"reason":"time limit"' cut/metrics.jsonl || { cat cut/metrics.jsonl; fail "the end has no reason"; }
"$weft" ckpt verify cut/checkpoints/latest || fail "no checkpoint"
steps=$(readlink cut/checkpoints/latest | tr -dc 0-9 | sed 's/^0*//')
[ "$steps" -ge 5 ] || fail "stopped at step $steps"
[ "$(grep -c '"loss/train"' cut/metrics.jsonl)" = "$steps" ] || fail "steps were lost behind the checkpoint"
heard 1 = 0
heard 2 = 0 # nobody died: they left

# it goes on as if it had never stopped; the supervisor hears which checkpoint there is
order 0 -1 0 0
ranks 4 "$weft" train -q run.yaml --set run.dir=cut $constant --set train.steps=$((steps + 4))
ranks 4 "$weft" train -q run.yaml --set run.dir=whole $constant --set train.steps=$((steps + 4))
same cut whole "" || fail "a supervised run that was stopped has another state"
losses cut >cut.losses
losses whole | cmp - cut.losses || fail "it has other losses"

heard 1 = 0
# other reasons are told by their names; a checkpoint of the running training is heard of
start 2 "$weft" train run.yaml --set run.dir=other $constant --set train.steps=1000000 --set save.every=3 >other.txt 2>&1 &
mpi=$!
heard 1 = 2
heard 5 -ge 4 # saved: its step + 1
order 3 -1 0 0
code=0
wait $mpi || code=$?
[ $code = 85 ] || { cat other.txt; fail "drained: exit code $code, expected 85"; }
grep -q '"reason":"node drained"' other/metrics.jsonl || fail "drained: no reason"

# negative control: without the page nobody hears the order
order 1 90000 0 0
sleep 1
WEFT_SUPERVISOR= WEFT_JOB_PAGE= ranks 2 "$weft" train -q run.yaml --set run.dir=deaf --set train.steps=6 ||
  fail "a training without a page was stopped"
[ "$(readlink deaf/checkpoints/latest)" = step_0000000006 ] || fail "a training without a page was cut short"
# and with the order standing from the start, it is over after one step
code=0
ranks 2 "$weft" train -q run.yaml --set run.dir=short --set train.steps=1000000 || code=$?
[ $code = 85 ] || fail "an order from before the start: exit code $code"

# one that waits for a hub that is not there says so, which is no hang however long, and can be asked to stop, too
heard 1 = 0
order 0 -1 0 0
"$weft" hub --dir hub --listen 127.0.0.1:0 >hub.txt 2>&1 &
hub=$!
soon [ -s hub/address ] || { cat hub.txt; fail "no hub"; }
"$weft" hub invite far --dir hub >far.json
kill -KILL $hub
wait $hub || true
start 2 "$weft" train -q run.yaml --site far --invite far.json --set run.dir=far --set train.steps=1000000 >far.txt 2>&1 &
mpi=$!
heard 1 = 2
heard 7 = 4 # WEFT_JOB_WAIT
heard 8 = 16 # JOB_BEAT_WAITS
order 1 90000 0 0
code=0
wait $mpi || code=$?
[ $code = 85 ] || { cat far.txt; fail "stopped before it had joined: exit code $code, expected 85"; }

# a rank that is killed counts as dead until the order to clean up; the agent ends when told to, and takes its page along
heard 1 = 0
order 0 -1 0 0
start 1 "$weft" train -q run.yaml --set run.dir=killed --set train.steps=1000000 >killed.txt 2>&1 &
mpi=$!
heard 1 = 1
kill -KILL "$(pgrep -P $mpi -x weft | head -n 1)"
wait $mpi && fail "killed, and mpirun ends with 0"
heard 2 = 1
order 0 -1 1 1
heard 9 = 1
heard 2 = 0
order 0 -1 4 1
wait $agent || fail "the agent ended with $?: $(cat agent.txt)"
[ ! -e page ] || fail "the agent has left its page"
expect 78 'WEFT_TOKEN' env -u WEFT_TOKEN "$weft" agent
expect 78 'no address of a supervisor' env WEFT_SUPERVISOR=nowhere "$weft" agent
