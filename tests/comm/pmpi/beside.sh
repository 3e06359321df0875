#!/usr/bin/env bash
# A program that uses weft and blocks in MPI: with the shim it ends well, without it the ranks wait for each other.
# Usage: beside.sh PROGRAM SHIM MPIRUN [FLAGS...]
set -euo pipefail
program=$1 shim=$2 mpirun=("${@:3}")
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
for ranks in 2 4; do
  "${mpirun[@]}" -n $ranks -x "LD_PRELOAD=$shim" -x WEFT_PMPI_STATS=1 "$program" 300000
done
if log=$("${mpirun[@]}" -n 2 "$program" 3000 2>&1); then echo "without the shim it ends, too" >&2; exit 1; fi
grep -q "timed out" <<<"$log" || { echo "without the shim it fails, but not by a timeout: $log" >&2; exit 1; }
echo ok
