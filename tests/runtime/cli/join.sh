#!/usr/bin/env bash
# Sites over TLS on loopback. Two train together, a third joins while they do; a site on two ranks
# that share weights (ZeRO 3) is one of them; one is killed and comes back; who is not invited stays outside. At the end of a
# round all have the same bits, as the hub's audits say.
. "$(dirname "$0")/lib.sh"
"$weft" data synth text.wtok.h5 --vocab 32 --tokens 60000 >/dev/null
cat >run.yaml <<'Y'
run: {name: far, seed: 3, threads: 1}
model: {family: llama, layers: 6, hidden: 32, heads: 4, kv_heads: 2, ffn: 64, context: 32}
data: {train: text.wtok.h5, valid: text.wtok.h5}
train: {steps: 300, batch: 8, micro_batch: 2}
optim: {name: adamw, lr: 3e-3, schedule: constant}
eval: {windows: 16}
save: {every: 25}
sites: {every: 10, chunk: 4096, audit: 1, patience: 60}
Y
"$weft" hub --dir hub --listen 127.0.0.1:0 --run far >hub.log 2>&1 &
hub_pid=$!
soon [ -s hub/address ] || { cat hub.log; fail "the hub does not listen"; }
hub=$(cat hub/address)
for s in a b c d; do "$weft" hub invite $s --dir hub >$s.json; done
"$weft" hub revoke d --dir hub >/dev/null

# site NAME RANKS SETTINGS...
site() {
  local name=$1 n=$2
  shift 2
  start "$n" "$weft" train run.yaml --site "$name" --invite "$name.json" --set run.dir="$work/$name" "$@" >"$name.log" 2>&1
}
rounds() { cat "$1/metrics.jsonl" 2>/dev/null | grep -c '"ev":"outer"' || true; }
until_rounds() { # SITE N
  soon counts "$2" '"ev":"outer"' "$1/metrics.jsonl" && return
  tail -n 5 ./*.log
  fail "site $1 has only $(rounds "$1") rounds after minutes"
}
site a 1 --set train.steps=1000000 &
a=$!
site b 2 --set layout.zero=3 --set train.steps=1000000 &
b=$!
until_rounds a 4
site c 1 --set train.steps=1000000 &
c=$!
until_rounds c 3
until_rounds b 6

expect 76 'closed it' ranks 1 "$weft" train run.yaml --site d --invite d.json --set run.dir=d --set sites.patience=10
expect 78 'invit' ranks 1 "$weft" train run.yaml --site e --set run.dir=e --join $hub

expect 78 'for site d, but .* site e' ranks 1 "$weft" train run.yaml --site e --invite d.json --set run.dir=e
"$weft" hub invite f --dir hub >f.json
expect 75 'another model' ranks 1 "$weft" train run.yaml --site f --invite f.json --set run.dir=f --set model.hidden=64

kill -KILL "$(pgrep -P $a -x weft)" # the site a goes; the others go on
wait $a && fail "a killed site ended well"
until_rounds b $(($(rounds b) + 4))
site a 1 --set train.steps=1000000 &
a=$!
before=$(rounds a)
until_rounds a $((before + 3))
grep -q 'resumed' a.log || fail "site a did not go on from its checkpoint"

for s in a b c; do pkill -TERM -f "^[^ ]*weft train .*run.dir=$work/$s" || fail "site $s is gone: $(tail -n 3 $s.log)"; done
for p in $a $b $c; do
  code=0
  wait "$p" || code=$?
  [ $code = 85 ] || { tail -n 5 ./*.log; fail "a site that was told to stop ended with $code"; }
done
"$weft" hub status --dir hub --json >status.json || fail "no status"
kill -TERM $hub_pid
wait $hub_pid || fail "the hub ended with $?"
"$weft" hub verify-log hub >/dev/null || fail "the log does not verify"
echo ok
