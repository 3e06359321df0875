#!/usr/bin/env bash
# The hub that lives beside a site (--hub new): another site joins by an invitation; killed with the site it goes away by
# itself, and the same command brings both back; the invited site rides it out. A stop ends it in order.
. "$(dirname "$0")/lib.sh"
for s in a b; do "$weft" data synth $s.wtok.h5 --vocab 32 --tokens 60000 --seed "$(printf '%d' "'$s")" >/dev/null; done
cat >run.yaml <<'Y'
run: {name: home, seed: 3, threads: 1}
model: {family: llama, layers: 2, hidden: 32, heads: 4, kv_heads: 2, ffn: 64, context: 32}
data: {train: a.wtok.h5, valid: a.wtok.h5}
train: {steps: 100000, batch: 8, micro_batch: 2}
optim: {name: adamw, lr: 3e-3, schedule: constant}
eval: {windows: 16}
save: {every: 40}
sites: {every: 20, chunk: 4096, audit: 1, patience: 60}
Y
hub=127.0.0.1:$(free_port)
site() { # NAME RANKS OPTION...
  local name=$1 n=$2
  shift 2
  start "$n" "$weft" train run.yaml --site "$name" --set run.dir="$name" --set data.train=["$name.wtok.h5"] "$@" >>"$name.log" 2>&1
}
rounds() { cat "$1/metrics.jsonl" 2>/dev/null | grep -c '"ev":"outer"' || true; }
until_rounds() {
  soon counts "$2" '"ev":"outer"' "$1/metrics.jsonl" && return
  tail -n 5 ./*.log
  fail "site $1 has only $(rounds "$1") rounds after minutes"
}
active() { "$weft" hub status --dir a/hub --json 2>/dev/null | grep -o '"active": \[[^]]*\]' || true; }

expect 78 'needs a name' ranks 1 "$weft" train run.yaml --hub new
site a 2 --hub new --set sites.hub_listen=$hub &
a=$!
until_rounds a 2
[ "$(cat a/hub/address)" = $hub ] || fail "the hub listens elsewhere"
"$weft" hub invite b --dir a/hub --out b.json
site b 1 --invite b.json &
b=$!
until_rounds b 2

hub_pid=$(cat a/hub/lock)
kill -KILL "$(pgrep -P $a -x weft | head -1)" # rank 0 of the home site
wait $a && fail "a killed site ended well"
soon gone "$hub_pid" || fail "the hub outlives its site"
expect 69 'no hub runs' "$weft" hub status --dir a/hub
before=$(rounds b)
site a 2 --hub new --set sites.hub_listen=$hub &
a=$!
until_rounds b $((before + 3))
both_active() { [[ $(active) == *a* && $(active) == *b* ]]; }
soon both_active || { "$weft" hub status --dir a/hub; tail -n 4 a.log b.log; fail "not both are back: $(active)"; }
before=$(rounds a)
until_rounds a $((before + 2))
grep -q 'term 2' a.log || fail "the hub did not go on: $(grep hub: a.log)"

ends() { local got=0; wait "$1" || got=$?; [ "$got" = "$2" ] || { tail -n 5 ./*.log; fail "ended with $got, expected $2"; }; }
kill -USR1 $b
ends $b 85
kill -USR1 $a # mpirun passes it on to its ranks; the hub is none
ends $a 85
grep -q 'hub: ended by a signal' a.log || { tail -n 5 a.log; fail "the hub did not end in order"; }
"$weft" hub verify-log a/hub >/dev/null || fail "the log does not verify"
