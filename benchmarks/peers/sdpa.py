#!/usr/bin/env python3
"""PyTorch's scaled_dot_product_attention on the shapes of bench_cuda_attention, in the same units.

    python benchmarks/peers/sdpa.py [--quick] [--json]

Every implementation that torch has for a shape (flash, cudnn, efficient) takes turns in every round; times are by events
around as many calls as last about 20 ms, on three sets of random inputs in turn. Run it before and after
bench_cuda_attention on an idle GPU: figures of two processes compare only as far as two runs of this one agree.
Exit 77 if there is no torch or no GPU.
"""
import argparse
import json
import statistics
import sys

SETS = 3


def shapes(quick):
    for hd in (64, 128):
        for causal in (True, False):
            t = 1024
            while t <= 16384:
                yield dict(batch=16384 // t, hq=2048 // hd, hkv=2048 // hd, hd=hd, tq=t, tk=t, causal=causal)
                t *= 16 if quick else 2
    for t in (8192, 16384):
        yield dict(batch=1, hq=64, hkv=8, hd=128, tq=t, tk=t, causal=True)
    yield dict(batch=4, hq=32, hkv=8, hd=128, tq=1, tk=16384, causal=False)  # one query sees all keys
    yield dict(batch=1, hq=12, hkv=12, hd=64, tq=1, tk=4096, causal=False)


def tensors(torch, s):
    def one(tokens, heads):
        x = torch.rand(s["batch"], tokens, heads, s["hd"], device="cuda") - 0.5
        return x.to(torch.bfloat16).transpose(1, 2).requires_grad_(s["tq"] > 1)

    q, k, v = one(s["tq"], s["hq"]), one(s["tk"], s["hkv"]), one(s["tk"], s["hkv"])
    return q, k, v, torch.rand_like(q) - 0.5


def timed(torch, call, calls):
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for i in range(calls):
        call(i % SETS)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / calls


def calls_of(torch, s, sets, backend, backward):
    """The call, or None where torch has no such implementation for the shape."""
    from torch.nn.attention import sdpa_kernel

    gqa = {"enable_gqa": True} if s["hq"] != s["hkv"] else {}

    def forward(i):
        q, k, v, _ = sets[i]
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=s["causal"], **gqa)

    def one(i):
        with sdpa_kernel(backend):
            if not backward:
                with torch.no_grad():
                    return forward(i)
            return torch.autograd.grad(out[i], sets[i][:3], sets[i][3], retain_graph=True)

    try:
        with sdpa_kernel(backend):
            out = [forward(i) for i in range(SETS)] if backward else None
        one(0)
        torch.cuda.synchronize()
    except (RuntimeError, TypeError):
        return None
    return one


def measure(torch, s, backward, rounds, as_json):
    from torch.nn.attention import SDPBackend

    sets = [tensors(torch, s) for _ in range(SETS)]
    ways = {}
    for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION),
                          ("efficient", SDPBackend.EFFICIENT_ATTENTION)):
        call = calls_of(torch, s, sets, backend, backward)
        if call:
            timed(torch, call, SETS)
            ways[name] = (call, min(4096, max(SETS, int(20 / timed(torch, call, SETS)) + 1)), [])
    for _ in range(rounds):
        for call, calls, times in ways.values():
            times.append(timed(torch, call, calls))
    for name, (_, _, times) in ways.items():
        report(s, name, backward, sorted(times), as_json)


def report(s, name, backward, times, as_json):
    median = statistics.median(times)
    if s["tq"] == 1:
        work, unit = 4.0 * s["batch"] * s["tk"] * s["hkv"] * s["hd"], "TB/s"
    else:
        work, unit = 4.0 * s["batch"] * s["hq"] * s["tq"] * s["tk"] * s["hd"], "TFLOP/s"
        work *= (0.5 if s["causal"] else 1) * (2.5 if backward else 1)
    line = dict(bench="attention", way="torch-" + name, dtype="bf16", batch=s["batch"], heads=s["hq"], key_heads=s["hkv"],
                head_dim=s["hd"], tq=s["tq"], tk=s["tk"], causal=int(s["causal"]), ms_min=times[0], ms_median=median,
                ms_p99=times[-1], rate=work / median * 1e-9, unit=unit)
    line["pass"] = "backward" if backward else "forward"
    if as_json:
        print(json.dumps(line), flush=True)
    else:
        print("bf16 b%(batch)d %(heads)d/%(key_heads)d heads of %(head_dim)3d, %(tq)5d x %(tk)5d causal %(causal)d %(pass)-8s "
              "%(way)-15s %(ms_median)9.4f ms (%(ms_min).4f, %(ms_p99).4f) %(rate)8.2f %(unit)s" % line, flush=True)


def main():
    options = argparse.ArgumentParser(description="PyTorch's attention on the shapes of bench_cuda_attention")
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", action="store_true")
    options = options.parse_args()
    try:
        import torch
    except ImportError:
        print("skipped: no torch")
        return 77
    if not torch.cuda.is_available():
        print("skipped: no GPU")
        return 77
    torch.manual_seed(1)
    for s in shapes(options.quick):
        for backward in (False, True) if s["tq"] > 1 else (False,):
            measure(torch, s, backward, 3 if options.quick else 15, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
