#!/usr/bin/env bash
# The hub killed, or its disk failing, at random calls of the system, again and again, while two members go on: both end with
# the same content, and the log is whole. hub_killed.sh WEFT SOURCE FAKE_MEMBER KILL_AT LIVES
member=$3 kill_at=$4 lives=$5
. "$(dirname "$0")/lib.sh"
RANDOM=${WEFT_SEED:-$$}
echo "WEFT_SEED=${WEFT_SEED:-$$}"
"$weft" hub --dir h --listen 127.0.0.1:0 >first.log 2>&1 & hub=$!
soon [ -s h/address ] || { cat ./*.log; fail "the hub does not listen"; }
address=$(cat h/address)
"$weft" hub invite a --dir h --out a.json
"$weft" hub invite b --dir h --out b.json
kill $hub; wait $hub
rounds=$((lives * 15))
"$member" a.json $rounds 20 >a.log 2>&1 & a=$!
"$member" b.json $rounds 20 >b.log 2>&1 & b=$!
killed=0 failed=0
# Where the machine is so slow that hardly anything came to go wrong, there are more lives, and longer ones.
for ((i = 1; i <= lives || (i <= 4 * lives && killed + failed < lives / 3); i++)); do
  kind=$(printf 'kill\nkill\neio\nenospc\nshort\n' | sed -n "$((RANDOM % 5 + 1))p") at=$((1 + RANDOM % 40)) rc=0
  LD_PRELOAD=$kill_at WEFT_KILL_PATH=/log- WEFT_KILL_AT=$at WEFT_KILL_KIND=$kind timeout $((i <= lives ? 4 : 20)) "$weft" hub --dir h --listen "$address" >hub.log 2>&1 || rc=$?
  case $rc in
    137) killed=$((killed + 1)) ;;
    72 | 74) failed=$((failed + 1)) ;;
    0 | 124) ;; # it went on without: a short write, or a failure of the index only
    *) cat hub.log; fail "life $i ($kind at call $at) ended with $rc" ;;
  esac
  "$weft" hub verify-log h >verify.log 2>&1 || { cat verify.log hub.log; fail "life $i ($kind at call $at) left a damaged log"; }
done
rm -f h/address
"$weft" hub --dir h --listen "$address" >last.log 2>&1 & hub=$!
ends() { local got=0; wait "$1" || got=$?; [ "$got" = 0 ] || { tail -n 3 a.log b.log last.log; fail "ended with $got"; }; }
soon [ -s h/address ] || { cat ./*.log; fail "the hub does not listen"; }
ends $a; ends $b
kill $hub; ends $hub
echo "$((i - 1)) lives: $killed killed, $failed ended by the disk; $(grep -c ^commit a.log) and $(grep -c ^commit b.log) commits"
[ $((killed + failed)) -ge $((lives / 3)) ] || fail "hardly anything went wrong"
[ "$(tail -1 a.log | cut -d' ' -f1)" = content ] || fail "no content"
last() { grep "^content" "$1" | tail -1; }
# One may have left some commits before the other: the longer one's history holds the shorter one's end.
va=$(last a.log | cut -d' ' -f2) vb=$(last b.log | cut -d' ' -f2)
[ "$va" != "$vb" ] || [ "$(last a.log)" = "$(last b.log)" ] || fail "different content: $(last a.log) / $(last b.log)"
[ "$va" -ge "$rounds" ] && [ "$vb" -ge "$rounds" ] || fail "too few rounds"
"$weft" hub verify-log h
