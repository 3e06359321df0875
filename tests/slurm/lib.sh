# Shared by the tests on real Slurm clusters (slurm/testbed). Usage: TEST.sh WEFT_BINARY SOURCE_DIR
# A test brings its own bed up (bed_up), so that tests and people do not meet; it is gone at the end, however that comes.
set -euo pipefail
weft=$1 top=$2
export PATH=$PATH:/usr/sbin:/sbin
testbed=$top/slurm/testbed
work=$(mktemp -d "${TMPDIR:-/tmp}/weft-test.XXXXXX") # a short name: Slurm's sockets are in there
chmod 755 "$work"
bed=$work/bed
as=() # the words that make a command another user's: as=(setpriv ...)
clean_up() {
  local pids
  pids=$(jobs -p)
  # shellcheck disable=SC2086
  [ -z "$pids" ] || kill $pids 2>/dev/null || true
  "$testbed/down" --dir "$bed" 2>/dev/null || true
  wait
  [ -n "${WEFT_KEEP-}" ] || rm -rf "$work"
}
trap clean_up EXIT
cd "$work"
# The command for trainings that only have to go on while a test waits for something else (tests/support/pace.c).
paced=$weft
if [ -n "${WEFT_PACE_LIB-}" ]; then
  paced=$work/paced
  printf '#!/bin/sh\nLD_PRELOAD=%q WEFT_PACE_MS=30 exec %q "$@"\n' "$WEFT_PACE_LIB" "$weft" >"$paced"
  chmod 755 "$paced"
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

fail() {
  echo "FAIL: $*" >&2
  grep -hiE 'error|fatal' "$bed"/*/log/*.log 2>/dev/null | tail -n 10 >&2
  exit 1
}
# bed_up OPTION...: a bed, and SLURM_CONF of its first cluster; ends the test with 77 where there is no Slurm
bed_up() {
  local code=0
  "${as[@]}" "$testbed/up" --dir "$bed" "$@" >up.txt || code=$?
  [ $code != 77 ] || exit 77
  [ $code = 0 ] || fail "testbed up $*: $code"
  SLURM_CONF=$(sed -n 's/^export SLURM_CONF=\([^ ]*\).*/\1/p' up.txt)
  export SLURM_CONF
}
# until_true SECONDS COMMAND...: polls. The limit only tells waiting from hanging: the machine may be loaded.
until_true() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.2
  done
}
job_state() { scontrol -o show job "$1" 2>/dev/null | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p'; }
# A small run on synthetic data whose sums are those of any number of ranks: 8 micro-batches of 2 sequences.
small_config() {
  "$weft" data synth synth.wtok.h5 --vocab 32 --tokens 60000 >/dev/null
  cat >run.yaml <<Y
run: {name: small, dir: $work/run, seed: 3, threads: 1}
model: {family: llama, layers: 2, hidden: 32, heads: 4, kv_heads: 2, ffn: 64, context: 32}
data: {train: $work/synth.wtok.h5, valid: $work/synth.wtok.h5}
train: {steps: 6, batch: 16, micro_batch: 2, reproducible: true}
optim: {name: adamw, lr: 3e-3}
eval: {windows: 16}
Y
}
# same A B: the newest checkpoints of the runs A and B hold the same weights, bit for bit
same() { "$weft" ckpt diff "$1/checkpoints/latest" "$2/checkpoints/latest" --prefix model/ >/dev/null; }
