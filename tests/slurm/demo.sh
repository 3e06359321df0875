#!/usr/bin/env bash
# scripts/demo --slurm, its second half: two clusters train, a node dies, all is told, nothing is left.
# Usage: demo.sh WEFT_BINARY SOURCE_DIR
. "$(dirname "$0")/lib.sh"
command -v bible >/dev/null || { echo "no bible" >&2; exit 77; }
bible Gen1:1-Rev22:21 </dev/null >kjv.txt
code=0
timeout 1500 "$top/scripts/demo_slurm" "$weft" "$work/kjv.txt" "$work/run" 60 >demo.txt 2>&1 || code=$?
[ $code != 77 ] || exit 77
[ $code = 0 ] || { cat demo.txt >&2; fail "the demonstration ended with $code"; }
for text in 'node n2 is killed' 'repairs: ' 'trains again, on n1,n3, in the same job' 'The run has ended' 'site south: out, drained' 'south did [0-9]* steps'; do
  grep -q "$text" demo.txt || { cat demo.txt >&2; fail "nothing is said of '$text'"; }
done
echo ok
