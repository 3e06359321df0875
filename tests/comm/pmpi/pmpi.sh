#!/usr/bin/env bash
# An unmodified MPI program prints the same with and without libweft_pmpi.so, and with it its small reductions are weft's.
# Usage: pmpi.sh PROGRAM SHIM C_ONLY_SHIM MPIRUN [FLAGS...]
set -euo pipefail
program=$1 shim=$2 c_only=$3 mpirun=("${@:4}")
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
fail() { echo "$*" >&2; cat "$out/err" >&2; exit 1; }
run() { # RANKS [FLAGS...]
  "${mpirun[@]}" -n "$1" "${@:2}" "$program" >"$out/got" 2>"$out/err" || fail "exit $? on $1 ranks with ${*:2}"
}
served() { sed -n "s/.*weft_pmpi: .* $1 \([0-9]*\) of \([0-9]*\).*/\1 \2/p" "$out/err"; }

case $program in *f08 | *mpi) kind=allreduce_fortran other=allreduce_c ;; *) kind=allreduce_c other=allreduce_fortran ;; esac
for ranks in 1 2 4 8; do
  run $ranks
  cp "$out/got" "$out/want"
  [ -z "$(served $kind)" ] || fail "counts without the shim"
  run $ranks -x "LD_PRELOAD=$shim" -x WEFT_PMPI_STATS=1
  cmp "$out/want" "$out/got" || fail "other answers with the shim on $ranks ranks"
  read -r by_weft all < <(served $kind)
  echo "$ranks ranks: $(cat "$out/got"); $by_weft of $all reductions by weft"
  [ "$(served $other)" = "0 0" ] || fail "calls of the other language: $(served $other)"
  if [ $ranks = 1 ]; then [ "$by_weft" = 0 ] || fail "a rank alone needs nobody"
  else [ "$by_weft" -gt $((all / 3)) ] && [ "$by_weft" -lt "$all" ] || fail "$by_weft of $all reductions by weft"; fi
done
# two nodes in turn: sums go between nodes, too
run 4
cp "$out/got" "$out/want"
run 4 -x "LD_PRELOAD=$shim" -x WEFT_NODE_MAP=0,1,0,1
cmp "$out/want" "$out/got" || fail "other answers on two nodes"
# controls: switched off, nothing is weft's; the shim for C does not see Fortran's calls
run 2 -x "LD_PRELOAD=$shim" -x WEFT_PMPI_STATS=1 -x WEFT_PMPI=off
[ "$(served $kind | cut -d ' ' -f 1)" = 0 ] || fail "WEFT_PMPI=off, but: $(served $kind)"
if [ $kind = allreduce_fortran ]; then
  run 2 -x "LD_PRELOAD=$c_only" -x WEFT_PMPI_STATS=1
  [ -z "$(served $kind)" ] || fail "the shim for C sees $(served $kind) calls of Fortran"
fi
echo ok
