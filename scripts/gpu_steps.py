"""The steps of scripts/gpu-check. Each gives a state (ok, failed, skipped), a line of text, and figures for the JSON, of
which "lines" are printed too. A program that was not built is skipped by name."""
import array
import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import statistics
import sys
import typing

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}  # bf16, dense, by the datasheets
TARGETS = ["weft_cli", "weft_emu", "bench_cuda_gemm", "bench_cuda_attention", "bench_cuda_ops"]
TESTS = r"test_(ops(_[a-z]+)?|codec|emulator|hopper_model|ops_stream\.emu|ops_optim\.emu)"


@dataclasses.dataclass
class Step:
    name: str
    limit: int  # seconds
    gpu: bool   # cannot be run without one
    rooms: bool  # needs more than the kernels
    what: str
    run: typing.Callable


def skipped(text):
    return "skipped", text, {}


def failed(text, **figures):
    return "failed", text, figures


def of_code(code, text, last, **figures):
    """A finished program: ok, or failed with its last line."""
    if code == 0:
        return "ok", text, figures
    lines = [l for l in last.strip().splitlines() if l.strip()]
    why = "stopped at its limit" if code is None else f"exit {code}: {lines[-1][:120] if lines else ''}"
    return failed(why, **figures)


# --- build and tests ------------------------------------------------------------------------------------------------------


def torch_folder(m, *inside):
    """A folder of the Python packages that PyTorch brings, or None."""
    code, text = m.run(["python3", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], 30)
    at = pathlib.Path(text.strip().splitlines()[-1], *inside) if code == 0 and text.strip() else None
    return at if at and at.exists() else None


def build(m, limit):
    arch = m.gpu["cap"].replace(".", "") if m.gpu else "90"
    arch += "a" if arch in ("90", "100") else ""
    nccl = torch_folder(m, "nvidia", "nccl", "include")
    options = ["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DWEFT_CUDA=AUTO", "-DWEFT_WERROR=OFF", f"-DWEFT_CUDA_ARCHS={arch}",
               f"-DWEFT_ROOMS={'kernels' if m.kernels else 'all'}", *m.cmake]
    if nccl:
        options.append(f"-DWEFT_NCCL_INCLUDE={nccl}")
    code, text = m.run(["cmake", "-S", m.top, "-B", m.build, *options], limit)
    if code != 0:
        return of_code(code, "", text)
    without = re.findall(r"built WITHOUT .*", text)
    code, text = m.run(["ninja", "-C", m.build, "-t", "targets", "all"], 60)
    known = set(re.findall(r"^([\w./-]+):", text, re.M))
    targets = [t for t in TARGETS if t in known] + sorted(t for t in known if re.fullmatch(TESTS, t))
    code, text = m.run(["ninja", "-C", m.build, *targets], limit)
    return of_code(code, f"sm_{arch}, {len(targets)} programs" + (f"; {len(without)} parts left out" if without else ""), text,
                   arch=arch, targets=targets, without=without)


def test_programs(m, pattern):
    return sorted(p for p in m.build.glob("tests/**/test_*") if p.is_file() and re.fullmatch(pattern, p.name)
                  and os.access(p, os.X_OK))


def run_tests(m, limit, pattern, env, must_say):
    """Test programs one after the other; each has to say that it ran where it was meant to."""
    lines, bad, ran = [], [], 0
    programs = test_programs(m, pattern)
    for p in programs:
        code, text = m.run([p], limit / 2, env=env)
        if code == 77:
            lines.append(f"{p.name}: skipped")
            continue
        ran += 1
        if code != 0:
            bad.append(p.name)
            lines += [f"{p.name}: {'stopped at its limit' if code is None else f'exit {code}'}"]
            lines += [l[:150] for l in text.splitlines() if "FAILED" in l or "rror" in l][:4]
        elif must_say and not re.search(must_say, text):
            bad.append(p.name)
            lines.append(f"{p.name}: says nothing of {must_say}")
    if not ran:
        return skipped("no such test was built")
    if bad:
        return failed(f"{len(bad)} of {ran} programs: {', '.join(bad)}", lines=lines)
    return "ok", f"{ran} programs", {"programs": [p.name for p in programs]}


def ops(m, limit):
    return run_tests(m, limit, r"test_(ops(_[a-z]+)?|codec)", {}, r"runs on cuda/sm_")


