#!/usr/bin/env bash
# examples/heat on 1, 2 and 4 ranks: order, iterations and messages as they should be (--check), and the checksums of one
# rank and plain MPI from every carrier. With a part left out of the sums the check fails.
# Usage: heat.sh PROGRAM "CARRIER..." MPIRUN [FLAGS...]     a carrier: mpi, weft, or shim=LIBRARY
set -euo pipefail
program=$1 carriers=$2 mpirun=("${@:3}")
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1

run() { # RANKS CARRIER OPTIONS...
  local ranks=$1 carrier=$2 preload=() comm=$2
  case $carrier in shim=*) comm=mpi preload=(-x "LD_PRELOAD=${carrier#shim=}" -x WEFT_PMPI_STATS=1) ;; esac
  "${mpirun[@]}" -n "$ranks" "${preload[@]}" "$program" --comm "$comm" --json "${@:3}"
}
sums() { sed -n 's/.*"method": "\([a-z]*\)".*"n": \([0-9]*\).*"checksum": "\([0-9A-F]*\)".*/\1 \2 \3/p' "$1"; }

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
run 1 mpi --grids 2 --check >"$out/want"
cat "$out/want"
[ "$(sums "$out/want" | wc -l)" = 6 ] || { echo "three methods on two grids, but not six checksums" >&2; exit 1; }
for carrier in $carriers; do
  for ranks in 1 2 4; do
    run $ranks "$carrier" --grids 2 --check >"$out/got" 2>"$out/err" || { cat "$out/err" >&2; exit 1; }
    cmp <(sums "$out/want") <(sums "$out/got") || { echo "$carrier on $ranks ranks: other bits" >&2; exit 1; }
    case $carrier-$ranks in
      shim=*-1) ;;
      shim=*) grep -q 'allreduce_fortran [1-9]' "$out/err" || { echo "the shim served nothing: $(cat "$out/err")" >&2; exit 1; } ;;
    esac
  done
done
# two nodes in turn: halos and sums go between nodes, too
WEFT_NODE_MAP=0,1,0,1 run 4 weft --grids 2 --check >"$out/got"
cmp <(sums "$out/want") <(sums "$out/got") || { echo "two nodes: other bits" >&2; exit 1; }
if run 2 mpi --check --break dot >"$out/got" 2>&1; then echo "a wrong dot product goes unnoticed" >&2; exit 1; fi
grep -q 'did not converge' "$out/got" || { echo "a wrong dot product: no word of it" >&2; exit 1; }
echo ok
