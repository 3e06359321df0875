#!/usr/bin/env bash
# Context-parallel ranks train as one rank does: with reproducible and as many pieces the same losses, held-out losses and
# state, bit for bit, with one and several micro-batches, both families, bf16, documents, ZeRO; without it within rounding,
# each way that attention can go. Rows that cannot be cut are refused with what works.
. "$(dirname "$0")/lib.sh"
small_config
held_out() { grep -o '"loss/valid":[^,}]*' "$1/metrics.jsonl"; }
compare() { # NAME SETTINGS...
  local name=$1 l i=0
  shift
  ranks 1 "$weft" train -q run.yaml --set run.dir="${name}1" --set layout.pieces=4 "$@"
  [ "$(losses "${name}1" | wc -l)" = 6 ] || fail "$name: 6 losses expected"
  for l in "2 cp=2" "4 cp=4" "4 cp=2" "4 cp=2,zero=2"; do
    i=$((i + 1))
    [ "$name" = llama ] || [ $i = 2 ] || { [ $i = 4 ] && [ "$name" = gpt2 ]; } || all || continue
    ranks "${l% *}" "$weft" train -q run.yaml --set run.dir="$name-$i" --set layout.pieces=4 "$@" \
      $(echo "${l#* }" | sed 's/\([a-z]*=[0-9]*\),*/--set layout.\1 /g')
    cmp <(losses "$name-$i") <(losses "${name}1") || fail "$name: losses differ with $l"
    cmp <(held_out "$name-$i") <(held_out "${name}1") || fail "$name: held-out losses differ with $l"
    same "$name-$i" "${name}1" "" || fail "$name: the state differs with $l"
  done
}
compare llama
compare gpt2 --set model.family=gpt2 --set model.kv_heads=0 --set data.pack=doc
compare bf16 --set train.dtype=bf16 --set train.recompute=layer --set train.micro_batch=8

# negative control: fewer pieces are another sum
ranks 1 "$weft" train -q run.yaml --set run.dir=whole
same whole llama1 && fail "whole rows gave the same bits as pieces: the comparison proves nothing"

close() { # A B: the losses of two runs, relative
  paste <(losses "$1" | cut -d: -f2) <(losses "$2" | cut -d: -f2) |
    awk '{ d = ($1 - $2) / $2; if (d < 0) d = -d; if (d > 1e-5) bad = 1; n++ } END { exit bad || n != 6 }'
}
for kind in auto ring alltoall gather; do
  ranks 2 "$weft" train -q run.yaml --set run.dir="free-$kind" --set layout.cp=2 --set layout.cp_kind=$kind \
    --set train.reproducible=false
  close "free-$kind" whole || fail "$kind: losses are not those of one rank"
done
ranks 4 "$weft" train -q run.yaml --set run.dir=both --set layout.cp=2 --set layout.tp=2 --set train.reproducible=false
close both whole || fail "cp beside tp: losses are not those of one rank"
ranks 4 "$weft" train -q run.yaml --set run.dir=stages --set layout.cp=2 --set layout.pp=2 --set train.reproducible=false
close stages whole || fail "cp beside pp: losses are not those of one rank"

expect 78 'nearest that works is 28 or 32' ranks 2 "$weft" train -q run.yaml --set run.dir=odd --set layout.cp=2 \
  --set train.context=30
expect 78 'layout.cp_kind gather' ranks 2 "$weft" train -q run.yaml --set run.dir=odd --set layout.cp=2 --set layout.cp_kind=ring
expect 78 'take a multiple' ranks 2 "$weft" train -q run.yaml --set run.dir=odd --set layout.cp=2 --set layout.pieces=3
echo ok
