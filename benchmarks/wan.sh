#!/usr/bin/env bash
# Goodput between two emulated sites (bench_wan over wanem): 500 Mbit/s at RTTs of 10, 50 and 150 ms, and at 50 ms with
# losses of 0.01, 0.1 and 1 %.
# Usage: benchmarks/wan.sh [BUILD] [--mtu N] [--seconds S] [--repeats N] [--link "RTT_MS/LOSS ..."] [more of bench_wan drive]
# MTU: 9000 unless given (one emulator on one core; docs/wanem.md).
set -uo pipefail
build=build/release
case ${1-} in --* | '') ;; *) build=$1; shift ;; esac
mtu=9000 seconds=6 repeats=3 links="10/0 50/0 150/0 50/0.01 50/0.1 50/1" more=()
while [ $# -gt 0 ]; do
  case $1 in
    --mtu) mtu=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    --repeats) repeats=$2; shift ;;
    --link) links=$2; shift ;;
    *) more+=("$1") ;;
  esac
  shift
done
bin=$(cd "$build/bin" && pwd) || exit 66
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$bin/bench_wan" keys "$dir/keys" || exit
insecure=
case " ${more[*]} " in *" --insecure "*) insecure=--insecure ;; esac
for link in $links; do
  rtt=${link%/*} loss=${link#*/}
  echo "== 500 Mbit/s, $rtt ms, loss $loss % one way, MTU $mtu"
  "$bin/wanem" --out "$dir/out" --json "$dir/json" - <<END
mtu $mtu
limit 1000
site a
site b
link a<>b rate=500M delay=$(awk -v r="$rtt" 'BEGIN { print r / 2 }')ms queue=6M
link a>b loss=$loss%
run server in b: exec $bin/bench_wan serve $dir/keys $insecure
wait server "listening" 20
run driver in a: exec $bin/bench_wan drive $dir/keys \$WAN_b --link 500 --seconds $seconds --repeats $repeats ${more[*]}
exit driver 0 900
END
  code=$?
  cat "$dir/out/driver.log"
  grep -o '"late_ms".*' "$dir/json"
  case $code in
    0) ;;
    77) exit 77 ;;
    76) echo "INVALID: the emulator was too late" ;;
    *) cat "$dir/out/server.log"; exit $code ;;
  esac
done
