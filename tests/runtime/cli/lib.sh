# Shared by the tests of the command. Usage: TEST.sh WEFT_BINARY SOURCE_DIR
set -euo pipefail
weft=$1 top=$2
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT # no rank outlives a failed test
cd "$work"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
export CUDA_VISIBLE_DEVICES= # run.device auto is cpu, whatever the machine has

fail() { echo "FAIL: $*" >&2; exit 1; }
ranks() { local n=$1; shift; mpirun --oversubscribe --bind-to none --mca btl self,vader -n "$n" "$@"; }
# The same as a background job whose process is mpirun itself: start N COMMAND... &
start() { local n=$1; shift; exec mpirun --oversubscribe --bind-to none --mca btl self,vader -n "$n" "$@"; }
# expect CODE REGEX COMMAND...: the command ends with CODE and says REGEX
expect() {
  local code=$1 regex=$2 got=0
  shift 2
  "$@" >out.txt 2>&1 || got=$?
  [ "$got" = "$code" ] || { cat out.txt >&2; fail "exit code $got, expected $code: $*"; }
  [ -z "$regex" ] || grep -qE "$regex" out.txt || { cat out.txt >&2; fail "no message like '$regex': $*"; }
}
# soon COMMAND...: waits until it succeeds; 1 after five minutes, which no loaded machine needs
soon() { local end=$((SECONDS + 300)); until "$@"; do [ $SECONDS -lt $end ] || return 1; sleep 0.05; done; }
# counts N REGEX FILE: at least N lines of the file are so. gone PID: that process has ended
counts() { [ "$(grep -c "$2" "$3" 2>/dev/null || true)" -ge "$1" ] 2>/dev/null; }
gone() { ! kill -0 "$1" 2>/dev/null; }
# free_port: one of loopback that nobody has now
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
# Of cases that differ by combination only, a default run takes some; with WEFT_ALL=1 (the long tests) all.
all() { [ -n "${WEFT_ALL-}" ]; }
# A small run on synthetic data: 8 micro-batches of 2 sequences.
small_config() {
  "$weft" data synth synth.wtok.h5 --vocab 32 --tokens 60000 >/dev/null
  cat >run.yaml <<'Y'
run: {name: small, dir: run, seed: 3, threads: 1}
model: {family: llama, layers: 2, hidden: 32, heads: 4, kv_heads: 2, ffn: 64, context: 32}
data: {train: synth.wtok.h5, valid: synth.wtok.h5}
train: {steps: 6, batch: 16, micro_batch: 2, reproducible: true}
optim: {name: adamw, lr: 3e-3}
eval: {windows: 16}
Y
}
# same A B [PREFIX]: the newest checkpoints of the runs A and B hold the same tensors (model/: the weights), bit for bit
same() { "$weft" ckpt diff "$1/checkpoints/latest" "$2/checkpoints/latest" --prefix "${3-model/}" >/dev/null; }
# losses DIR: the training losses as written, one a line
losses() { grep -o '"loss/train":[^,}]*' "$1/metrics.jsonl"; }
