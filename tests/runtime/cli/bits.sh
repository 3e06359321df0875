#!/usr/bin/env bash
# Reproducible training gives the same losses and weights, bit for bit, on 1, 2 and 4 ranks, with either optimiser and both
# families; without `reproducible` the sum has another order (negative control: some bit differs).
. "$(dirname "$0")/lib.sh"
small_config
compare() { # NAME SETTINGS...
  local name=$1 n
  shift
  for n in 1 2 4; do
    ranks $n "$weft" train -q run.yaml --set run.dir="$name$n" "$@"
    [ "$(losses "$name$n" | wc -l)" = 6 ] || fail "$name: 6 losses expected"
    losses "$name$n" >"$name$n.txt"
    cmp "$name$n.txt" "${name}1.txt" || fail "$name: losses differ between 1 and $n ranks"
    same "$name$n" "${name}1" "" || fail "$name: the state differs between 1 and $n ranks"
  done
}
compare llama
compare gpt2 --set model.family=gpt2 --set model.kv_heads=0
compare muon --set optim.name=muon
compare bf16 --set train.dtype=bf16 --set train.recompute=layer
compare threads --set run.threads=3
same llama1 threads1 || fail "threads change bits"

ranks 1 "$weft" train -q run.yaml --set run.dir=plain --set train.reproducible=false
same plain llama1 &&
  fail "the ordinary sum gave the same bits as the tree: the comparison proves nothing"
expect 78 'powers of two' ranks 1 "$weft" train -q run.yaml --set run.dir=odd --set train.batch=12
echo ok
