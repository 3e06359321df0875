#!/usr/bin/env bash
# An example that is killed (kill -9) in the middle goes on from its newest checkpoint on 1 and 4 ranks, and ends with the
# bits of a run on 2 ranks that was never stopped. Controls: a run that goes on with something left out ends otherwise.
# Usage: checkpoint.sh WEFT PROGRAM "OPTIONS" "--break WHAT" PREFIX MPIRUN [FLAGS...]
#   PREFIX: of the tensors that --break changes
set -euo pipefail
weft=$1 program=$2 options=$3 leave_out=$4 prefix=$5 mpirun=("${@:6}")
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
fail() { echo "$*" >&2; exit 1; }
# shellcheck disable=SC2086
run() { "${mpirun[@]}" -n "$1" "$program" $options --json --checkpoint "$out/$2" "${@:3}" 2>"$out/err" >"$out/json" ||
  { cat "$out/err" >&2; fail "$2 on $1 ranks failed"; }; }
newest() { readlink "$1/latest" 2>/dev/null || true; }
checksum() { sed -n 's/.*"checksum": "\([0-9a-f]*\)".*/\1/p' "$out/json"; }

run 2 whole
want=$(checksum)
# in_the_middle: starts it and kills it behind its first checkpoint; 1 where it had ended meanwhile
in_the_middle() {
  rm -rf "$out/killed"
  # shellcheck disable=SC2086
  "${mpirun[@]}" -n 2 "$program" $options --json --checkpoint "$out/killed" >"$out/log" 2>&1 &
  local job=$!
  while [ -z "$(newest "$out/killed")" ] && kill -0 $job 2>/dev/null; do sleep 0.01; done
  for p in $(pgrep -P $job); do kill -KILL "$p" 2>/dev/null || true; done
  if wait $job; then return 1; fi
  [[ -n "$(newest "$out/killed")" && "$(newest "$out/killed")" < "$(newest "$out/whole")" ]]
}
for try in 1 2 3 4 5 6 7 8 9 10; do in_the_middle && break; done # a busy machine may look too late
[[ "$(newest "$out/killed")" < "$(newest "$out/whole")" ]] || { cat "$out/log" >&2; fail "killed at the end, not in the middle, $try times"; }
if "$weft" ckpt diff "$out/whole/latest" "$out/killed/latest" >/dev/null; then fail "the middle is as the end"; fi

for ranks in 1 4; do
  cp -r "$out/killed" "$out/on$ranks"
  run $ranks on$ranks
  grep -q "goes on from step [1-9]" "$out/err" || fail "$ranks ranks: begun anew"
  [ "$(newest "$out/on$ranks")" = "$(newest "$out/whole")" ] || fail "$ranks ranks: ends at another step"
  "$weft" ckpt diff "$out/whole/latest" "$out/on$ranks/latest" || fail "$ranks ranks: other bits"
  [ "$(checksum)" = "$want" ] || fail "$ranks ranks: another checksum"
done
cp -r "$out/killed" "$out/less"
# shellcheck disable=SC2086
run 2 less $leave_out
if "$weft" ckpt diff "$out/whole/latest" "$out/less/latest" --prefix "$prefix" >/dev/null; then fail "$leave_out: the same bits"; fi
echo ok
