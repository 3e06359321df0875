#!/usr/bin/env bash
# weft data import, export: token files of other programs, byte for byte; in place a run trains on the same samples as on the
# imported shard. The formats themselves: test_dataset_trade.
. "$(dirname "$0")/lib.sh"
python3 - <<'P'
import array, random, struct
random.seed(1)
docs = [[31] + [random.randrange(31) for _ in range(random.randrange(40, 400))] for _ in range(100)]
flat = [t for d in docs for t in d]
open('c.bin', 'wb').write(array.array('H', flat).tobytes())
n, at = len(docs), 0
with open('c.idx', 'wb') as f:
    f.write(b'MMIDIDX\0\0' + struct.pack('<QBQQ', 1, 8, n, n + 1) + struct.pack(f'<{n}i', *map(len, docs)))
    for d in docs:
        f.write(struct.pack('<q', 2 * at))
        at += len(d)
    f.write(struct.pack(f'<{n + 1}q', *range(n + 1)))
open('raw.bin', 'wb').write(array.array('H', flat).tobytes())
P
"$weft" data import c.bin --vocab 32 --eot 31 --out c.wtok.h5 >/dev/null
"$weft" data export c.wtok.h5 --to megatron --out m >/dev/null
cmp m.bin c.bin && cmp m.idx c.idx
"$weft" data export c.wtok.h5 --to llmc --out l >/dev/null
"$weft" data import l.bin --vocab 32 --eot 31 --out l.wtok.h5 >/dev/null
"$weft" data export l.wtok.h5 --to megatron --out again >/dev/null
cmp again.bin c.bin && cmp again.idx c.idx # documents begin with eot, so llm.c's file has lost nothing
"$weft" data import raw.bin --dtype u16 --vocab 32 --eot 31 --eot-at begin --out raw.wtok.h5 --json | python3 -c '
import json, sys
j = json.load(sys.stdin)
assert j["docs"] == 100 and j["vocab"] == 32 and j["in_place"] is False, j'

# with its tokenizer a shard comes back whole: fingerprint, bytes of text, documents
for i in 1 2 3; do printf 'Number %d: the quick brown fox, and the lazy dog.\n' $i $i$i $i$i$i >text$i.txt; done
"$weft" data prepare text1.txt text2.txt text3.txt --out p --vocab 270 --holdout 0 >/dev/null 2>&1
"$weft" data export p/train.wtok.h5 --to megatron --out p/x >/dev/null
"$weft" data import p/x.bin --tokenizer p/tokenizer --out p/back.wtok.h5 >/dev/null
"$weft" data import p/x.bin --tokenizer p/tokenizer --in-place >/dev/null
for f in p/train.wtok.h5 p/back.wtok.h5 p/x.bin; do "$weft" data info $f --json; done | python3 -c '
import json, sys
a, *others = [json.loads(l) for l in sys.stdin]
assert a["source_bytes"] > 100 and a["docs"] == 3, a
for b in others:
    for k in ("tokens", "docs", "source_bytes", "vocab", "eot", "tokenizer", "token_bytes"):
        assert a[k] == b[k], (k, a, b)'

# in place: the same run, loss for loss
expect 65 'import --in-place' "$weft" data info c.bin
"$weft" data import c.bin --vocab 32 --eot 31 --in-place >/dev/null
"$weft" data info c.bin | grep -q 'in 100 documents' || fail "info of a file in place"
cat >run.yaml <<'Y'
run: {name: t, dir: a, seed: 3}
model: {family: llama, layers: 1, hidden: 16, heads: 2, ffn: 32, context: 16}
data: {train: c.wtok.h5, valid: c.wtok.h5}
train: {steps: 3, batch: 4}
eval: {windows: 8}
Y
"$weft" train -q run.yaml
"$weft" train -q run.yaml --set run.dir=b --set data.train=c.bin --set data.valid=c.bin
[ -n "$(losses a)" ] && [ "$(losses a)" = "$(losses b)" ] || fail "in place, other samples: $(losses a) $(losses b)"
"$weft" train -q run.yaml --set run.dir=pa --set data.pack=doc # documents are those of the .idx
"$weft" train -q run.yaml --set run.dir=pb --set data.pack=doc --set data.train=c.bin --set data.valid=c.bin
[ "$(losses pa)" = "$(losses pb)" ] && [ "$(losses pa)" != "$(losses a)" ] || fail "packed in place: $(losses pa) $(losses pb)"
printf '\1' | dd of=c.bin bs=1 seek=5000 conv=notrunc status=none # control: one token changed
cmp -s c.bin m.bin && fail "nothing was changed"
expect 65 'c.bin is damaged, or was changed' "$weft" train -q run.yaml --set run.dir=c --set data.train=c.bin --set data.valid=
expect 65 'c.bin is damaged' "$weft" data info c.bin
cp m.bin c.bin

# refused, and nothing written
expect 64 'which token file' "$weft" data import
expect 64 'either --out SHARD or --in-place' "$weft" data import c.bin --vocab 32
expect 64 '.--vocab N' "$weft" data import c.bin --out x.wtok.h5
expect 73 'c.wtok.h5 is there already' "$weft" data import c.bin --vocab 32 --out c.wtok.h5
expect 73 'c.bin.weft.json is there already' "$weft" data import c.bin --vocab 32 --in-place
expect 73 'm.bin is there already' "$weft" data export c.wtok.h5 --to megatron --out m
expect 73 'm.idx is there' "$weft" data export c.wtok.h5 --to llmc --out m --force
expect 95 'token 0 is 31; the vocabulary ends at 31' "$weft" data import c.bin --vocab 31 --out x.wtok.h5
expect 66 'nothere' "$weft" data import nothere.bin --out x.wtok.h5
expect 65 'no .idx beside it' "$weft" data import raw.bin --vocab 32 --out x.wtok.h5
head -c 100 c.idx >cut.idx && cp c.bin cut.bin
expect 65 'cut.idx.*truncated' "$weft" data import cut.bin --vocab 32 --out x.wtok.h5
WEFT_FAULT=write:2 expect 72 'No space' "$weft" data export c.wtok.h5 --to megatron --out full
[ ! -e x.wtok.h5 ] && [ -z "$(ls | grep -E 'full|tmp')" ] || fail "something was left"
for c in "data import" "data export"; do "$weft" $c --help | grep -qE 'Examples?:' || fail "weft $c --help has no example"; done
echo ok
