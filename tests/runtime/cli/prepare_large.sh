#!/usr/bin/env bash
# weft data prepare on 300 MB: memory does not grow with the corpus, be it lines or one document, packed or not.
. "$(dirname "$0")/lib.sh"
command -v python3 zstd >/dev/null || exit 77
limit_mib=200

python3 - <<'P'
import json, random
random.seed(12)
words = ["".join(random.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(random.randint(1, 9))) for _ in range(20000)]
def text(n): return "\n".join(" ".join(random.choices(words, k=12)) + random.choice(".,!? ") for _ in range(n))
part = [json.dumps({"text": text(random.choice([1, 10, 60]))}) + "\n" for _ in range(4000)]
with open("large.jsonl", "w") as f:
    n = 0
    while n < 300e6:
        random.shuffle(part)
        n += f.write("".join(part))
body = text(100000)
with open("large.txt", "w") as f:
    for _ in range(int(300e6 / len(body)) + 1): f.write(body)
P
zstd -q large.jsonl
cat >most.py <<'P'
import resource, subprocess, sys
limit = int(sys.argv[1])
code = subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
print(f"{sys.argv[5]}: {mib} MiB")
sys.exit(code or mib > limit)
P
for f in large.jsonl large.jsonl.zst large.txt; do
  rm -rf out
  python3 most.py $limit_mib "$weft" data prepare $f --out out --vocab 5000 --train-bytes 30M --threads 2 ||
    fail "$f failed, or took more than $limit_mib MiB"
done
