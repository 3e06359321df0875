#!/usr/bin/env bash
# A run whose memory the host cannot touch (weft_poison: cpu's arithmetic on it) is the run on cpu, bit for bit: losses, checkpoints,
# evaluation, text; it resumes the other's checkpoints. What does not go on a device is refused by name. Usage: device.sh
# WEFT SOURCE_DIR WEFT_POISON
. "$(dirname "$0")/lib.sh"
poison=$3
small_config

# both NAME SETTINGS...: the same run on both; losses and all tensors of the last checkpoint must be equal
both() {
  local name=$1
  shift
  "$weft" train -q run.yaml --device cpu --set run.dir="$name.cpu" "$@"
  "$poison" train -q run.yaml --device cuda --set run.dir="$name.cuda" "$@"
  [ "$(losses "$name.cpu")" = "$(losses "$name.cuda")" ] || fail "$name: other losses"
  same "$name.cpu" "$name.cuda" "" || fail "$name: other tensors in the checkpoints"
}
both llama
both gpt2 --set model.family=gpt2 --set model.kv_heads=4 --set train.reproducible=false --set train.recompute=layer --set data.pack=doc
both bf16 --set train.dtype=bf16 --set train.recompute=selective --set optim.name=muon --set save.every=2
both experts --set model.experts=4 --set save.every=2 --set save.async=false
both staging --set save.every=2 --set save.staging=0
grep -q '"router/balance"' experts.cuda/metrics.jsonl || fail "no figures of the routers"
[ "$(grep -o '"router/[a-z]*":[^,}]*' experts.cpu/metrics.jsonl)" = "$(grep -o '"router/[a-z]*":[^,}]*' experts.cuda/metrics.jsonl)" ] ||
  fail "other figures of the routers"

# a checkpoint goes on elsewhere: from cpu on the device and back, the same bits as without a stop
go() { "$1" train -q run.yaml --device "$2" --set run.dir=there --set train.reproducible=false --set train.steps="$3" --set optim.schedule=constant; }
"$weft" train -q run.yaml --device cpu --set run.dir=straight --set train.reproducible=false --set optim.schedule=constant --set optim.warmup=0 >/dev/null
sed -i 's/lr: 3e-3/lr: 3e-3, warmup: 0/' run.yaml
go "$weft" cpu 2
go "$poison" cuda 4
go "$weft" cpu 6
same straight there || fail "a run that changed places twice is another one"
# reproducible runs stay where they are, and say so
expect 78 'computed by cuda poison .*other order: start on a GPU of that kind' "$weft" train -q run.yaml --device cpu --set run.dir=llama.cuda --set train.steps=8
expect 78 'computed by cpu .*here they are cuda poison' "$poison" train -q run.yaml --device cuda --set run.dir=llama.cpu --set train.steps=8

# evaluation and text
for w in "$weft" "$poison"; do
  d=cuda
  [ "$w" = "$poison" ] || d=cpu
  "$w" eval --device $d --json llama.cpu/checkpoints/latest synth.wtok.h5 | sed 's/"seconds":[^,}]*//' >eval.$d
