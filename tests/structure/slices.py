"""scripts/slice: the parts of a rotation are disjoint and together the long part; the same day gives the same part; no part is much
longer than another; a part that does not exist is refused. Usage: slices.py SOURCE_DIR BUILD_DIR"""
import importlib.machinery
import json
import subprocess
import sys

sys.dont_write_bytecode = True
top, build = sys.argv[1:]
slice = importlib.machinery.SourceFileLoader("slice", f"{top}/scripts/slice").load_module()


def command(*options):
    return subprocess.run([f"{top}/scripts/slice", build, *options], capture_output=True, text=True)


def lines(part):
    return "".join(f"{kind} {name}\n" for _, kind, name in part[2])


tests = json.loads(subprocess.run(["ctest", "--test-dir", build, "--show-only=json-v1"], check=True, capture_output=True, text=True).stdout)["tests"]
labels = {t["name"]: next((p["value"] for p in t.get("properties", []) if p["name"] == "LABELS"), []) for t in tests}
want = {("test", n) for n in labels if "long" in labels[n] and "soak" not in labels[n]} | {("build", "aarch64")}
want |= {("fuzz", n) for n in labels if n.startswith("fuzz_")}
units = slice.units(build)
assert len(want) > 40 and {u[1:] for u in units} == want and len(units) == len(want), {u[1:] for u in units} ^ want
for n in (1, 7, 40):
    have = [unit[1:] for part in slice.deal(units, n) for unit in part[2]]
    assert len(have) == len(set(have)) and set(have) == want, f"{n} parts: {set(have) ^ want}"

days = slice.parts_for(units, 7)
parts = slice.deal(units, days)
minutes = [p[0] / 60 for p in parts]
assert max(minutes) < 10, minutes
for day in (0, days + 3):
    assert command("--day", str(day)).stdout == lines(parts[day % days]), day
assert command("--part", "2/7").stdout == lines(slice.deal(units, 7)[1])
for bad in ("0/3", "4/3", "3", "x/y"):
    assert command("--part", bad).returncode, bad
print(f"{len(want)} long ones in {days} parts of {min(minutes):.0f} to {max(minutes):.0f} minutes")
