#!/usr/bin/env bash
# data.pack: doc gives the same bits on 1, 2 and 4 ranks, with and without recomputation or reading ahead, and other losses than packing without
# documents (negative control); evaluation knows it, too.
. "$(dirname "$0")/lib.sh"
small_config
for i in $(seq 400); do printf '{"text": "%s"}\n' "$(printf 'line %d of a short text, ' $(seq $((i % 7 + 1))))"; done >docs.jsonl
"$weft" data prepare docs.jsonl --out docs --vocab 300 --holdout 0.1 >/dev/null 2>&1
sed -i 's#^data:.*#data: {train: docs/train.wtok.h5, valid: docs/valid.wtok.h5, pack: doc}#' run.yaml
for n in 1 2 4; do
  ranks $n "$weft" train -q run.yaml --set run.dir="doc$n"
  losses "doc$n" >"doc$n.txt"
  [ "$(wc -l <"doc$n.txt")" = 6 ] || fail "6 losses expected"
  cmp "doc$n.txt" doc1.txt || fail "losses differ between 1 and $n ranks"
  same "doc$n" doc1 || fail "weights differ on $n ranks"
done
"$weft" train -q run.yaml --set run.dir=layer --set train.recompute=layer
same layer doc1 || fail "recomputation changes bits"
for ahead in 0 1 9; do
  ranks 2 "$weft" train -q run.yaml --set run.dir=ahead$ahead --set data.prefetch=$ahead
  same ahead$ahead doc1 || fail "reading ahead changes bits"
done
"$weft" train -q run.yaml --set run.dir=none --set data.pack=none
losses none >none.txt
cmp -s none.txt doc1.txt && fail "documents made no difference: the comparison proves nothing"
# the last evaluation of the run is that of weft eval --documents, and not that of weft eval
valid() { grep -o '"loss/valid":[^,}]*' doc1/metrics.jsonl | tail -1 | cut -d: -f2 | cut -c1-7; }
evaluated() { "$weft" eval doc1/checkpoints/latest docs/valid.wtok.h5 --context 32 "$@" --json | grep -o '"loss": *[0-9.]*' | grep -o '[0-9.]*$' | cut -c1-7; }
[ "$(valid)" = "$(evaluated --documents)" ] || fail "weft eval --documents says $(evaluated --documents), the run $(valid)"
[ "$(valid)" != "$(evaluated)" ] || fail "weft eval keeps documents apart unasked"
grep -q 'documents kept apart' doc1/run.json || fail "the start-up table does not tell of the packing"
echo ok
