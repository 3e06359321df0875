"""weft's tokenizer beside HuggingFace's on this machine: trained merges, ids, and files that the other one reads.

usage: live_check.py TOK_TOOL [SECONDS]

Skipped (exit 77) where python has no `tokenizers`. Random texts print their seed; WEFT_TEST_SEED repeats them.
"""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time

try:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
except ImportError:
    print("skipped: python has no package `tokenizers`")
    sys.exit(77)

TOOL, SECONDS = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 5
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECES = (
    "the of and unto don't we'LL I'VE it'ſ 12 3456 ½ ٣٤ 你好 ， 世界。 é e\u0301 한국 Привет \U0001f469\u200d\U0001f680 "
    "\u00a0 \u3000 \u0085 <|endoftext|> aaaa abab (x)->y[i] /* == \x00 \x7f \ufeff \u200b"
).split(" ") + [" ", "  ", "   ", "\n", "\r\n", "\t", " \n", "\n ", "\x0b", "'", "."]


def random_text(rnd, n):
    def char():
        while True:
            c = rnd.randrange(rnd.choice([0x80, 0x800, 0x3100, 0x10000, 0x110000]))
            if not 0xD800 <= c < 0xE000:
                return chr(c)

    return "".join(rnd.choice(PIECES) if rnd.random() < 0.7 else char() for _ in range(n))


def pre_tokenizer(split):
    if split == "gpt2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CL100K), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def weft(*args, text):
    done = subprocess.run([TOOL, *args], input=text.encode(), stdout=subprocess.PIPE, check=True)
    return done.stdout


def weft_ids(path, text, *flags):
    raw = weft("encode", path, *flags, text=text)
    return list(struct.unpack(f"<{len(raw) // 4}I", raw))


def same(name, a, b):
    if a == b:
        return
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    sys.exit(f"FAILED: {name} differ first at {at}: {a[at:at + 4]} and {b[at:at + 4]}")


def check(split, rnd):
    text = random_text(rnd, 20000)
    reference = Tokenizer(models.BPE())
    reference.pre_tokenizer = pre_tokenizer(split)
    reference.train_from_iterator(
        [text],
        trainers.BpeTrainer(
            vocab_size=1200,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        weft("train", ours, "1200", split, "2", text=text)
        with open(os.path.join(ours, "tokenizer.json"), encoding="utf-8") as f:
            mine = json.load(f)["model"]
        his = json.loads(reference.to_str())["model"]
        same("merges", [m if isinstance(m, str) else " ".join(m) for m in his["merges"]], mine["merges"])
        same("vocabularies", sorted(his["vocab"].items()), sorted(mine["vocab"].items()))
        loaded = Tokenizer.from_file(os.path.join(ours, "tokenizer.json"))
        reference.save(os.path.join(theirs, "tokenizer.json"))
        for _ in range(20):
            other = random_text(rnd, 500)
            ids = reference.encode(other).ids
            same("ids of the reference and of the file that weft wrote", ids, loaded.encode(other).ids)
            same("ids of the reference and of weft", ids, weft_ids(ours, other, "specials"))
            same("ids after weft read the reference's file", ids, weft_ids(theirs, other, "specials"))
            loaded.encode_special_tokens = True
            same("ids without special tokens", loaded.encode(other).ids, weft_ids(ours, other))
            loaded.encode_special_tokens = False


seed = int(os.environ.get("WEFT_TEST_SEED", time.time_ns() % 1000000))
print(f"WEFT_TEST_SEED={seed}", flush=True)
start, rounds = time.monotonic(), 0
while rounds < 2 or time.monotonic() - start < SECONDS:
    check(("gpt2", "cl100k")[rounds % 2], random.Random(seed + rounds))
    rounds += 1
print(f"{rounds} vocabularies trained and compared")