def emulated(m, limit):
    """What the GPU will be compared with: the same kernels on the emulated device."""
    return run_tests(m, limit, r"test_(emulator|hopper_model|ops_stream\.emu|ops_optim\.emu)", {}, None)


def sanitizer(m, limit):
    """Wrong accesses, races in shared memory, barriers that not all threads reach; on small tests."""
    tool = shutil.which("compute-sanitizer", path=m.env["PATH"]) or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if not tool:
        return skipped("no compute-sanitizer")
    lines, bad, ran = [], 0, 0
    programs = test_programs(m, r"test_ops(_stream|_model|_loss|_attention|_optim)?")
    for what in ("memcheck", "racecheck", "synccheck"):
        for p in programs if what != "racecheck" else programs[:3]:
            code, text = m.run([tool, "--tool", what, "--error-exitcode", "99", p], limit / 6)
            if "Device not supported" in text:
                return skipped("compute-sanitizer does not support this machine's runtime")
            found = re.findall(r"ERROR SUMMARY: (\d+) error", text)
            if code is None:
                lines.append(f"{what} {p.name}: stopped at its limit")
                continue
            ran += 1
            if code == 99 or (found and int(found[-1])):
                bad += 1
                lines.append(f"{what} {p.name}: {found[-1] if found else '?'} errors")
    if bad:
        return failed(f"{bad} of {ran} runs found something", lines=lines)
    return ("ok", f"{ran} runs are clean", {"lines": lines}) if ran else skipped("no run ended in time")


# --- training ---------------------------------------------------------------------------------------------------------------

SMALL = """run: {{name: check, dir: {dir}, seed: 3, device: {device}, threads: 0}}
model: {{family: llama, layers: 2, hidden: 64, heads: 4, kv_heads: 2, ffn: 128, context: 64}}
data: {{train: {data}, valid: {data}}}
train: {{steps: {steps}, batch: 16, micro_batch: 8, dtype: {dtype}}}
optim: {{name: adamw, lr: 3e-3}}
eval: {{windows: 16}}
log: {{every: 1}}
"""


def train(m, limit, name, text, ranks=1, program="weft", env=None):
    """A run; exit code, output, and its records."""
    folder = m.out / "runs"
    folder.mkdir(exist_ok=True)
    data = folder / "synth.wtok.h5"
    shutil.rmtree(folder / name, ignore_errors=True)
    at = folder / f"{name}.yaml"
    at.write_text(text(folder / name, data))
    command = [m.program(program), "train", "-q", at]
    if ranks > 1:
        share = "NCCL_HOSTID=rank$OMPI_COMM_WORLD_RANK exec \"$0\" \"$@\""  # NCCL refuses two ranks of one host on one GPU
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "btl", "self,vader", "-n", ranks, "sh", "-c", share,
                   *command]
    code, out = m.run(command, limit, env=env)
    shutil.rmtree(folder / name / "checkpoints", ignore_errors=True)
    records = []
    lines = folder / name / "metrics.jsonl"
    if lines.exists():
        for line in lines.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                pass
    return code, out, [r for r in records if "loss/train" in r.get("k", {})]


def figure(record, name):
    return record["k"].get(name)


def random_data(m, vocab, tokens):
    """Tokens that mean nothing, of a vocabulary as large as real ones."""
    folder = m.out / "runs"
    folder.mkdir(exist_ok=True)
    draw = random.Random(5)
    ids = array.array("H", (draw.randrange(vocab) for _ in range(tokens)))
    if sys.byteorder == "big":
        ids.byteswap()
    (folder / "tokens.bin").write_bytes(ids.tobytes())
    return m.run([m.program("weft"), "data", "import", folder / "tokens.bin", "--dtype", "u16", "--vocab", vocab, "--eot", "none",
                  "--force", "-o", folder / "synth.wtok.h5"], 60)


def make_data(m, vocab, tokens):
    folder = m.out / "runs"
    folder.mkdir(exist_ok=True)
    return m.run([m.program("weft"), "data", "synth", folder / "synth.wtok.h5", "--vocab", vocab, "--tokens", tokens,
                  "--seed", 5], 120)


def small(device, steps, dtype="fp32"):
    return lambda folder, data: SMALL.format(dir=folder, data=data, device=device, steps=steps, dtype=dtype)


def losses(records):
    return [figure(r, "loss/train") for r in records]


