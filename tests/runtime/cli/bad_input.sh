#!/usr/bin/env bash
# Bad input: a clear message, an exit code of its own, nothing half-written. Exit codes: docs/exit-codes.md.
. "$(dirname "$0")/lib.sh"
small_config
golden=$top/tests/io/exchange/golden

# command line and run file
expect 64 'unknown command' "$weft" trian
expect 64 'which run file' "$weft" train
expect 64 'KEY=VALUE' "$weft" train run.yaml --set steps
expect 66 'nothere.yaml' "$weft" train nothere.yaml
printf 'model:\n  layer: 3\n' >typo.yaml
expect 78 "typo.yaml:2:3: .*model.layer.*did you mean 'model.layers'" "$weft" train typo.yaml
printf 'model:\n  layers: many\n' >type.yaml
expect 78 'type.yaml:2:' "$weft" train type.yaml
expect 78 'train.steps' "$weft" train run.yaml --set train.steps=-4
expect 78 'not a multiple' "$weft" train run.yaml --set train.micro_batch=3 --set train.reproducible=false
expect 78 'more than the whole run' "$weft" train run.yaml --set optim.schedule=wsd --set optim.warmup=0.6 --set optim.decay=0.6
expect 78 'multiple of' "$weft" train run.yaml --set model.heads=5 --set model.head_dim=0

expect 78 'needs train.micro_batch' "$weft" train run.yaml --set train.micro_batch=0
expect 66 'data.baselines.*none.json' "$weft" train -q run.yaml --set run.dir=lines --set data.baselines=none.json
echo '[1]' >list.json
expect 65 'list.json.*not an object' "$weft" train -q run.yaml --set run.dir=lines --set data.baselines=list.json

# data
expect 66 'nodata.wtok.h5' "$weft" train run.yaml --set data.train=nodata.wtok.h5
head -c 20000 synth.wtok.h5 >cut.wtok.h5
expect 65 'cut.wtok.h5' "$weft" train run.yaml --set data.train=cut.wtok.h5
expect 65 'cut.wtok.h5' "$weft" data info cut.wtok.h5
cp synth.wtok.h5 flipped.wtok.h5
printf '\377\377' | dd of=flipped.wtok.h5 bs=1 seek=$(($(stat -c %s flipped.wtok.h5) / 2)) conv=notrunc status=none
expect 65 'flipped.wtok.h5' "$weft" train run.yaml --set data.train=flipped.wtok.h5 --set run.dir=flip
printf '{"text": "a"}\n{"text": 3}\n' >bad.jsonl
expect 65 'bad.jsonl:2' "$weft" data prepare bad.jsonl --out bad
[ ! -e bad/train.wtok.h5 ] || fail "a shard was written from bad input"

# models: truncated, wrong shapes, vocabulary, NaN
model() { rm -rf m; cp -r "$golden/llama" m; chmod -R u+w m; }
tune() { "$weft" train -q run.yaml --set run.dir=tuned --set model.from=m --set train.context=16 --set train.steps=1; }
model
expect 0 '' tune
rm -rf tuned
head -c 30000 "$golden/llama/model.safetensors" >m/model.safetensors
expect 65 'model.safetensors.*' tune
model
sed -i 's/"intermediate_size": 40/"intermediate_size": 48/' m/config.json
expect 94 'mlp' tune
model
sed -i 's/"hidden_act": "silu"/"hidden_act": "relu"/' m/config.json
expect 64 'relu' tune
"$weft" data synth wide.wtok.h5 --vocab 200 --tokens 5000 >/dev/null
model
expect 95 'vocabulary of 200' "$weft" train -q run.yaml --set run.dir=tuned --set model.from=m --set data.train=wide.wtok.h5 --set data.valid= --set train.context=16
model
python3 - m/model.safetensors <<'P'
import json, struct, sys
raw = bytearray(open(sys.argv[1], 'rb').read())
n = struct.unpack('<Q', raw[:8])[0]
at = json.loads(raw[8:8 + n])['model.norm.weight']['data_offsets'][0] + 8 + n
raw[at:at + 2] = b'\xc0\x7f'  # a bf16 NaN
open(sys.argv[1], 'wb').write(raw)
P
expect 96 'final_norm.weight.*not finite' tune
[ ! -e tuned/checkpoints/latest ] || fail "a checkpoint was written from bad input"

# a checkpoint that does not belong to the run: nothing is taken from it, nothing in its place is lost
"$weft" train -q run.yaml --set run.dir=old --set train.steps=2
mkdir old/checkpoints/step_0000000001.tmp-1
expect 94 'optim/muon/m/[^ ]* is missing' "$weft" train -q run.yaml --set run.dir=old --set train.steps=4 --set optim.name=muon
expect 65 'resuming .*another run.dir' "$weft" train -q run.yaml --set run.dir=old --set run.seed=4
expect 78 'there are checkpoints' "$weft" train -q run.yaml --set run.dir=old --set save.resume=false
"$weft" ckpt verify old/checkpoints/latest || fail "an old run was touched"
expect 0 '' "$weft" train -q run.yaml --set run.dir=old --set train.steps=3
[ -z "$(find old -name '*tmp*')" ] || fail "what a killed run left behind was not removed"

# steps that the guard refuses: a record of how it ended
expect 93 'no checkpoint to go back to' "$weft" train -q run.yaml --set run.dir=wild --set train.steps=400 --set optim.guard=1e-6 --set optim.give_up=1
grep -q '"reason":"diverged"' wild/metrics.jsonl && [ -s wild/report.html ] || fail "guard: no record of the end"

# names that are no UTF-8 are no reason to crash
odd=$'odd\351'
ln -s old/checkpoints/latest "$odd"
expect 0 '"model": null' "$weft" eval "$odd" synth.wtok.h5 --json --windows 2
expect 0 '"path": null' "$weft" data synth "$odd.h5" --json
cp run.yaml "$odd.yaml"
expect 0 '' "$weft" train -q "$odd.yaml" --set run.dir=odd --set train.steps=1

# places that cannot be written, and a full disk
touch file
expect 73 'file' "$weft" train -q run.yaml --set run.dir=file/run
expect 73 'file' "$weft" data synth file/x.wtok.h5
WEFT_FAULT=write:1 expect 72 'No space' "$weft" data synth full.wtok.h5
[ ! -e full.wtok.h5 ] && [ -z "$(find . -name 'full*')" ] || fail "half a shard was left"
if [ "$(id -u)" = 0 ]; then # a real full disk and a real read-only one
  mkdir small
  if mount -t tmpfs -o size=256k tmpfs small 2>/dev/null; then
    code=0
    "$weft" train -q run.yaml --set run.dir=small/run --set model.hidden=64 >out.txt 2>&1 || code=$?
    left=$(find small -name '*tmp*' | wc -l)
    mount -o remount,ro small
    ro=0
    "$weft" train -q run.yaml --set run.dir=small/other >ro.txt 2>&1 || ro=$?
    umount small
    [ $code = 72 ] && grep -q 'No space' out.txt || { cat out.txt; fail "full disk: exit code $code"; }
    [ "$left" = 0 ] || fail "full disk: temporary files were left"
    [ $ro = 73 ] && grep -q 'Read-only' ro.txt || { cat ro.txt; fail "read-only: exit code $ro"; }
  else
    echo "full and read-only file systems: skipped, mount is not permitted"
  fi
fi
echo ok
