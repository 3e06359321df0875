#!/usr/bin/env bash
# weft ckpt convert: every format that is read back gives the same loss, bit for bit; files that are not what they should be
# are refused; nothing is replaced unasked and nothing is left half-written. GGUF: test_gguf, gguf_live.
. "$(dirname "$0")/lib.sh"
golden=$top/tests/io/exchange/golden
"$weft" data synth synth.wtok.h5 --vocab 61 --tokens 5000 >/dev/null
loss() { "$weft" eval "$1" synth.wtok.h5 --json | python3 -c 'import json,sys; print(repr(json.load(sys.stdin)["loss"]))'; }
convert() { "$weft" ckpt convert "$@" >/dev/null 2>notes.txt || { cat notes.txt >&2; fail "convert $*"; }; }

gpt2=$(loss "$golden/gpt2") llama=$(loss "$golden/llama")
[ -n "$gpt2" ] && [ "$gpt2" != "$llama" ] || fail "eval: $gpt2 $llama"
convert "$golden/gpt2" gpt2.bin --to llmc
convert "$golden/llama" llama.bin --to llmc --dtype bf16 # the golden Llama's weights are bf16
convert "$golden/llama" v0.bin --to llama2c
convert "$golden/llama" v1.bin --to llama2c --format-version 1
[ "$(loss gpt2.bin)" = "$gpt2" ] || fail "gpt2 through llm.c: $(loss gpt2.bin), not $gpt2"
for f in llama.bin v0.bin v1.bin; do
  [ "$(loss $f)" = "$llama" ] || fail "llama through $f: $(loss $f), not $llama"
done

# what llm.c and llama2.c compute from the files, written down independently: the logits of transformers
oracle() { python3 "$top/tests/runtime/cli/convert_oracle.py" "$1" "$golden/$2/expected.safetensors"; }
near() { python3 -c "import sys; sys.exit(not $1 < 1e-4)"; }
near "$(oracle gpt2.bin gpt2)" || fail "llm.c would compute other logits: off by $(oracle gpt2.bin gpt2)"
near "$(oracle v0.bin llama)" || fail "llama2.c would compute other logits: off by $(oracle v0.bin llama)"

# back to HuggingFace, in one file and in shards: the same bytes as transformers wrote
convert gpt2.bin back_gpt2
cmp back_gpt2/model.safetensors "$golden/gpt2/model.safetensors"
convert v0.bin back_llama --dtype bf16
cmp back_llama/model.safetensors "$golden/llama/model.safetensors"
convert "$golden/llama" shards --dtype bf16 --shard-bytes 9000
[ "$(ls shards/model-*.safetensors | wc -l)" -ge 4 ] && [ -s shards/model.safetensors.index.json ] || fail "no shards"
[ "$(loss shards)" = "$llama" ] || fail "llama through shards"
convert shards joined --dtype bf16
cmp joined/model.safetensors "$golden/llama/model.safetensors"
convert llama.bin whole --config "$golden/llama"
[ "$(loss whole)" = "$llama" ] || fail "llama through llm.c and HuggingFace"

