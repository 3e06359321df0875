#!/usr/bin/env bash
# How much of the time three sites compute while a link carries their rounds, for the presets stream and sync. COMPUTE IS
# EMULATED by timed waits (tests/wan/worker.c): this measures the waiting, not the work that rounds cost a processor.
# The link's rate is given as a fraction of what a blocking fp32 allreduce in every step would need to take as long as the step.
# Usage: benchmarks/utilisation.sh [BUILD] [--slower "10 100"] [--step-ms N] [--every H] [--seconds S]
set -uo pipefail
build=build/release
case ${1-} in --* | '') ;; *) build=$1; shift ;; esac
slower="10 100" step=100 every=100 seconds=45
while [ $# -gt 0 ]; do
  case $1 in
    --slower) slower=$2 ;;
    --step-ms) step=$2 ;;
    --every) every=$2 ;;
    --seconds) seconds=$2 ;;
    *) echo "utilisation: unknown option $1" >&2; exit 64 ;;
  esac
  shift 2
done
bin=$(cd "$build/bin" && pwd) || exit 66
layers=6 hidden=128
parameters=$((layers * (4 * hidden * hidden + 3 * hidden * 2 * hidden + 2 * hidden) + 2 * 256 * hidden + hidden))
for s in $slower; do
  # 2 (M - 1) / M of 4 bytes a parameter, M = 3
  rate=$(awk -v n=$parameters -v t="$step" -v s="$s" 'BEGIN { printf "%.0f", 2 * 2 / 3 * 4 * n * 8 / (t / 1000) / s }')
  for preset in stream sync; do
    dir=$(mktemp -d)
    option=
    [ $preset = stream ] || option=--sync
    worker() { echo "run $1 in $1: exec $bin/sites_worker --invite $dir/$1.json --hub \$WAN_h:7700 --listen \$WAN_$1:7701 --seed $2 --step-ms $step --every $every --layers $layers --hidden $hidden --seconds $seconds --audit 0 $option"; }
    "$bin/wanem" --out "$dir/out" --json "$dir/json" - 2>"$dir/err" <<END
limit 400
site h
site a egress $rate ingress $rate
site b egress $rate ingress $rate
site c egress $rate ingress $rate
link *>* delay=25ms
run hub in h: exec $bin/weft hub --dir $dir/hub --listen \$WAN_h:7700
wait hub "listening" 20
run keys in h: for n in a b c; do $bin/weft hub invite \$n --dir $dir/hub --out $dir/\$n.json || exit 1; done
exit keys 0 20
$(worker a 1)
$(worker b 2)
$(worker c 3)
exit a 0 300
exit b 0 300
exit c 0 300
END
    code=$?
    [ $code != 77 ] || { cat "$dir/err" >&2; exit 77; }
    [ $code = 0 ] || { [ $code = 76 ] && echo "INVALID: $(cat "$dir/err")"; } || { tail -n 3 "$dir/err" "$dir"/out/*.log >&2; exit $code; }
    printf '%s, link of %.2f Mbit/s (%sx slower than blocking needs), %d parameters, H = %d, steps of %d ms:' "$preset" \
      "$(awk -v r="$rate" 'BEGIN { print r / 1e6 }')" "$s" $parameters "$every" "$step"
    for n in a b c; do sed -n 's/^done .*"utilisation": \([0-9.]*\).*"merges": \([0-9]*\).*/ \1 (\2 rounds)/p' "$dir/out/$n.log" | tr -d '\n'; done
    echo
    rm -rf "$dir"
  done
done