def far(a, b):
    """The largest difference of two curves, in nats."""
    return max(abs(x - y) for x, y in zip(a, b)) if a and len(a) == len(b) else float("inf")


def curve(m, limit):
    """200 steps on the CPU in fp32, on the GPU in fp32 and in bf16."""
    if not m.program("weft"):
        return skipped("weft was not built")
    code, out = make_data(m, 64, 400000)
    if code != 0:
        return of_code(code, "", out)
    found = {}
    for name, device, dtype in (("cpu", "cpu", "fp32"), ("gpu", "cuda", "fp32"), ("gpu-bf16", "cuda", "bf16")):
        code, out, records = train(m, limit / 2, name, small(device, 200, dtype))
        if code != 0:
            return of_code(code, "", out)
        found[name] = losses(records)
        if len(found[name]) < 200:
            return failed(f"{name}: {len(found[name])} records of 200")
    d, h = far(found["cpu"], found["gpu"]), far(found["cpu"], found["gpu-bf16"])
    text = f"fp32 within {d:.2g} nats of the CPU (bound 1e-3), bf16 within {h:.2g}"
    return ("ok" if d <= 1e-3 else "failed"), text, {"fp32": d, "bf16": h, "curves": found}


def emulator(m, limit):
    """The same ten steps on the emulated device and on the GPU."""
    if not m.program("weft") or not m.program("weft_emu"):
        return skipped("weft_emu was not built")
    code, out = make_data(m, 64, 400000)
    if code != 0:
        return of_code(code, "", out)
    found = {}
    for name, program in (("emulated", "weft_emu"), ("real", "weft")):
        code, out, records = train(m, limit / 2, name, small("cuda", 10), program=program)
        if code != 0:
            return of_code(code, "", out)
        found[name] = losses(records)
    d = far(found["emulated"], found["real"])
    return ("ok" if d <= 1e-3 else "failed"), f"ten steps within {d:.2g} nats", {"far": d, "curves": found}


def nccl(m, limit):
    """Two ranks on this one GPU, over sockets: that it works, not how fast."""
    if not m.program("weft"):
        return skipped("weft was not built")
    library = torch_folder(m, "nvidia", "nccl", "lib", "libnccl.so.2")
    code, out = make_data(m, 64, 400000)
    if code != 0:
        return of_code(code, "", out)
    found, said = {}, {}
    env = {"NCCL_SOCKET_IFNAME": "lo", "NCCL_NET": "Socket", "NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1"}
    if library:
        env["WEFT_NCCL"] = str(library)
    for name, more in (("two-nccl", env), ("two-staged", {"WEFT_NCCL": "off"})):
        code, out, records = train(m, limit / 2, name, small("cuda", 20), ranks=2, env=more)
        if code != 0:
            return of_code(code, "", out)
        found[name], said[name] = losses(records), "go through host memory" in out
    d = far(found["two-nccl"], found["two-staged"])
    if said["two-nccl"]:
        return failed("NCCL made no communicator: the gradients went through host memory")
    return ("ok" if d <= 1e-4 else "failed"), f"two ranks on ONE GPU (a test, no figure of speed): NCCL within {d:.2g} nats of staged", {"far": d}


# --- speed ------------------------------------------------------------------------------------------------------------------

MODELS = {
    "gpt2-124M": dict(family="gpt2", layers=12, hidden=768, heads=12, kv_heads=12, ffn=3072, context=1024, vocab=50257, batch=32, micro=32),
    "llama-1.1B": dict(family="llama", layers=22, hidden=2048, heads=32, kv_heads=4, ffn=5632, context=2048, vocab=32000, batch=8, micro=8),
}
SPEED = """run: {{name: speed, dir: {dir}, seed: 3, device: cuda}}
model: {{family: {family}, layers: {layers}, hidden: {hidden}, heads: {heads}, kv_heads: {kv_heads}, ffn: {ffn}, context: {context}}}
data: {{train: {data}}}
train: {{steps: 30, batch: {batch}, micro_batch: {micro}, dtype: bf16}}
optim: {{name: adamw, lr: 3e-4}}
save: {{every: -1, async: false}}
log: {{every: 1}}
"""


