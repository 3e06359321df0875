#!/usr/bin/env bash
# Ranks that do not fit together: `reproducible` refuses ranks whose sums have another order and takes those with the same
# bits; a rank that mpirun bound to fewer cores than it has threads is told how to mend it, once, and trains on.
. "$(dirname "$0")/lib.sh"
small_config
pair() { # ISA of rank 0, ISA of rank 1, COMMAND...
  local first=$1 second=$2
  shift 2
  ranks 1 env WEFT_ISA="$first" "$@" : -n 1 env WEFT_ISA="$second" "$@"
}
isa() { WEFT_ISA=$1 "$weft" info --json | grep -o '"isa": *"[a-z0-9]*"' | grep -o '[a-z0-9]*"$' | tr -d '"'; }

if [ "$(isa amx)" = amx ]; then
  bf16=(--set train.dtype=bf16)
  expect 78 'rank 1.*avx512.*rank 0.*amx.*WEFT_ISA=avx512' \
    pair amx avx512 "$weft" train -q run.yaml --set run.dir=refused "${bf16[@]}"
  [ ! -e refused/metrics.jsonl ] || fail "a refused run wrote metrics"
  expect 0 '' pair amx avx512 "$weft" train -q run.yaml --set run.dir=plain "${bf16[@]}" --set train.reproducible=false
  expect 0 '' pair amx avx512 "$weft" train -q run.yaml --set run.dir=f32
  # the same of one run before and after a stop
  expect 0 '' env WEFT_ISA=amx "$weft" train -q run.yaml --set run.dir=stopped "${bf16[@]}" --set train.steps=2
  expect 78 'sum in another order.*WEFT_ISA=amx' env WEFT_ISA=avx512 "$weft" train -q run.yaml --set run.dir=stopped "${bf16[@]}"
  expect 0 'other bits' env WEFT_ISA=avx512 "$weft" train run.yaml --set run.dir=stopped "${bf16[@]}" --set train.reproducible=false
fi
if [ "$(isa avx512)" = avx512 ]; then
  expect 0 '' pair avx2 avx512 "$weft" train -q run.yaml --set run.dir=mixed --set train.dtype=bf16
  expect 0 '' pair avx2 avx2 "$weft" train -q run.yaml --set run.dir=same --set train.dtype=bf16
  same mixed same || fail "levels change bits"
fi

bound() { mpirun --oversubscribe --mca btl self,vader -n 2 "$@"; } # with mpirun's binding
if bound --bind-to core true 2>/dev/null && [ "$(nproc)" -ge 2 ]; then
  tight=(train -q run.yaml --set run.threads=2 --set train.steps=2)
  expect 0 'slot:PE=2' bound --bind-to core "$weft" "${tight[@]}" --set run.dir=bound
  [ "$(grep -c 'slot:PE=2' out.txt)" = 2 ] || fail "one warning a rank expected"
  expect 0 '' bound --bind-to none "$weft" "${tight[@]}" --set run.dir=free
  ! grep -q 'slot:PE' out.txt || fail "ranks that are not bound were warned"
fi
echo ok
