#!/usr/bin/env bash
# Random layouts of 1 to 8 ranks against one rank: the losses, and what one of them saved another goes on from. dp, pp, cp and
# zero give the same bits; with tp losses are within 1e-5. LAYOUTS_SEED chooses others; LAYOUTS_N how many (a long test takes
# more). Negative control: another seed of the model is not within 1e-5.
. "$(dirname "$0")/lib.sh"
"$weft" data synth synth.wtok.h5 --vocab 32 --tokens 60000 >/dev/null
cat >run.yaml <<'Y'
run: {name: layouts, dir: run, seed: 3, threads: 1}
model: {family: llama, layers: 4, hidden: 32, heads: 4, kv_heads: 4, ffn: 64, context: 32}
data: {train: synth.wtok.h5, valid: synth.wtok.h5}
train: {steps: 2, batch: 16, micro_batch: 2, reproducible: true}
optim: {lr: 3e-3, schedule: constant}
eval: {windows: 16}
layout: {pieces: 4}
Y
RANDOM=${LAYOUTS_SEED:-$(date +%N | sed 's/^0*//' | cut -c1-4)}
echo "LAYOUTS_SEED=$RANDOM"
pick() { local -a v=("$@"); echo "${v[RANDOM % ${#v[@]}]}"; }
close() { # FILE FILE: as many losses, each within 1e-5 of the other's
  paste -d' ' <(grep -o '[0-9.e+-]*$' "$1") <(grep -o '[0-9.e+-]*$' "$2") |
    awk '{d = ($1 - $2) / $2; if (d < 0) d = -d; if (!(d <= 1e-5)) bad = 1; n++} END {exit bad || n == 0}'
}
one() { ranks 1 "$weft" train -q run.yaml --set run.dir="$1" "${@:2}" && losses "$1" >"$1.txt"; }
declare -A have
for ((k = 0; k < ${LAYOUTS_N:-3}; k++)); do
  while :; do
    tp=$(pick 1 1 1 2 4) pp=$(pick 1 1 2 4) cp=$(pick 1 1 2 4) dp=$(pick 1 2 4 8)
    ((tp * pp * cp * dp <= 8)) && break
  done
  zero=$(pick 0 1 2 3) chunks=1 n=$((tp * pp * cp * dp))
  ((pp == 2)) && chunks=$(pick 1 2)
  family=$(pick llama gpt2) tied=$(pick true false) kind=$(pick fp32 fp32 bf16) again=$(pick none layer selective)
  ((tp > 1)) && kind=fp32
  model=(--set model.family=$family --set model.tied=$tied --set train.dtype=$kind --set train.recompute=$again)
  ((tp > 1)) && model+=(--set layout.pieces=0)
  name="$family,$tied,$kind,$again,$((tp > 1))"
  [ "${have[$name]:-}" ] || one "one$k" "${model[@]}"
  reference=${have[$name]:=one$k}
  layout=(--set layout.dp=$dp --set layout.tp=$tp --set layout.pp=$pp --set layout.cp=$cp --set layout.zero=$zero --set layout.chunks=$chunks)
  what="$n ranks: dp $dp tp $tp pp $pp cp $cp zero $zero chunks $chunks; $name"
  echo "$what"
  ((tp > 1 && cp > 1)) && layout+=(--set train.reproducible=false)
  ranks $n "$weft" train -q run.yaml --set run.dir=many "${model[@]}" "${layout[@]}" || fail "$what"
  losses many >many.txt
  if ((tp > 1)); then
    close many.txt $reference.txt || fail "losses differ: $what"
  else
    cmp many.txt $reference.txt || fail "losses differ: $what"
    same many $reference "" || fail "the state differs: $what"
  fi
  # on from it, on one rank
  ranks 1 "$weft" train -q run.yaml --set run.dir=many "${model[@]}" --set train.steps=3
  [ "$(losses many | wc -l)" = 3 ] || fail "not taken up: $what"
  rm -rf many
done
one other --set run.seed=4
one mine
close other.txt mine.txt && fail "another seed is as close: the comparison proves nothing"
echo ok
