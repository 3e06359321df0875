#!/usr/bin/env bash
# A simulation in a supervised job is asked to stop: all ranks save one step and end with 85, and on other ranks it goes on to
# the bits of a run that was never stopped. Control: outside a supervised job nobody asks.
# Usage: stopped.sh WEFT PEER PROGRAM "OPTIONS" MPIRUN [FLAGS...]
set -euo pipefail
weft=$1 peer=$2 program=$3 options=$4 mpirun=("${@:5}")
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
out=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$out"' EXIT
fail() { echo "$*" >&2; exit 1; }
# shellcheck disable=SC2086
run() { "${mpirun[@]}" -n "$1" "$program" $options --json --checkpoint "$out/$2" 2>"$out/err" >"$out/json"; }
step() { readlink "$out/$1/latest" | tr -dc 0-9 | sed 's/^0*//'; }
checksum() { sed -n 's/.*"checksum": "\([0-9a-f]*\)".*/\1/p' "$out/json"; }
token=0123456789abcdef0123456789abcdef

run 2 whole || fail "$(cat "$out/err")"
want=$(checksum)

"$peer" "$out" $token &
until [ -s "$out/address" ]; do sleep 0.1; done
WEFT_SUPERVISOR=$(cat "$out/address")
export WEFT_SUPERVISOR WEFT_TOKEN=$token WEFT_JOB_PAGE=$out/page
"$weft" agent --every 0.1 2>"$out/agent" &
agent=$!
until [ -e "$out/page" ]; do kill -0 $agent || fail "$(cat "$out/agent")"; sleep 0.1; done
{
  for _ in $(seq 2000); do # until it is under way
    read -r live _ least _ <"$out/beat" 2>/dev/null || live=0
    [ "${live:-0}" = 4 ] && [ "${least:-0}" -ge 10 ] && break
    sleep 0.05
  done
  echo "2 600000 0 0" >"$out/order.new"
  mv "$out/order.new" "$out/order"
} &
code=0
run 4 cut || code=$?
if [ $code = 0 ]; then # too fast for the order, on this machine: then it stands from the start
  rm -rf "$out/cut"
  run 4 cut || code=$?
fi
[ $code = 85 ] || { cat "$out/err" >&2; fail "exit code $code, expected 85"; }
grep -q "preempted: stops after step $(step cut)" "$out/err" || { cat "$out/err" >&2; fail "no word of it, or another step"; }
[ "$(step cut)" -lt "$(step whole)" ] || fail "stopped at the end, not in the middle"
"$weft" ckpt verify "$out/cut/latest" >/dev/null || fail "no checkpoint"

# control: the order stands, but this run is in no supervised job
WEFT_SUPERVISOR= WEFT_JOB_PAGE= run 1 cut || { cat "$out/err" >&2; fail "going on: $?"; }
[ "$(step cut)" = "$(step whole)" ] || fail "ends at another step"
"$weft" ckpt diff "$out/whole/latest" "$out/cut/latest" || fail "other bits"
[ "$(checksum)" = "$want" ] || fail "another checksum"
echo "0 -1 4 0" >"$out/order.new"
mv "$out/order.new" "$out/order"
wait $agent || fail "the agent: $(cat "$out/agent")"
echo ok
