#!/usr/bin/env bash
# Looking after checkpoints: list, show, verify, diff, prune, repair; h5dump reads the numbers; a save that fails costs a
# warning, a run that diverges goes back once; saves in the background change no bit.
. "$(dirname "$0")/lib.sh"
small_config
ranks 2 "$weft" train -q run.yaml --set run.dir=a --set save.every=2 --set save.keep=10
ranks 1 "$weft" train -q run.yaml --set run.dir=b --set save.every=2 --set save.async=false --set save.keep=10
[ "$("$weft" ckpt ls a | grep -c '^step_')" -ge 2 ] || fail "ls"
"$weft" ckpt ls a --json | python3 -c 'import json,sys; j = json.load(sys.stdin); assert j[0]["step"] == 6 and j[0]["state"] == "committed" and j[0]["tensors"] > 20, j'
"$weft" ckpt show a/checkpoints/latest --prefix optim/adamw/m/ | grep -q '^optim/adamw/m/layers.01.mlp.up.weight *f32 *64 x 32' || fail "show"
"$weft" ckpt show a/checkpoints/latest --json | python3 -c 'import json,sys; j = json.load(sys.stdin); assert j["state"]["g"] == 96 and j["step"] == 6, j'
same a b "" || fail "saves in the background, or ranks, change bits"
expect 1 'other values' "$weft" ckpt diff a/checkpoints/latest b/checkpoints/step_0000000002
grep -q '"mode":"async"' a/metrics.jsonl && grep -q '"mode":"sync"' b/metrics.jsonl || fail "modes"

# the numbers in HDF5's own words
command -v h5dump >/dev/null && {
  h5dump -d /model/final_norm.weight/0 -y -w 1 -m %.9g a/checkpoints/latest/s000.h5 | sed -n '/DATA {/,/}/p' | grep -E '^ *[0-9-]' | tr -d ' ,' >dump.txt
  "$weft" ckpt convert a/checkpoints/latest hf >/dev/null
  python3 - <<'P'
import json, struct
raw = open('hf/model.safetensors', 'rb').read()
n = struct.unpack('<Q', raw[:8])[0]
lo, hi = json.loads(raw[8:8 + n])['model.norm.weight']['data_offsets']
want = struct.unpack('<32f', raw[8 + n + lo:8 + n + hi])
have = [struct.unpack('<f', struct.pack('<f', float(x)))[0] for x in open('dump.txt')]
assert list(want) == have, (want, have)
P
}

# damage: named, mended from a copy that is damaged elsewhere
"$weft" ckpt verify a/checkpoints/latest || fail "verify"
cp -r a/checkpoints/step_0000000006 x
cp -r a/checkpoints/step_0000000006 y
python3 - <<'P'
for name, at in (('x', 0.5), ('y', 0.9)):
    d = bytearray(open(name + '/s000.h5', 'rb').read())
    i = int(len(d) * at)
    while not d[i]: i += 1
    d[i] ^= 1
    open(name + '/s000.h5', 'wb').write(d)
P
expect 65 'tensor .*segment .*bytes' "$weft" ckpt verify x
"$weft" ckpt verify x --json >v.json && fail "damage passed"
python3 -c 'import json; j = json.load(open("v.json")); assert not j["whole"] and j["damage"][0]["tensor"] and j["damage"][0]["bytes"], j'
expect 65 '' "$weft" ckpt repair x
expect 0 'is whole' "$weft" ckpt repair x --from y
cmp x/s000.h5 a/checkpoints/step_0000000006/s000.h5 && [ -s x/s000.h5.bad ] || fail "repair"
sed -i 's/"step":6/"step":7/' y/manifest.json
expect 65 'does not fit its digest' "$weft" ckpt verify y
expect 66 'not a checkpoint' "$weft" ckpt verify .

"$weft" ckpt prune b --keep 1 --keep-every 4 --dry-run | grep -c 'would remove' | grep -qx 1 || fail "prune: dry run"
"$weft" ckpt prune b --keep 1 --keep-every 4 >/dev/null
[ "$(ls -d b/checkpoints/step_* | tr '\n' ' ')" = "b/checkpoints/step_0000000004 b/checkpoints/step_0000000006 " ] || fail "prune"

# a damaged newest checkpoint: the run goes on from the one before, and says so
cp -r a c
python3 - <<'P'
p = 'c/checkpoints/step_0000000006/s000.h5'
d = bytearray(open(p, 'rb').read())
d[len(d) // 2] ^= 255
d[len(d) * 3 // 4] ^= 255
open(p, 'wb').write(d)
P
expect 0 'damaged, going back to an older one' ranks 2 "$weft" train -q run.yaml --set run.dir=c --set save.every=2
same a c "" || fail "the steps after the damaged checkpoint are not the same again"

# the disk fails now and then: the run goes on, later saves succeed
WEFT_FAULT=sync:7 expect 0 'checkpoint of step 2 not written' "$weft" train -q run.yaml --set run.dir=d --set save.every=2
grep -q '"ev":"checkpoint_failed"' d/metrics.jsonl || fail "no event of a failed save"
"$weft" ckpt verify d/checkpoints/latest && same a d "" || fail "after a failed save"

# the guard: back to the last checkpoint once, then the end
expect 93 'again after going back to the checkpoint of step' "$weft" train -q run.yaml --set run.dir=e --set train.steps=400 \
  --set train.reproducible=false --set save.every=2 --set optim.guard=1e-6 --set optim.give_up=1
[ "$(grep -c '"ev":"rollback"' e/metrics.jsonl)" -ge 1 ] || fail "no rollback"
# a save between skipped steps would be of weights in doubt: the way back goes behind all of these steps
expect 93 'again after going back to the checkpoint of step' "$weft" train -q run.yaml --set run.dir=g --set train.steps=400 \
  --set train.reproducible=false --set save.every=1 --set save.async=false --set optim.guard=1e-6 --set optim.give_up=4
python3 - <<'P'
import json
back = [j for j in map(json.loads, open('g/metrics.jsonl')) if j.get('ev') == 'rollback']
assert back and all(j['step'] <= j['from'] - 4 for j in back), back
P
# the way back is every rank's: those that share the weights compute the next step with what was loaded, as one rank does
# (saved before the next step: which save of the background is the last committed one depends on the disk)
back='--set train.steps=250 --set save.every=40 --set save.async=false --set optim.guard=1.5 --set optim.give_up=1'
ranks 1 "$weft" train -q run.yaml --set run.dir=h $back
grep -q '"ev":"rollback"' h/metrics.jsonl || fail "the way back was not taken"
for zero in 1 3; do
  ranks 2 "$weft" train -q run.yaml --set run.dir=h$zero $back --set layout.zero=$zero
  cmp <(losses h) <(losses h$zero) || fail "zero $zero: other losses behind the way back"
done

# saves by the clock
"$weft" train -q run.yaml --set run.dir=f --set save.every=-1
[ "$(grep -c '"ev":"checkpoint"' f/metrics.jsonl)" = 1 ] || fail "save.every -1"
echo ok
