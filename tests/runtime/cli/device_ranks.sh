#!/usr/bin/env bash
# Data parallelism on the emulated device: two ranks, by NCCL's interface and staged through host memory, with every zero, end in
# the bits of one rank (reproducible runs; with two ranks NCCL's sum has one order too). Usage: device_ranks.sh WEFT SOURCE_DIR
# WEFT_EMU FAKE_NCCL
. "$(dirname "$0")/lib.sh"
emu=$3 nccl=$4
export WEFT_EMU_SEED=1
"$weft" data synth synth.wtok.h5 --vocab 32 --tokens 20000 >/dev/null
cat >run.yaml <<'Y'
run: {name: small, seed: 3, device: cuda}
model: {family: llama, layers: 2, hidden: 16, heads: 2, kv_heads: 1, ffn: 32, context: 16}
data: {train: synth.wtok.h5, valid: synth.wtok.h5}
train: {steps: 3, batch: 4, micro_batch: 1, reproducible: true}
optim: {name: adamw, lr: 3e-3}
eval: {windows: 4}
Y
"$emu" train -q run.yaml --set run.dir=one

# two NAME ENVIRONMENT SETTINGS...: on two ranks; the output is in NAME.txt
two() {
  local name=$1 env=$2
  shift 2
  ranks 2 env "$env" "$emu" train -q run.yaml --set run.dir="$name" "$@" >"$name.txt" 2>&1 || { cat "$name.txt" >&2; fail "$name"; }
}
for zero in 0 1 2 3; do
  two nccl.$zero WEFT_NCCL="$nccl" --set layout.zero=$zero
  ! grep -q 'go through host memory' nccl.$zero.txt || fail "NCCL was there, but not used"
  two staged.$zero WEFT_NCCL=off --set layout.zero=$zero
  grep -q 'go through host memory' staged.$zero.txt || fail "no warning that gradients are staged"
  for run in nccl.$zero staged.$zero; do
    [ "$(losses $run)" = "$(losses one)" ] || fail "$run: losses are not those of one rank"
    same $run one || fail "$run: weights are not those of one rank"
  done
done
# in any order of micro-batches, with matrices dealt out: NCCL and host memory add alike where there are two
for zero in 0 2; do
  more="--set train.reproducible=false --set optim.name=muon --set layout.zero=$zero"
  # shellcheck disable=SC2086
  two muon.nccl.$zero WEFT_NCCL="$nccl" $more
  # shellcheck disable=SC2086
  two muon.staged.$zero WEFT_NCCL=off $more
  same muon.nccl.$zero muon.staged.$zero || fail "zero $zero, Muon: NCCL and host memory differ"
done
# control: gradients of another seed are other bits
two other WEFT_NCCL="$nccl" --set run.seed=4
! same other one || fail "the comparison cannot fail"

echo ok
