#!/usr/bin/env bash
# Emulated sites under random trouble (churn.py): whatever happens, sites that hold the same version of a fragment hold the same
# bits, and in the end all take part again.
# Usage: churn.sh BIN_DIR SITES EVENTS SECONDS_BETWEEN [SEED]
set -uo pipefail
bin=$1 sites=$2 events=$3 between=$4 seed=${5-${WEFT_TEST_SEED-$RANDOM}}
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
echo "WEFT_TEST_SEED=$seed"
python3 "$here/churn.py" scenario --sites "$sites" --events "$events" --between "$between" --seed "$seed" \
  --worker "$bin/sites_worker" --weft "$bin/weft" --dir "$dir" >"$dir/scenario"
"$bin/wanem" -v --out "$dir/out" --json "$dir/json" "$dir/scenario" 2>"$dir/err"
code=$?
case $code in
  77) cat "$dir/err" >&2; rm -rf "$dir"; exit 77 ;;
  0 | 76) ;; # a busy machine: times are not what is tested here
  *) tail -n 5 "$dir/err" >&2; echo "FAILED: exit $code; see $dir" >&2; exit 1 ;;
esac
python3 "$here/churn.py" check --sites "$sites" --index "$dir/hub/index.db" "$dir/out" || { echo "FAILED: see $dir" >&2; exit 1; }
rm -rf "$dir"
