#!/usr/bin/env bash
# What weft ckpt convert writes, read by the programs it is for: llama.cpp (as xllamacpp), the gguf library, transformers.
# Skipped (77) where the interpreter WEFT_PYTHON, or python3, has none of them.
. "$(dirname "$0")/lib.sh"
python=${WEFT_PYTHON:-python3}
"$python" -c 'import gguf' 2>/dev/null || "$python" -c 'import xllamacpp' 2>/dev/null || { echo "skipped: neither gguf nor xllamacpp"; exit 77; }
bible Gen1:1-Exod10:29 </dev/null >text.txt
"$weft" data prepare text.txt --out llama-data --vocab 512 --holdout 0.1 >/dev/null 2>&1
"$weft" data prepare text.txt --out gpt2-data --vocab 512 --holdout 0.1 --split cl100k >/dev/null 2>&1
for family in llama gpt2; do
  cat >run.yaml <<Y
run: {name: $family, dir: $family, seed: 1}
model: {family: $family, layers: 2, hidden: 64, heads: 2, context: 128}
data: {train: $family-data/train.wtok.h5, tokenizer: $family-data/tokenizer}
train: {steps: 30, batch: 16}
optim: {name: adamw, lr: 5e-3}
Y
  "$weft" train -q run.yaml
  model=$family/checkpoints/latest
  "$weft" ckpt convert $model $family-hf --dtype f32 >/dev/null
  "$weft" ckpt convert $model $family-shards --dtype f16 --shard-bytes 100000 >/dev/null
  for t in f32 f16 bf16; do "$weft" ckpt convert $model $family-$t.gguf --dtype $t >/dev/null; done
  "$python" "$top/tests/runtime/cli/convert_live.py" $family
done
echo ok
