#!/usr/bin/env bash
# Data parallelism on the emulated device: two ranks, by NCCL's interface and staged through host memory, end in the bits of one
# rank (reproducible runs; with two ranks NCCL's sum has one order, too). Usage: device_ranks.sh WEFT SOURCE_DIR WEFT_EMU
# FAKE_NCCL [all]     (all: every zero both ways, and Muon)
. "$(dirname "$0")/lib.sh"
emu=$3 nccl=$4 all=${5-}
"$weft" data synth synth.wtok.h5 --vocab 32 --tokens 20000 >/dev/null
cat >run.yaml <<'Y'
run: {name: small, seed: 3, device: cuda}
model: {family: llama, layers: 2, hidden: 16, heads: 2, kv_heads: 1, ffn: 32, context: 8}
data: {train: synth.wtok.h5}
train: {steps: 2, batch: 2, micro_batch: 1, reproducible: true}
optim: {name: adamw, lr: 3e-3}
Y
"$emu" train -q run.yaml --set run.dir=one

# two NAME NCCL SETTINGS...: on two ranks; what they say is in NAME.txt
two() {
  local name=$1 library=$2
  shift 2
  ranks 2 env WEFT_NCCL="$library" "$emu" train -q run.yaml --set run.dir="$name" "$@" >"$name.txt" 2>&1 || { cat "$name.txt" >&2; fail "$name"; }
  local staged=0
  ! grep -q 'go through host memory' "$name.txt" || staged=1
  [ $staged = "$([ "$library" = off ] && echo 1 || echo 0)" ] || { cat "$name.txt" >&2; fail "$name: the other way was taken"; }
}
# as_one NAME: it ended where one rank did
as_one() {
  [ "$(losses "$1")" = "$(losses one)" ] || fail "$1: losses are not those of one rank"
  same "$1" one || fail "$1: weights are not those of one rank"
}
by_nccl="0 3" by_host="2"
[ -z "$all" ] || by_nccl="0 1 2 3" by_host="0 1 2 3"
for zero in $by_nccl; do
  two "nccl.$zero" "$nccl" --set layout.zero="$zero"
  as_one "nccl.$zero"
done
for zero in $by_host; do
  two "staged.$zero" off --set layout.zero="$zero"
  as_one "staged.$zero"
done
if [ -n "$all" ]; then
  # in any order, matrices dealt out and their updates sent around
  two muon.nccl "$nccl" --set train.reproducible=false --set optim.name=muon
  two muon.off off --set train.reproducible=false --set optim.name=muon
  same muon.nccl muon.off || fail "Muon: NCCL and host memory differ"
  two other "$nccl" --set run.seed=4
  ! same other one 2>/dev/null || fail "control: the comparison cannot fail"
fi
echo ok
