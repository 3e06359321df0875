#!/usr/bin/env bash
# data.sources and data.private: a mixture gives the same bits on any number of ranks; ranks that hold only their own site's
# shards train on the same samples as ranks that hold all; a site without a rank, other shards than rank 0's and sources that
# differ are refused; new weights hold from a block edge on; weft data info tells what a run file mixes.
. "$(dirname "$0")/lib.sh"
small_config
mkdir berlin paris all
"$weft" data synth berlin/web.wtok.h5 --vocab 32 --tokens 40000 --seed 1 >/dev/null
"$weft" data synth berlin/code.wtok.h5 --vocab 32 --tokens 9000 --seed 2 >/dev/null
"$weft" data synth paris/p.wtok.h5 --vocab 32 --tokens 20000 --seed 3 >/dev/null
cp berlin/* paris/* all/
sed -i "s#^data:.*#data: {valid: $work/synth.wtok.h5, sources: ['berlin/web=3:web.*', 'berlin/code=1:code.wtok.h5', 'paris=2:p.wtok.h5']}#" run.yaml
run=("$weft" train -q "$work/run.yaml" --set run.threads=1)
for n in 1 2; do
  (cd all && ranks $n "${run[@]}" --set run.dir="$work/mix$n")
  same "mix$n" mix1 || fail "weights differ on $n ranks"
done
grep -q '"paris", *"33.33 % of the samples' mix1/run.json || grep -q '33.33 % of the samples' mix1/run.json || fail "run.json does not tell the shares"

# each rank in a directory that holds its own site's shards and no others
sites() { # DIR SETTINGS...: two ranks in Berlin, one in Paris; a batch is a multiple of them
  local dir=$1
  shift
  ranks 2 -wdir "$work/berlin" -x WEFT_SITE=berlin "${run[@]}" --set run.dir="$work/$dir" "$@" : \
    -n 1 -wdir "$work/paris" -x WEFT_SITE=paris "${run[@]}" --set run.dir="$work/$dir" "$@"
}
plain=(--set train.reproducible=false --set train.batch=12 --set train.steps=8)
(cd all && ranks 1 "${run[@]}" --set run.dir="$work/together" "${plain[@]}")
sites apart "${plain[@]}" --set data.private=true
alike() { # DIR DIR: losses equal to 5 digits; their sums have another order
  paste <(losses "$1" | cut -d: -f2) <(losses "$2" | cut -d: -f2) |
    awk '{d = $1 / $2 - 1; if (d < 0) d = -d; if (d > 2e-5) bad = 1} END {exit bad || NR == 0}'
}
alike together apart || fail "apart and together train on other samples"
sites other "${plain[@]}" --set data.private=true --set run.seed=4
alike together other && fail "another seed gives the same losses: the comparison proves nothing"
expect 78 "no rank is at the site of data source paris" ranks 1 -wdir "$work/berlin" -x WEFT_SITE=berlin \
  "${run[@]}" --set run.dir="$work/lonely" "${plain[@]}" --set data.private=true
expect 78 "no data source is named after this rank's site" ranks 1 -wdir "$work/berlin" "${run[@]}" --set run.dir="$work/nowhere" \
  "${plain[@]}" --set data.private=true
expect 78 'cannot go with train.reproducible' "${run[@]}" --set data.private=true
expect 78 'which is meant' "${run[@]}" --set data.train=x
# resumed apart, from what was saved apart
sites apart "${plain[@]}" --set data.private=true --set train.steps=10
[ "$(losses apart | wc -l)" = 10 ] || fail "not resumed"

# the same names, other bytes
mkdir other_bytes && cp all/* other_bytes/ && cp berlin/code.wtok.h5 other_bytes/web.wtok.h5
expect 65 'rank 1.*is not that of rank 0' ranks 1 -wdir "$work/all" "${run[@]}" --set run.dir="$work/bytes" : \
  -n 1 -wdir "$work/other_bytes" "${run[@]}" --set run.dir="$work/bytes"

# other weights from the next block of 1024 samples on
cd all
new="['berlin/web=1:web.*', 'berlin/code=1:code.wtok.h5', 'paris=2:p.wtok.h5']"
expect 0 'new one holds from sample 1024 on' "$weft" train "$work/run.yaml" --set run.dir="$work/mix1" --set train.steps=8 \
  --set "data.sources=$new"
expect 0 '' "$weft" train "$work/run.yaml" --set run.dir="$work/mix1" --set train.steps=9 --set "data.sources=$new"
! grep -q 'holds from' out.txt || fail "the mixture changed again"
"$weft" data info "$work/run.yaml" --json >info.json
grep -q '"name": *"paris"' info.json && grep -q '"share": *0.3333' info.json || { cat info.json; fail "weft data info does not know the mixture"; }
"$weft" data info "$work/run.yaml" | grep -q 'berlin/web' || fail "weft data info prints no source"
echo ok
