#!/usr/bin/env python3
"""Saving the same bytes to the same directory: weft beside PyTorch's distributed checkpoint, safetensors and torch.save.

    python benchmarks/peers/checkpoint_peers.py [--dir DIR] [--mib N] [--rounds N] [--bin FILE] [--only NAME,...] [--json]

f32 in 16 tensors. Every turn is a job of its own that saves twice; the second save is the one that counts, so no one pays for
first connections or first touches. Turns are interleaved and the order rotates. What is timed is the save alone, of
the slowest process, until files and directories are fsynced. Tensors are rewritten before each save; the peers' earlier
files are removed before the clock starts, weft removes its earlier checkpoint within its time.

  weft         bench_checkpoint --only save, 2 ranks: digests, manifest, rename
  raw          bench_checkpoint --only raw, 2 ranks: pwrite + fsync of one file, the floor
  dcp          torch.distributed.checkpoint (torch 1.13: its forerunner), 2 processes over gloo, each saving half of the
               rows of every tensor (ShardedTensor) to one file
  dcp-files    the same, one file per tensor (torch 1.13's default)
  safetensors  safetensors.torch.save_file, one process
  torch        torch.save, one process

Needs torch and safetensors in the Python that runs it. What is missing is named and left out; exit 77 if that leaves
nothing to compare, 1 if a job fails.
"""
import argparse
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

TENSORS, COLUMNS, SAVES, PROCESSES, LIMIT_S = 16, 4096, 2, 2, 180
ORDER = ["weft", "raw", "dcp", "dcp-files", "safetensors", "torch"]
FLAGS = ["--oversubscribe", "--bind-to", "none", "--mca", "btl", "self,vader"]


def fsync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def fsync_tree(path):
    """Files, then the directories that name them, up to the one around `path`. Costs little where files are clean."""
    if os.path.isdir(path):
        for entry in os.scandir(path):
            fsync_tree(entry.path)
    fsync(path)


def remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)
    fsync(os.path.dirname(path))


# --- a job of one of the peers -------------------------------------------------------------------------------------

def rewrite(tensors, turn):
    import torch
    n = tensors[0].numel()
    values = (torch.arange(n, dtype=torch.int64) * 2654435761 & 0xffffff).float().view(tensors[0].shape)
    for t in tensors:
        t.copy_(values).add_(turn)


def one_process(kind, where, rows):
    """Seconds of each save."""
    import torch
    tensors = [torch.zeros(rows, COLUMNS) for _ in range(TENSORS)]
    state = {f"w{i:02d}": t for i, t in enumerate(tensors)}
    path, times = os.path.join(where, kind), []
    if kind == "safetensors":
        from safetensors.torch import save_file as save
    else:
        save = torch.save
    for turn in range(SAVES):
        remove(path)
        rewrite(tensors, turn)
        since = time.monotonic()
        save(state, path)
        fsync(path)
        fsync(where)
        times.append(time.monotonic() - since)
    return times


def sharded(shards, rank, rows):
    """name -> ShardedTensor of `rows` rows, of which every process holds its share."""
    from torch.distributed._shard.sharded_tensor import Shard, init_from_local_shards
    from torch.distributed._shard.metadata import ShardMetadata
    mine = rows // PROCESSES
    def whole(t):
        place = ShardMetadata(shard_offsets=[rank * mine, 0], shard_sizes=[mine, COLUMNS], placement=f"rank:{rank}/cpu")
        return init_from_local_shards([Shard(t, place)], rows, COLUMNS)
    return {f"w{i:02d}": whole(t) for i, t in enumerate(shards)}


def distributed(kind, where, rows, rank):
    """Seconds of each save, of the slowest process."""
    import torch
    import torch.distributed as dist
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    shards = [torch.zeros(rows // PROCESSES, COLUMNS) for _ in range(TENSORS)]
    state = sharded(shards, rank, rows)
    path, times = os.path.join(where, kind), []
    try:
        from torch.distributed.checkpoint import FileSystemWriter, save
    except ImportError:
        try:
            from torch.distributed.checkpoint import FileSystemWriter, save_state_dict as save
        except ImportError:
            from torch.distributed._shard.checkpoint import FileSystemWriter, save_state_dict as save
    for turn in range(SAVES):
        if rank == 0:
            remove(path)
        rewrite(shards, turn)
        dist.barrier()
        since = time.monotonic()
        save(state, storage_writer=FileSystemWriter(path, single_file_per_rank=kind == "dcp", sync_files=True))
        if rank == 0:
            fsync_tree(path)
            fsync(where)
        took = torch.tensor([time.monotonic() - since], dtype=torch.float64)
        dist.all_reduce(took, op=dist.ReduceOp.MAX)
        times.append(took.item())
    dist.destroy_process_group()
    return times


def job(kind, where, rows, rank):
    times = distributed(kind, where, rows, rank) if kind.startswith("dcp") else one_process(kind, where, rows)
    if rank == 0:
        print(json.dumps({"size": size_of(os.path.join(where, kind)), "seconds": times}))


def size_of(path):
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(path) for f in files)


# --- turns ---------------------------------------------------------------------------------------------------------

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def finish(processes):
    """Output of the first; all of them are gone afterwards. An error if one failed or took too long."""
    try:
        out = [p.communicate(timeout=LIMIT_S) for p in processes]
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no end after {LIMIT_S} s")
    finally:
        for p in processes:
            if p.poll() is None:
                os.killpg(p.pid, signal.SIGKILL)
                p.wait()
    for p, (_, err) in zip(processes, out):
        if p.returncode:
            raise RuntimeError(f"exit {p.returncode}: {err.strip()[-1000:]}")
    return out[0][0]


def launch(command, **more):
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                            env={**os.environ, **{k: str(v) for k, v in more.items()}})


