#!/bin/bash
# scripts/gpu-check where there is no GPU, or none may be used: says so, step by step, in table and JSON; exit code 77 if nothing was run.
# What it reads of runs and of programs is what they write.
#   gpu_check.sh ROOT
set -u
root=$1
command -v python3 >/dev/null || exit 77
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
fail() { echo "FAIL: $*"; exit 1; }
export CUDA_VISIBLE_DEVICES= PYTHONDONTWRITEBYTECODE=1
run() { "$root/scripts/gpu-check" --build "$work/build" --out "$work/out" "$@" >"$work/said" 2>&1; }

run --only ops --only steps --only sanitizer
[ $? = 77 ] || fail "exit code without a GPU: $(cat "$work/said")"
[ "$(grep -c 'skipped.*no GPU' "$work/said")" -ge 3 ] || fail "no word of each step: $(cat "$work/said")"
python3 - "$work/out/gpu-check.json" <<'P' || fail "its JSON"
import json, sys
j = json.load(open(sys.argv[1]))
assert j["gpu"] is None and [s["step"] for s in j["steps"]] == ["ops", "steps", "sanitizer"], j
assert all(s["state"] == "skipped" and s["text"] == "no GPU" for s in j["steps"]), j
P
run --only nosuch && fail "a step that is none"
grep -q 'no step nosuch; there are build' "$work/said" || fail "what it says of a step that is none: $(cat "$work/said")"
run --list || fail "--list"
mkdir "$work/mine" && touch "$work/mine/precious"
run --only build --with "$work/mine" --seconds 20 # a folder that holds nothing: the build fails, and is told
[ $? = 1 ] && grep -q 'build *failed' "$work/said" || fail "a build that cannot be: $(cat "$work/said")"

# a program that fails, one that hangs, one that says nothing of a GPU; figures of records
cd "$root/scripts" && python3 - "$work" <<'P' || fail "the steps"
import importlib.machinery, importlib.util, argparse, os, pathlib, sys
loader = importlib.machinery.SourceFileLoader("gpu_check", "gpu-check")
spec = importlib.util.spec_from_loader("gpu_check", loader)
gpu_check = importlib.util.module_from_spec(spec)
loader.exec_module(gpu_check)
import gpu_steps
work = pathlib.Path(sys.argv[1])
m = gpu_check.Machine(argparse.Namespace(build=str(work / "b"), out=str(work / "o"), folder=None, kernels=False, seconds=100))
m.log = work / "o/x.log"
tests = work / "b/tests/kernels"
tests.mkdir(parents=True)
def program(name, text):
    (tests / name).write_text("#!/bin/sh\n" + text)
    (tests / name).chmod(0o755)
def ops():
    return gpu_steps.run_tests(m, 4, r"test_ops.*", {}, r"runs on cuda/sm_")
program("test_ops", "echo '# runs on cuda/sm_90 x1'")
assert ops()[0] == "ok", ops()
program("test_ops_model", "echo '# runs on cpu/avx2 x1'")
assert ops()[0] == "failed" and "says nothing" in ops()[2]["lines"][0], ops()
program("test_ops_model", "echo FAILED; exit 3")
assert ops()[0] == "failed" and "exit 3" in ops()[2]["lines"][0], ops()
program("test_ops_model", "sleep 60")
assert ops()[0] == "failed" and "limit" in ops()[2]["lines"][0], ops()
assert gpu_steps.far([1.0, 2.0], [1.0, 2.5]) == 0.5 and gpu_steps.far([1.0], [1.0, 2.0]) == float("inf")
assert gpu_steps.figure({"k": {"loss/train": 3.5}}, "loss/train") == 3.5
P
echo ok
