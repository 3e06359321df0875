#!/usr/bin/env bash
# A hub that begins anew elsewhere: sites that read its address from a file (--join @FILE) follow it; one that was given the
# old address does not (the control).
. "$(dirname "$0")/lib.sh"
"$weft" data synth text.wtok.h5 --vocab 32 --tokens 60000 >/dev/null
cat >run.yaml <<'Y'
run: {name: moves, seed: 3, threads: 1}
model: {family: llama, layers: 4, hidden: 32, heads: 4, kv_heads: 2, ffn: 64, context: 32}
data: {train: text.wtok.h5}
train: {steps: 100000, batch: 8, micro_batch: 2}
save: {every: 100000}
sites: {every: 20, chunk: 4096, patience: 120}
Y
hub_on() { # starts the hub on a free port; its address goes to hub.addr as a whole
  rm -f hub/address
  "$weft" hub --dir hub --listen 127.0.0.1:0 --run moves >>hub.log 2>&1 &
  hub_pid=$!
  soon [ -s hub/address ] || { cat hub.log; fail "the hub does not listen"; }
  cp hub/address hub.addr.new
  mv hub.addr.new hub.addr
}
hub_on
old=$(cat hub/address)
for s in a b c; do "$weft" hub invite $s --dir hub >$s.json; done
site() { # NAME ADDRESS
  start 1 "$weft" train run.yaml --site "$1" --invite "$1.json" --join "$2" --set run.dir="$work/$1" >"$1.log" 2>&1
}
rounds() { cat "$1/metrics.jsonl" 2>/dev/null | grep -c '"ev":"outer"' || true; }
until_rounds() { # SITE N
  soon counts "$2" '"ev":"outer"' "$1/metrics.jsonl" && return
  tail -n 5 ./*.log
  fail "site $1 has only $(rounds "$1") rounds after minutes"
}
expect 66 'where the hub is' ranks 1 "$weft" train run.yaml --site a --invite a.json --join @missing --set run.dir=x
site a @hub.addr &
a=$!
site b @hub.addr &
b=$!
site c "$old" &
c=$!
for s in a b c; do until_rounds $s 2; done
kill -TERM $hub_pid
wait $hub_pid || fail "the hub ended with $?"
python3 - "$old" <<'P' & # somebody else has the old port
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
host, port = sys.argv[1].rsplit(":", 1)
s.bind((host, int(port))); s.listen(50)
while True: s.accept()[0].close()
P
squatter=$!
hub_on
[ "$(cat hub/address)" != "$old" ] || fail "the hub is where it was"
for s in a b; do until_rounds $s $(($(rounds $s) + 4)); done
grep -q "the hub has moved from $old to $(cat hub/address)" a.log || fail "site a does not say that the hub has moved"
grep -q 'the hub has moved' c.log && fail "site c cannot know that"
for s in a b c; do pkill -TERM -f "^[^ ]*weft train .*run.dir=$work/$s" || fail "site $s is gone: $(tail -n 3 $s.log)"; done
for p in $a $b; do
  code=0
  wait "$p" || code=$?
  [ $code = 85 ] || { tail -n 5 ./*.log; fail "a site that was told to stop ended with $code"; }
done
kill -TERM $hub_pid
pkill -KILL -f "^[^ ]*weft train .*run.dir=$work/c" || true
kill $squatter
echo ok
