#!/usr/bin/env bash
# The cuda backend trains on the emulated device (weft_emu) as cpu does: loss by loss within 1e-3, held-out loss, checkpoints
# that go on there and on cpu, text. The device's memory is out of the host's reach, and streams run when they are waited
# for. Usage: emulated.sh WEFT SOURCE_DIR WEFT_EMU
. "$(dirname "$0")/lib.sh"
emu=$3
"$weft" data synth synth.wtok.h5 --vocab 32 --tokens 4000 >/dev/null
"$weft" data synth valid.wtok.h5 --vocab 32 --tokens 97 --seed 7 >/dev/null
cat >run.yaml <<'Y'
run: {name: emulated, seed: 3, threads: 1}
model: {family: llama, layers: 2, hidden: 32, heads: 2, kv_heads: 1, ffn: 48, context: 16}
data: {train: synth.wtok.h5, valid: valid.wtok.h5}
train: {steps: 4, batch: 4, micro_batch: 2}
optim: {lr: 3e-3, warmup: 0, schedule: constant}
eval: {windows: 4}
save: {every: 2}
Y
# near A B TOLERANCE: the losses of two runs
near() {
  python3 - "$@" <<'P'
import json, sys
def losses(d):
    return {(j['step'], k): j['k'][k] for j in map(json.loads, open(d + '/metrics.jsonl')) if 'k' in j
            for k in ('loss/train', 'loss/valid', 'grad_norm') if isinstance(j['k'].get(k), float)}
a, b = losses(sys.argv[1]), losses(sys.argv[2])
assert len(a) > 4 and not set(a) - set(b), (a, b) # a run that stops measures more often
worst = max(abs(a[x] - b[x]) / max(1, abs(a[x])) for x in a)
print('%s: %d figures, furthest apart %.2g' % (sys.argv[2], len(a), worst))
sys.exit(not worst < float(sys.argv[3]))
P
}
both() { # NAME TOLERANCE SETTINGS...
  local name=$1 tolerance=$2
  shift 2
  "$weft" train -q run.yaml --device cpu --set run.dir="$name.cpu" "$@"
  "$emu" train -q run.yaml --device cuda --set run.dir="$name.cuda" "$@"
  near "$name.cpu" "$name.cuda" "$tolerance" || fail "$name: on the device it learns something else"
}
both llama 1e-3
both gpt2 1e-3 --set model.family=gpt2 --set model.kv_heads=2 --set train.recompute=layer --set data.pack=doc --set train.reproducible=true
both bf16 2e-2 --set train.dtype=bf16 --set train.recompute=selective
both muon 1e-3 --set optim.name=muon --set train.steps=2
both experts 1e-3 --set model.experts=4 --set train.steps=2
# the same device, the same bits
"$emu" train -q run.yaml --device cuda --set run.dir=again
same llama.cuda again "" || fail "the device gave other bits the second time"
# from the device to cpu and back
for way in "$weft cpu 2" "$emu cuda 4"; do
  set -- $way
  "$1" train -q run.yaml --device "$2" --set run.dir=moved --set train.steps="$3"
done
near llama.cpu moved 1e-3 || fail "a run that moved is another one"
"$emu" eval --device cuda --json llama.cpu/checkpoints/latest valid.wtok.h5 --windows 4 >eval.cuda
"$weft" eval --device cpu --json llama.cpu/checkpoints/latest valid.wtok.h5 --windows 4 >eval.cpu
python3 -c 'import json; a, b = (json.load(open(f))["loss"] for f in ("eval.cpu", "eval.cuda")); print(a, b); assert abs(a - b) < 1e-3' ||
  fail "another held-out loss"
# words
cat "$top"/docs/*.md >text.txt
"$weft" data prepare text.txt --out data --vocab 300 --holdout 0.1 >/dev/null 2>&1
"$weft" train -q run.yaml --device cpu --set run.dir=words --set data.train=data/train.wtok.h5 --set data.valid= --set data.tokenizer=data/tokenizer
for w in "$weft cpu" "$emu cuda"; do
  set -- $w
  "$1" generate --device "$2" --prompt "The run" --tokens 8 --temperature 0 words/checkpoints/latest >"words.$2" 2>/dev/null
done
cmp words.cpu words.cuda || fail "another text"
echo ok
