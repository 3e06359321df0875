"""scripts/slice: the parts of a rotation are disjoint and together the long part; the same day gives the same part; no part is much
longer than another; a part that does not exist is refused. Usage: slices.py SOURCE_DIR BUILD_DIR"""
import json
import re
import subprocess
import sys

top, build = sys.argv[1:]


def deal(*options):
    return subprocess.run([f"{top}/scripts/slice", build, *options], capture_output=True, text=True)


def tests(*labels):
    return {t["name"] for t in json.loads(subprocess.run(["ctest", "--test-dir", build, "--show-only=json-v1", *labels],
                                                         check=True, capture_output=True, text=True).stdout)["tests"]}


want = {("test", n) for n in tests("-L", "long", "-LE", "soak")} | {("build", "aarch64")}
want |= {("fuzz", n) for n in tests("-R", "^fuzz_", "-LE", "long")} if "fuzz_config" in tests() else set()
assert len(want) > 40, want
for n in (1, 7, 40):
    have = [tuple(line.split()) for k in range(n) for line in deal("--part", f"{k + 1}/{n}").stdout.splitlines()]
    assert len(have) == len(set(have)), f"{n} parts: {sorted(have)}: one in two parts"
    assert set(have) == want, f"{n} parts: {set(have) ^ want}"
n = int(re.search(r"of (\d+),", deal("--day", "0").stderr)[1])
days = [deal("--day", str(20000 + d)).stdout for d in range(n)]
assert {tuple(x.split()) for x in "".join(days).splitlines()} == want, "not all in a rotation"
assert days[0] == deal("--day", str(20000 + n)).stdout, "the rotation does not come round"
minutes = [float(x) for x in re.findall(r"^\d+/\d+ +([\d.]+) min", deal("--list").stdout, re.M)]
assert len(minutes) == n and max(minutes) < 10, minutes
for bad in ("0/3", "4/3", "3", "x/y"):
    assert deal("--part", bad).returncode, bad
print(f"{len(want)} long ones in {n} parts of {min(minutes):.0f} to {max(minutes):.0f} minutes")
