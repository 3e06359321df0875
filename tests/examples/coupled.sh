#!/usr/bin/env bash
# examples/coupled on 1, 2 and 4 ranks: right sums of gradients, and one state from all modes on any number of ranks. A
# wrong gradient is noticed. No word about speed.
# Usage: coupled.sh PROGRAM MPIRUN [FLAGS...]
set -euo pipefail
program=$1 mpirun=("${@:2}")
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
run() { "${mpirun[@]}" -n "$1" "$program" --n 16 --rounds 3 --steps 4 --mb 4 --json --check "${@:2}"; }
for ranks in 1 2 4; do
  run $ranks >"$out/got"
  cat "$out/got"
  [ "$(wc -l <"$out/got")" = 4 ] || { echo "four modes, but not four lines" >&2; exit 1; }
  sed 's/.*"checksum"//' "$out/got" >>"$out/sums"
done
[ "$(sort -u "$out/sums" | wc -l)" = 1 ] || { echo "other states on other numbers of ranks" >&2; exit 1; }
if run 2 --break gradient >"$out/got" 2>&1; then echo "a wrong gradient goes unnoticed" >&2; exit 1; fi
grep -q 'expected' "$out/got" || { echo "a wrong gradient: no word of it" >&2; exit 1; }
if run 2 --dots none >"$out/got" 2>&1; then echo "a bad option is taken" >&2; exit 1; fi
echo ok
