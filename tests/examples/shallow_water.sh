#!/usr/bin/env bash
# A case of examples/shallow_water on 1, 2, 3 and 4 ranks: the checks hold, and the checksums are those of one rank and
# plain MPI. With a part of the method left out the checks fail.
# Usage: shallow_water.sh PROGRAM CASE "CARRIER..." MPIRUN [FLAGS...]     a carrier: mpi, weft, or shim=LIBRARY
set -euo pipefail
program=$1 case=$2 carriers=$3 mpirun=("${@:4}")
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1

run() { # RANKS CARRIER OPTIONS...
  local ranks=$1 carrier=$2 preload=() comm=$2
  case $carrier in shim=*) comm=mpi preload=(-x "LD_PRELOAD=${carrier#shim=}") ;; esac
  "${mpirun[@]}" -n "$ranks" "${preload[@]}" "$program" --case "$case" --comm "$comm" --n 32 --json "${@:3}"
}
sums() { sed -n 's/.*"checksum": "\([0-9a-f]*\)".*/\1/p' "$1"; }

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
run 1 mpi --grids 2 --check >"$out/want"
cat "$out/want"
[ "$(sums "$out/want" | sort -u | wc -l)" = 2 ] || { echo "two grids, but not two checksums" >&2; exit 1; }
for carrier in $carriers; do
  for ranks in 1 2 3 4; do
    run $ranks "$carrier" --grids 2 --check >"$out/got"
    cmp <(sums "$out/want") <(sums "$out/got") ||
      { echo "$carrier on $ranks ranks: $(sums "$out/got"), not $(sums "$out/want")" >&2; exit 1; }
  done
done
# controls
if run 2 mpi --check --break halo >"$out/got" 2>&1 && cmp -s <(sums "$out/want" | head -n 1) <(sums "$out/got"); then
  echo "without the halo the solution is the same" >&2; exit 1
fi
case $case in lake) part=balance ;; wave) part=slopes ;; *) part= ;; esac
if [ -n "$part" ] && run 1 mpi --grids 2 --check --break $part >"$out/got" 2>&1; then
  echo "the checks hold without $part" >&2; exit 1
fi
echo ok