done
cmp eval.cpu eval.cuda || fail "another held-out loss"
[ -s eval.cpu ] || fail "no held-out loss"
cat "$top"/docs/*.md >text.txt
"$weft" data prepare text.txt --out data --vocab 300 --holdout 0.1 >/dev/null
cat >text.yaml <<'Y'
run: {name: text, seed: 1, threads: 1}
model: {family: gpt2, layers: 1, hidden: 32, heads: 2, context: 32}
data: {train: data/train.wtok.h5, valid: data/valid.wtok.h5, tokenizer: data/tokenizer}
train: {steps: 3, batch: 8, micro_batch: 4}
optim: {lr: 5e-3}
eval: {windows: 8, every: 2}
sample: {prompt: "The", tokens: 20}
Y
# with held-out losses and a sample; and from a checkpoint
words() { # WEFT DEVICE
  "$1" train text.yaml --device "$2" --set run.dir="text.$2" | grep -aE 'held-out|^The' >"text.$2.txt" || fail "no words on $2"
  "$1" train -q text.yaml --device "$2" --set run.dir="tuned.$2" --set model.from="text.cpu/checkpoints/latest" --set train.context=16
  "$1" generate --device "$2" --prompt "The run" --tokens 40 --dtype bf16 text.cpu/checkpoints/latest >"words.$2" 2>/dev/null
}
words "$weft" cpu
words "$poison" cuda
cmp text.cpu.txt text.cuda.txt || fail "other held-out losses or another sample"
cmp words.cpu words.cuda || fail "another text"
same tuned.cpu tuned.cuda || fail "another run from a checkpoint"

# a spike is skipped, and a run that goes on skipping goes back to its checkpoint
spike() { expect 93 '' "$1" train -q run.yaml --device "$2" --set run.dir="$3" --set train.reproducible=false --set train.steps=400 \
  --set save.every=20 --set optim.guard=1e-6 --set optim.give_up=1; }
spike "$weft" cpu spike.cpu
spike "$poison" cuda spike.cuda
n=$(grep -c "\"skip\"\|\"rollback\"" spike.cpu/metrics.jsonl || true)
[ "$n" -gt 2 ] && [ "$n" = "$(grep -c "\"skip\"\|\"rollback\"" spike.cuda/metrics.jsonl)" ] || fail "another guard: $n"
grep -q "\"rollback\"" spike.cuda/metrics.jsonl || fail "no way back"

# several sites: the change leaves from the device and comes back to it; a lone site that waits for its rounds has one course
site() { # WEFT DEVICE DIR SETTINGS...
  local w=$1 d=$2 dir=$3
  shift 3
  "$w" train -q run.yaml --device "$d" --site a --hub new --set sites.hub_listen=127.0.0.1:"$(free_port)" --set run.dir="$dir" \
    --set train.reproducible=false --set sites.chunk=1024 "$@" >"$dir.txt" 2>&1 || { cat "$dir.txt" >&2; fail "a site on $d"; }
}
site "$weft" cpu site.cpu --set sites.preset=sync --set sites.every=2
site "$poison" cuda site.cuda --set sites.preset=sync --set sites.every=2
[ "$(losses site.cpu)" = "$(losses site.cuda)" ] && same site.cpu site.cuda "" || fail "a site on the device learns something else"
site "$poison" cuda stream --set sites.every=4 --set train.steps=40 # merges into what has gone on meanwhile
grep -q '"mode":"merge","lag":[2-9]' stream/metrics.jsonl || fail "no round came back into later weights"

# what does not go
expect 64 'run.device: cuda: .*(without CUDA|no GPU)' "$weft" train -q run.yaml --device cuda --set run.dir=none
expect 78 'layout.pp is 2, but on GPUs .*run.device: cpu' ranks 2 "$poison" train -q run.yaml --device cuda --set layout.pp=2 --set run.dir=none
expect 78 'layout.tp is 2' ranks 2 "$poison" train -q run.yaml --device cuda --set layout.tp=2 --set run.dir=none
expect 71 'plans [0-9]+ MiB on poisoned memory, which has 1; .*train.micro_batch below 2; or train.recompute: layer; or train.dtype: bf16' \
  env WEFT_POISON_MEMORY=1048576 "$poison" train -q run.yaml --device cuda --set run.dir=none
[ ! -e none/config.yaml ] || fail "a refused run has begun"
expect 0 'has 1: IT DOES NOT FIT' env WEFT_POISON_MEMORY=1048576 "$poison" info --plan run.yaml --set run.device=cuda
expect 0 'it fits' "$poison" info --plan run.yaml --set run.device=cuda
expect 0 'there is none here' "$weft" info --plan run.yaml --set run.device=cuda
expect 0 '^GPU  *poisoned memory' "$poison" info --no-probe
expect 0 '^GPU  *not used: ' "$weft" info --no-probe
expect 0 '"gpus": \[\{"model": "poisoned memory"' "$poison" info --no-probe --json
echo ok
