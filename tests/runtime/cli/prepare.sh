#!/usr/bin/env bash
# weft data prepare on corpora of many files: the same bytes from any number of threads, from packed files, and after
# being killed at any change of the file system; bounded memory; refusals that leave everything as it was.
# Usage: prepare.sh WEFT SOURCE_DIR KILL_AT_LIBRARY
. "$(dirname "$0")/lib.sh"
killer=$3
command -v python3 >/dev/null || exit 77

python3 - <<'P'
import json, os, random
random.seed(11)
words = ["".join(random.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(random.randint(1, 9))) for _ in range(3000)]
def text(n): return "\n".join(" ".join(random.choices(words, k=random.randint(1, 14))) + random.choice(".,!?") for _ in range(n))
os.mkdir("corpus")
for k in range(3):
    with open(f"corpus/{k}.jsonl", "w") as f:
        for i in range(800): f.write(json.dumps({"text": text(random.choice([1, 3, 30]))}) + "\n")
open("corpus/plain.txt", "w").write(text(6000))
P
sum() { (cd "$1" && find . -type f | sort | xargs sha256sum | sha256sum); }
prepare() { # prepare DIR ARGS...: pieces and shards so small that there are many
  local out=$1
  shift
  "$weft" data prepare corpus --out "$out" --vocab 600 --shard-tokens 200000 --piece-bytes 200000 --source here "$@"
}
expect 0 'train-00000.wtok.h5' prepare want --threads 1
shards=$(ls want/train-*.wtok.h5 | wc -l)
[ "$shards" -ge 3 ] || fail "only $shards shards: too little text for this test"
[ ! -e want/.prepare ] || fail "the unfinished things are still there"
"$weft" data info want/*.wtok.h5 >/dev/null

# threads
for n in 2 5; do
  expect 0 '' prepare "threads$n" --threads $n
  [ "$(sum "threads$n")" = "$(sum want)" ] || fail "$n threads give other bytes than one"
done

# packed: zstd in several frames, gzip, a mixture; standard input
if command -v zstd gzip >/dev/null; then
  mkdir packed
  for k in 0 1; do { head -c 100000 corpus/$k.jsonl | zstd -q; tail -c +100001 corpus/$k.jsonl | zstd -q; } >packed/$k.jsonl.zst; done
  gzip -c corpus/2.jsonl >packed/2.jsonl.gz
  zstd -q corpus/plain.txt -o packed/plain.txt.zst
  expect 0 '' "$weft" data prepare packed --out unpacked --vocab 600 --shard-tokens 200000 --source here
  [ "$(sum unpacked)" = "$(sum want)" ] || fail "packed files give other bytes than plain ones"
  head -c $(($(stat -c %s packed/plain.txt.zst) / 2)) packed/plain.txt.zst >packed/plain.txt.cut && mv packed/plain.txt.cut packed/plain.txt.zst
  expect 65 'plain.txt.zst is truncated: it ends inside zstd frame 1' "$weft" data prepare packed --out cut --vocab 600
  [ ! -e cut/train.wtok.h5 ] && [ ! -e cut/train-00000.wtok.h5 ] || fail "a shard of half a corpus"
  expect 0 '' "$weft" data prepare corpus/0.jsonl --out file --tokenizer want/tokenizer --source here
  zstd -qc corpus/0.jsonl >0.zst
  expect 0 '' "$weft" data prepare - --out stdin --tokenizer want/tokenizer --source here <0.zst
  [ "$(sum file)" = "$(sum stdin)" ] || fail "standard input gives other bytes than the file"
fi

# killed at changes of the file system spread over the whole run, and taken up again, with another number of threads
export WEFT_KILL_COUNT=$work/count
LD_PRELOAD=$killer prepare counted --threads 2 >/dev/null 2>&1
calls=$(cat count)
unset WEFT_KILL_COUNT
[ "$calls" -gt 100 ] || fail "only $calls changes of the file system were seen"
RANDOM=${WEFT_TEST_SEED:=$$}
echo "WEFT_TEST_SEED=$WEFT_TEST_SEED, $calls places to be killed at"
resumed=0
for i in $(seq 1 20); do
  at=$((1 + (calls * i - RANDOM % calls) / 20))
  rm -rf killed
  (LD_PRELOAD=$killer WEFT_KILL_AT=$at prepare killed --threads $((1 + i % 3)) >/dev/null 2>&1) && fail "was not killed at $at"
  [ ! -e killed/.prepare/state.json ] || resumed=$((resumed + 1))
  prepare killed --threads $((1 + i % 2)) >/dev/null 2>&1 || fail "killed at $at, it cannot be taken up"
  [ "$(sum killed)" = "$(sum want)" ] || fail "killed at $at, it ends with other bytes"
done
[ $resumed -ge 8 ] || fail "only $resumed of 20 kills left something to go on from"
# killed again and again, each time after as many changes as make some progress
rm -rf killed
n=0
until (LD_PRELOAD=$killer WEFT_KILL_AT=70 prepare killed --threads 2 >/dev/null 2>&1); do
  n=$((n + 1))
  [ $n -lt 200 ] || fail "no progress between kills"
done
[ "$(sum killed)" = "$(sum want)" ] || fail "killed $n times, it ends with other bytes"
echo "killed at 20 places and $n times in a row"

# another option, another input: refused, and what was done stays
rm -rf killed
(LD_PRELOAD=$killer WEFT_KILL_AT=$((calls / 2)) prepare killed --threads 1 >/dev/null 2>&1) && fail "was not killed"
before=$(sum killed)
expect 64 'holdout was 0.05, now it is 0.1.*|restart' prepare killed --holdout 0.1
touch corpus/3.txt
expect 64 'text file 4 was corpus/plain.txt, now it is corpus/3.txt' prepare killed
rm corpus/3.txt
cp corpus/1.jsonl saved.jsonl
echo '{"text": "one more"}' >>corpus/1.jsonl
expect 64 'corpus/1.jsonl has changed since' prepare killed
[ "$(sum killed)" = "$before" ] || fail "a refusal changed what was there"
expect 0 '' prepare killed --restart
cp saved.jsonl corpus/1.jsonl

# a bad line: named, nothing left; passed over if asked
mkdir bad
{ head -n 400 corpus/0.jsonl; echo 'no JSON'; tail -n +401 corpus/0.jsonl; } >bad/0.jsonl
expect 65 'bad/0.jsonl:401:[0-9]+: not JSON' "$weft" data prepare bad --out skipped --tokenizer want/tokenizer --threads 3
[ -z "$(ls -A skipped)" ] || fail "left behind: $(ls -A skipped)"
expect 0 '1 bad lines were passed over' "$weft" data prepare bad --out skipped --tokenizer want/tokenizer --skip-bad --source here
if [ -d file ]; then [ "$(sum file)" = "$(sum skipped)" ] || fail "a line that was passed over changes the others"; fi