def turn_of(kind, args, where):
    """Seconds of the save that counts."""
    if kind in ("weft", "raw"):
        what = "save" if kind == "weft" else "raw"
        out = finish([launch(["mpirun", "-n", str(PROCESSES), *FLAGS, args.bin, "--only", what, "--rounds", str(SAVES),
                              "--mib", str(args.mib), "--dir", where, "--json"])])
        last = json.loads(out.splitlines()[-1])
        if last["mib"] != args.mib or last["round"] != SAVES - 1:
            raise RuntimeError(f"saved something else: {last}")
        return last["seconds"]
    n, port = PROCESSES if kind.startswith("dcp") else 1, free_port()
    command = [sys.executable, os.path.abspath(__file__), "--mib", str(args.mib), "--dir", where, "--job", kind, "--rank"]
    out = json.loads(finish([launch(command + [str(r)], MASTER_ADDR="127.0.0.1", MASTER_PORT=port, GLOO_SOCKET_IFNAME="lo")
                             for r in range(n)]).splitlines()[-1])
    if not args.mib << 20 <= out["size"] <= (args.mib << 20) * 1.02:
        raise RuntimeError(f"{out['size']} bytes are on the disk, expected a little over {args.mib << 20}")
    return out["seconds"][-1]


def missing(binary):
    """kind -> what it lacks."""
    lacks = {}
    if not os.access(binary, os.X_OK) or not shutil.which("mpirun"):
        what = "mpirun" if os.access(binary, os.X_OK) else f"{binary} (ninja bench_checkpoint)"
        lacks.update(weft=what, raw=what)
    if importlib.util.find_spec("torch") is None:
        return {**lacks, **{k: "torch" for k in ORDER[2:]}}
    import torch
    if not torch.distributed.is_available():
        lacks.update({"dcp": "torch.distributed", "dcp-files": "torch.distributed"})
    if importlib.util.find_spec("safetensors") is None:
        lacks["safetensors"] = "safetensors"
    return lacks


def median(values):
    v = sorted(values)
    return v[len(v) // 2] if len(v) % 2 else (v[len(v) // 2 - 1] + v[len(v) // 2]) / 2


def report(args, times, load):
    versions = {}
    for name in ("torch", "safetensors"):
        if importlib.util.find_spec(name):
            versions[name] = __import__(name).__version__
    rows = [{"what": k, "seconds": median(t), "least": min(t), "most": max(t), "mib_s": args.mib / median(t), "all": t,
             "over_weft": median(t) / median(times["weft"]),
             "over_weft_by_round": median([a / b for a, b in zip(t, times["weft"])])} for k, t in times.items()]
    if args.json:
        print(json.dumps({"mib": args.mib, "rounds": args.rounds, "versions": versions, "load": [min(load), max(load)],
                          "cores": os.cpu_count(), "rows": rows}))
        return
    print(f"{args.mib} MiB in {TENSORS} tensors, {args.rounds} rounds, {os.cpu_count()} cores, load {min(load):.1f} to {max(load):.1f}, "
          + ", ".join(f"{k} {v}" for k, v in versions.items()))
    print("  median (least to most); time over weft's: of the medians, and median of the rounds")
    for r in rows:
        print(f"  {r['what']:<12} {1e3 * r['seconds']:8.0f} ms  ({1e3 * r['least']:.0f} to {1e3 * r['most']:.0f})"
              f"  {r['mib_s']:6.0f} MiB/s   x {r['over_weft']:.2f}  x {r['over_weft_by_round']:.2f}")


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dir", default=tempfile.gettempdir())
    p.add_argument("--mib", type=int, default=512)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--bin", default=os.path.join(here, "../../build/release/bin/bench_checkpoint"))
    p.add_argument("--only", default=",".join(ORDER), help="some of " + ", ".join(ORDER))
    p.add_argument("--json", action="store_true")
    p.add_argument("--job", help=argparse.SUPPRESS)
    p.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    args = p.parse_args()
    rows = args.mib * (1 << 20) // 4 // COLUMNS // TENSORS
    if args.mib < 1 or args.rounds < 1 or rows % PROCESSES or set(args.only.split(",")) - set(ORDER):
        p.error(f"MiB and rounds are at least 1, MiB even, names among {', '.join(ORDER)}")
    if args.job:
        return job(args.job, args.dir, rows, args.rank)
    lacks = missing(args.bin)
    kinds = [k for k in ORDER if k in args.only.split(",") and k not in lacks]
    for k, what in lacks.items():
        print(f"{k} is left out: {what} is missing", file=sys.stderr)
    if "weft" not in kinds or len(set(kinds) - {"weft", "raw"}) == 0:
        print("skipped: nothing to compare", file=sys.stderr)
        return 77
    times, load = {k: [] for k in kinds}, []
    where = tempfile.mkdtemp(prefix="weft-peers-", dir=args.dir)
    try:
        for turn in range(args.rounds):
            at = turn % len(kinds)
            for k in kinds[at:] + kinds[:at]:
                load.append(os.getloadavg()[0])
                try:
                    times[k].append(turn_of(k, args, where))
                    print(f"round {turn}: {k} {times[k][-1]:.3f} s, load {load[-1]:.1f}", file=sys.stderr)
                except RuntimeError as e:
                    print(f"{k}: {e}", file=sys.stderr)
                    return 1
                remove(os.path.join(where, k))
    finally:
        shutil.rmtree(where, ignore_errors=True)
    report(args, times, load)
    return 0


if __name__ == "__main__":
    sys.exit(main())
