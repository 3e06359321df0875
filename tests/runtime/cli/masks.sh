#!/usr/bin/env bash
# Conversations whose prompts are noise and whose answers are always the same: with the loss mask only answers count, so the loss
# falls to nearly nothing and as many tokens are trained on as the mask has; the same text without a mask cannot be learnt
# (control). The same bits on 1 and 2 ranks, documents kept apart or not.
. "$(dirname "$0")/lib.sh"
small_config
awk 'BEGIN {srand(7); for (i = 0; i < 1500; i++) {s = ""; for (k = 0; k < 24; k++) s = s sprintf("%d", rand() * 10);
  printf "{\"prompt\": \"%s\", \"completion\": \" the answer is well known\"}\n", s}}' >chats.jsonl
sed 's/"prompt": "\([0-9]*\)", "completion": "/"text": "\1/' chats.jsonl >texts.jsonl
"$weft" data prepare texts.jsonl --out texts --vocab 300 --holdout 0 >/dev/null 2>&1
"$weft" data prepare chats.jsonl --out chats --tokenizer texts/tokenizer --template plain --holdout 0 >/dev/null 2>&1
run=(train -q run.yaml --set train.steps=60 --set optim.lr=1e-2 --set data.valid=)
number() { grep -o "\"$1\": *[0-9]*" | tail -1 | grep -o '[0-9]*$'; }
last() { losses "$1" | tail -1 | cut -d: -f2; }
"$weft" data info chats/train.wtok.h5 --json >info.json
targets=$(number targets <info.json) all=$(number tokens <info.json)
[ "$targets" -gt 0 ] && [ "$targets" -lt "$((all * 7 / 10))" ] || fail "the shard has no mask worth the name: $targets of $all"
for n in 1 2; do
  ranks $n "$weft" "${run[@]}" --set data.train=chats/train.wtok.h5 --set run.dir=chats$n
  same chats$n chats1 || fail "weights differ on $n ranks"
done
"$weft" "${run[@]}" --set data.train=chats/train.wtok.h5 --set data.pack=doc --set run.dir=apart
"$weft" "${run[@]}" --set data.train=texts/train.wtok.h5 --set run.dir=texts
awk -v m="$(last chats1)" -v d="$(last apart)" -v t="$(last texts)" 'BEGIN {exit !(m < 0.2 && d < 0.2 && t > 0.6)}' ||
  fail "losses: $(last chats1) masked, $(last apart) masked and apart, $(last texts) without a mask"
trained=$(number tokens <chats1/metrics.jsonl)
awk -v a="$trained" -v b=$((60 * 16 * 32)) -v t="$targets" -v n="$all" 'BEGIN {r = a / b / (t / n); exit !(r > 0.97 && r < 1.03)}' ||
  fail "$trained of $((60 * 16 * 32)) tokens trained on; the mask has $targets of $all"
echo ok
