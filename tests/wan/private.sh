#!/usr/bin/env bash
# The real program on an emulated network: a site of four ranks loses one, leaves as a whole, and comes back; and nothing of
# anybody's data is in what the sites sent each other. The data are looked for in a run without encryption, where all that
# leaves can be read (the name of a site, for one, is there); with encryption even that is not.
# Usage: private.sh BIN_DIR [MPIRUN ...]
set -uo pipefail
bin=$1 mpirun=("${@:2}")
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
fail() { echo "FAILED: $*; see $dir" >&2; exit 1; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
cd "$dir" || exit 1

# Words of no language: nothing like them is in the protocol.
python3 - <<'END'
import random
rng = random.Random(7)
words = ["".join(rng.choice("bcdfghjklmnpqrstvwxz") + rng.choice("aeiou") for _ in range(4)) for _ in range(400)]
for site in "ab":
    with open(site + ".txt", "w") as f:
        for _ in range(4000):
            f.write(" ".join(rng.choice(words) for _ in range(8)) + "\n")
END
"$bin/weft" data prepare a.txt --out a-data --vocab 512 --holdout 0 >/dev/null 2>&1 || fail "data of a"
"$bin/weft" data prepare b.txt --out b-data --holdout 0 --tokenizer a-data/tokenizer >/dev/null 2>&1 || fail "data of b"
cat >run.yaml <<'Y'
run: {name: private, seed: 3, threads: 1}
model: {family: llama, layers: 3, hidden: 32, heads: 4, kv_heads: 2, ffn: 64, context: 32}
train: {steps: 100000, batch: 8, micro_batch: 2}
optim: {name: adamw, lr: 3e-3, schedule: constant}
save: {every: 50}
log: {every: 50}
sites: {every: 20, chunk: 4096, audit: 1}
Y

site() { # NAME RANKS EXTRA
  echo "exec ${mpirun[*]} -n $2 $bin/weft train run.yaml --site $1 --join \$WAN_h:7700 $3 --set run.dir=at-$1 --set data.train=$1-data/train.wtok.h5 --set sites.listen=\$WAN_ADDRESS:7701 --set sites.advertise=\$WAN_ADDRESS:7701"
}
scenario() { # HUB-OPTION EXTRA-OF-a EXTRA-OF-b
  cat <<END
late 200
limit 1000
site h
site a
site b
link *>* rate=100M delay=5ms
run hub in h: exec $bin/weft hub --dir hub --listen \$WAN_h:7700 $1
wait hub "listening" 100
run keys in h: for n in a b; do $bin/weft hub invite \$n --dir hub --out \$n.json || exit 1; done
exit keys 0 100
run a in a: $(site a 4 "$2")
run b in b: $(site b 1 "$3")
run look in h: touch at-b/metrics.jsonl; exec tail -q -n +1 -F at-b/metrics.jsonl | grep --line-buffered outer | tr -d '"'
wait look "sites:2" 300
wait look "sites:2" 300
END
}
carried() {
  local code=0
  "$bin/wanem" --out "$dir/logs-$1" --json "$dir/json" --capture "$dir/$1.pcap" "$dir/$1" 2>"$dir/err" || code=$?
  [ $code != 77 ] || { cat "$dir/err" >&2; rm -rf "$dir"; exit 77; }
  [ $code = 0 ] || [ $code = 76 ] || { tail -n 3 "$dir/err" >&2; tail -n 5 "$dir"/logs-*/*.log >&2; fail "$1: $code"; }
}
mkdir at-a at-b
{
  scenario "" "--invite a.json" "--invite b.json"
  cat <<END
kill -KILL a rank=2
wait look "sites:1" 300
start a
wait look "sites:2" 450
wait look "sites:2" 300
alive a
alive b
END
} >tls
carried tls
rm -rf hub at-a at-b a.json b.json
mkdir at-a at-b
scenario "--insecure-lab" "--set sites.insecure_lab=true" "--set sites.insecure_lab=true" >plain
carried plain
python3 "$here/private.py" plain.pcap tls.pcap a.txt a-data/train.wtok.h5 b.txt b-data/train.wtok.h5 || fail "private"
rm -rf "$dir"
