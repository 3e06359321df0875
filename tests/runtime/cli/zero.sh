#!/usr/bin/env bash
# ZeRO 1, 2 and 3 give the losses and the state of one rank, bit for bit, on 2 and 4 ranks; what one of them saved the others
# go on from. Negative control: the ordinary sum over other micro-batches has another order.
. "$(dirname "$0")/lib.sh"
small_config
both() { # NAME SETTINGS...: one rank, then every way to share
  local name=$1 n z
  shift
  ranks 1 "$weft" train -q run.yaml --set run.dir="$name" "$@"
  losses "$name" >"$name.txt"
  [ "$(wc -l <"$name.txt")" = 6 ] || fail "$name: 6 losses expected"
  for z in 1 2 3; do
    for n in 2 4; do
      [ "$name" = llama ] || [ $z$n = 12 ] || [ $z$n = 34 ] || all || continue
      ranks $n "$weft" train -q run.yaml --set run.dir="$name$z$n" --set layout.zero=$z "$@"
      losses "$name$z$n" >"$name$z$n.txt"
      cmp "$name$z$n.txt" "$name.txt" || fail "$name: zero $z on $n ranks has other losses"
      same "$name$z$n" "$name" "" || fail "$name: zero $z on $n ranks ends in another state"
    done
  done
}
both llama
both gpt2 --set model.family=gpt2 --set model.kv_heads=0
both bf16 --set train.dtype=bf16 --set train.recompute=layer
both selective --set train.recompute=selective
same selective llama || fail "making norms and activations again changes bits"

# on from each other's checkpoints, on other ranks
ranks 2 "$weft" train -q run.yaml --set run.dir=moved --set layout.zero=3 --set train.steps=2 --set optim.schedule=constant
ranks 4 "$weft" train -q run.yaml --set run.dir=moved --set layout.zero=1 --set train.steps=4 --set optim.schedule=constant
ranks 1 "$weft" train -q run.yaml --set run.dir=moved --set optim.schedule=constant
ranks 1 "$weft" train -q run.yaml --set run.dir=stayed --set optim.schedule=constant
same moved stayed "" || fail "a run that changed its layout twice ends in another state"

ranks 2 "$weft" train -q run.yaml --set run.dir=plain --set layout.zero=2 --set train.reproducible=false
same plain llama && fail "the ordinary sum gave the same bits as the tree: the comparison proves nothing"
expect 78 'goes with layout.zero 0' ranks 2 "$weft" train -q run.yaml --set run.dir=x --set layout.zero=1 --set optim.name=muon
expect 78 'there are 2 ranks' ranks 2 "$weft" train -q run.yaml --set run.dir=x --set layout.dp=3
echo ok