# controls: rotary rows in HuggingFace's order, and Conv1D's order of a matrix, are other models
python3 - <<'P'
import struct
raw = bytearray(open('v0.bin', 'rb').read())
D, H, L, NH, KV, V, T = struct.unpack('<7i', raw[:28])
V, hd = abs(V), D // NH
at = 28 + 4 * (V * D + L * D)  # wq of layer 0
rows = [raw[at + 4 * D * r:at + 4 * D * (r + 1)] for r in range(D)]
for r in range(D):
    h, k = divmod(r, hd)
    raw[at + 4 * D * r:at + 4 * D * (r + 1)] = rows[h * hd + 2 * (k % (hd // 2)) + k // (hd // 2)]
open('unpermuted.bin', 'wb').write(raw)
raw = bytearray(open('gpt2.bin', 'rb').read())
maxT, V, L, NH, C, Vp = struct.unpack('<6i', raw[8:32])
at = 1024 + 4 * (Vp * C + maxT * C + 2 * L * C + L * 3 * C * C + L * 3 * C)  # attprojw of layer 0
w = struct.unpack(f'<{C * C}f', raw[at:at + 4 * C * C])
raw[at:at + 4 * C * C] = struct.pack(f'<{C * C}f', *(w[c * C + r] for r in range(C) for c in range(C)))
open('transposed.bin', 'wb').write(raw)
P
[ "$(loss unpermuted.bin)" != "$llama" ] || fail "the order of rotary rows makes no difference"
[ "$(loss transposed.bin)" != "$gpt2" ] || fail "a transposed matrix makes no difference"
near "$(oracle unpermuted.bin llama)" && fail "the oracle does not see the order of rotary rows"
near "$(oracle transposed.bin gpt2)" && fail "the oracle does not see a transposed matrix"

# what happens without being asked for: nothing
expect 73 'gpt2.bin is there already; --force' "$weft" ckpt convert "$golden/gpt2" gpt2.bin --to llmc
expect 73 'back_llama is there already' "$weft" ckpt convert "$golden/llama" back_llama
expect 0 '' "$weft" ckpt convert "$golden/gpt2" gpt2.bin --to llmc --force
expect 73 'is a file' "$weft" ckpt convert "$golden/gpt2" gpt2.bin --to hf --force
expect 73 'is a directory' "$weft" ckpt convert "$golden/gpt2" shards --to llmc --force
expect 73 'no/such' "$weft" ckpt convert "$golden/gpt2" no/such/dir.bin --to llmc
WEFT_FAULT=write:1 expect 72 'No space' "$weft" ckpt convert "$golden/gpt2" full.bin --to llmc
WEFT_FAULT=write:2 expect 72 'No space' "$weft" ckpt convert "$golden/gpt2" full.gguf
WEFT_FAULT=rename:1 expect 74 '' "$weft" ckpt convert "$golden/gpt2" full --to hf
[ -z "$(find . -name 'full*')" ] && [ -z "$(find . -name '*tmp*')" ] || fail "something was left half-written"

# bad input
expect 64 'which model' "$weft" ckpt convert
expect 64 'to takes' "$weft" ckpt convert "$golden/gpt2" x --to onnx
expect 64 'do not hold f16' "$weft" ckpt convert "$golden/gpt2" x --to llmc --dtype f16
expect 64 'unknown command .ckpt shrink' "$weft" ckpt shrink
expect 64 'does not read' bash -c "'$weft' ckpt convert '$golden/gpt2' m.gguf >/dev/null && '$weft' ckpt convert m.gguf x"
expect 64 'no rope scaling' "$weft" ckpt convert "$golden/llama3_tied" x --to llama2c
expect 66 'nothere' "$weft" ckpt convert nothere x
expect 66 'config.json' "$weft" ckpt convert . x
head -c 5000 v0.bin >cut.bin
expect 65 'cut.bin' "$weft" ckpt convert cut.bin x
head -c 5000 gpt2.bin >cut.bin
expect 65 'cut.bin has 5000 bytes' "$weft" ckpt convert cut.bin x
expect 94 'describes another' "$weft" ckpt convert gpt2.bin x --config "$golden/llama"
expect 95 'tokenizer has' "$weft" ckpt convert "$golden/gpt2" x.gguf --tokenizer "$top/tests/io/tokenizer/golden/gpt2.json"
[ ! -e x ] && [ ! -e x.gguf ] || fail "a model was written from bad input"

"$weft" ckpt convert gpt2.bin j.gguf --dtype bf16 --json 2>/dev/null | python3 -c '
import json, os, sys
j = json.load(sys.stdin)
assert j["from_format"] == "llmc" and j["to_format"] == "gguf" and j["dtype"] == "bf16" and j["parameters"] == 8080, j
assert j["bytes"] == os.path.getsize("j.gguf"), j'
for c in ckpt "ckpt convert"; do "$weft" $c --help | grep -qE 'Examples?:' || fail "weft $c --help has no example"; done

# training takes the weights up from such a file, too
cat >run.yaml <<Y
run: {name: t, dir: run, seed: 1}
model: {from: v0.bin}
data: {train: synth.wtok.h5}
train: {steps: 2, batch: 2}
Y
"$weft" train -q run.yaml
"$weft" ckpt verify run/checkpoints/latest || fail "training from a llama2.c file"
echo ok