def flops_per_token(o):
    """Forward and backward: 6 for each weight of a product, and attention (causal, so half of the square)."""
    d = o["hidden"] // o["heads"]
    attention = o["hidden"] * (2 * o["hidden"] + 2 * o["kv_heads"] * d)
    mlp = (2 if o["family"] == "gpt2" else 3) * o["hidden"] * o["ffn"]
    return 6 * (o["layers"] * (attention + mlp) + o["vocab"] * o["hidden"]) + 6 * o["layers"] * o["context"] * o["hidden"]


def peak_of(m):
    for name, peak in PEAK.items():
        if m.gpu and name in m.gpu["name"]:
            return peak
    return None


def steps(m, limit):
    """Whole steps, weft and PyTorch with torch.compile, same model and batch."""
    if not m.program("weft"):
        return skipped("weft was not built")
    lines, figures, state = [], {}, "ok"
    for name, o in MODELS.items():
        code, out = random_data(m, o["vocab"], 1500000)
        if code != 0:
            return of_code(code, "", out)
        code, out, records = train(m, limit / 3, name, lambda folder, data: SPEED.format(dir=folder, data=data, **o))
        rates = [figure(r, "tokens_per_s") for r in records][10:]
        if code != 0 or not rates:
            lines.append(f"{name}: {of_code(code, '', out)[1] or 'no records'}")
            state = "failed"
            continue
        ours, peak = statistics.median(rates), peak_of(m)
        watts = [w for w in (figure(r, "gpu_power") for r in records) if w]
        share = ours * flops_per_token(o) / peak if peak else None
        code, out = m.run(["python3", m.top / "benchmarks/peers/train_torch.py", json.dumps(o)], limit / 4)
        theirs = None
        if code == 0:
            theirs = json.loads(out.strip().splitlines()[-1]).get("tokens_per_s")
        figures[name] = {"tokens_per_s": ours, "mfu": share, "torch_tokens_per_s": theirs, "watts": watts[-1:] or None}
        lines.append(f"{name}: {ours:,.0f} tokens/s" + (f", MFU {100 * share:.1f} %" if share else "") +
                     (f"; torch.compile {theirs:,.0f} tokens/s, ratio {ours / theirs:.2f}" if theirs else "; no PyTorch figure"))
    return state, f"{len(figures)} models, bf16", {"lines": lines, **figures}


def short(v):
    return f"{v:.4g}" if isinstance(v, float) else str(v)


def program_of(name, *options, peer=None):
    """A benchmark that writes an object a line, and a script of benchmarks/peers that does."""
    def run(m, limit):
        path = m.program(name)
        if not path:
            return skipped(f"{name} was not built")
        code, out = m.run([path, *options], limit)
        if code == 77:
            return skipped("it found no GPU")
        if peer and code == 0 and (m.top / "benchmarks/peers" / peer).exists():
            theirs, more = m.run(["python3", m.top / "benchmarks/peers" / peer, *options], limit)
            out += more if theirs == 0 else f"peer: {peer} gave no figures\n"
        rows = []
        for line in out.splitlines():
            if line.startswith("{"):
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    pass
        text = [l for l in out.splitlines() if l.strip() and not l.startswith("{")]
        text += ["  ".join(f"{k} {short(v)}" for k, v in r.items() if not isinstance(v, (dict, list))) for r in rows]
        return of_code(code, f"{len(rows)} rows", out, rows=rows, lines=text[:60])
    return run


STEPS = [
    Step("build", 240, False, False, "configure and build for this GPU", build),
    Step("ops", 120, True, False, "every op of the table on the GPU, against ref", ops),
    Step("emulated", 60, False, False, "tests of the emulated device itself", emulated),
    Step("curve", 90, True, True, "200 training steps against the CPU's", curve),
    Step("emulator", 60, True, True, "ten training steps against the emulated device's", emulator),
    Step("gemm", 60, True, False, "products, own and cuBLASLt's", program_of("bench_cuda_gemm", "--json")),
    Step("attention", 60, True, False, "attention forward and backward", program_of("bench_cuda_attention", "--quick", "--json", peer="sdpa.py")),
    Step("bandwidth", 40, True, False, "memory-bound ops against a copy", program_of("bench_cuda_ops", "--json")),
    Step("steps", 150, True, True, "tokens/s and MFU of whole steps, weft and PyTorch", steps),
    Step("nccl", 60, True, True, "two ranks on this GPU over NCCL; a test", nccl),
    Step("sanitizer", 90, True, False, "compute-sanitizer on the tests of the kernels", sanitizer),
]
