#!/usr/bin/env bash
# Text in, HuggingFace in and out: a tokenizer and shards from text; a GPT-2 directory written by weft is taken up again,
# fine-tuned and written back; eval and generate read it; the report is there. (Logits against transformers: test_model
# and, where transformers is installed, hf_live.)
. "$(dirname "$0")/lib.sh"
bible Gen1:1-Exod10:29 </dev/null >text.txt
"$weft" data prepare text.txt --out data --vocab 400 --holdout 0.1 --json >prepared.json
python3 - <<'P'
import json, os
train, valid = [json.loads(l) for l in open('prepared.json')]
assert train['source_bytes'] + valid['source_bytes'] == os.path.getsize('text.txt'), (train, valid)
P
cat >run.yaml <<'Y'
run: {name: tiny, dir: base, seed: 1}
model: {family: gpt2, layers: 1, hidden: 32, heads: 2, context: 64}
data: {train: data/train.wtok.h5, valid: data/valid.wtok.h5, tokenizer: data/tokenizer}
train: {steps: 30, batch: 16}
optim: {name: adamw, lr: 5e-3}
eval: {every: 10, windows: 20}
save: {every: 10, keep: 2}
sample: {prompt: "In the beginning", tokens: 20}
log: {tensorboard: true}
Y
expect 0 'held-out' ranks 2 "$weft" train run.yaml
[ "$(ls -d base/checkpoints/step_* | wc -l)" = 2 ] || fail "save.keep"
for f in config.json tokenizer.json s000.h5 manifest.json manifest.sha256; do
  [ -s base/checkpoints/latest/$f ] || fail "no $f"
done
[ -s base/report.html ] && ! grep -q '<script' base/report.html || fail "report"
before=$("$weft" eval base/checkpoints/latest data/valid.wtok.h5 --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["bits_per_byte"])')
two=$(ranks 2 "$weft" eval base/checkpoints/latest data/valid.wtok.h5 --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["bits_per_byte"])')
[ "$before" = "$two" ] || fail "eval depends on the number of ranks: $before $two"
ranks 2 "$weft" train -q run.yaml --set run.dir=tuned --set model.from=base/checkpoints/latest --set train.steps=40
after=$("$weft" eval tuned/checkpoints/latest data/valid.wtok.h5 --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["bits_per_byte"])')
python3 -c "import sys; print('bits per byte before', $before, 'after', $after); sys.exit(not $after < $before)" || fail "fine-tuning did not help"
"$weft" generate tuned/checkpoints/latest --prompt "And God said" --tokens 30 --json >gen.json
"$weft" generate tuned/checkpoints/latest --prompt "And God said" --tokens 30 --json >gen2.json
python3 - <<'P'
import json
a, b = json.load(open('gen.json')), json.load(open('gen2.json'))
assert a['text'] is None or a['text'].startswith('And God said'), a
assert a['text'] == b['text'] and 0 < a['new_tokens'] <= 30
P
"$weft" data prepare text.txt --out other --vocab 300 >/dev/null
expect 95 'not made with the tokenizer of the model base' "$weft" train -q run.yaml --set run.dir=x --set model.from=base/checkpoints/latest \
  --set data.train=other/train.wtok.h5 --set data.valid= --set data.tokenizer=
expect 66 'tokenizer' "$weft" generate "$top/tests/io/exchange/golden/llama"
for c in "" train eval generate data "data prepare" "data info" "data synth" report info doctor; do
  "$weft" $c --help >help.txt || fail "weft $c --help"
  [ -z "$c" ] || [ "$c" = data ] || grep -qE 'Examples?:' help.txt || fail "weft $c --help has no example"
done
"$weft" info --json | python3 -m json.tool >/dev/null
"$weft" train --keys >keys.txt && grep -q 'train.reproducible' keys.txt || fail "--keys"
sed -n '/^```$/,/^```$/{/^```$/!p}' "$top/docs/run-file.md" | cmp - keys.txt || fail "docs/run-file.md is not what --keys prints"
# ranks that hold a part of each sequence, or of the model, or cut sequences into pieces, show a sample too
for split in cp tp pieces; do
  expect 0 'In the beginning' ranks 2 "$weft" train run.yaml --set run.dir=$split --set layout.$split=2 --set train.steps=2
done
echo ok
