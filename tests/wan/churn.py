"""A run of emulated sites under random trouble.

  churn.py scenario --sites N --events N --seed S --worker PATH --weft PATH --dir DIR [--seconds-between S] > SCENARIO
  churn.py check --sites N DIR

Sites are killed, stopped, cut off from all or in one direction; the hub is killed; links get slow. Each trouble ends by itself
after a while, several may last at once, but one site is always left alone. At the end all is well for long enough
that everybody takes part again. The check: every site that ever held a version of a fragment held the same bits (each
worker says which after every merge). If so much dies that nobody has the newest versions, the hub's log rolls back, and
versions after that are others (--index: the hub's index, which says when)."""
import argparse
import collections
import json
import pathlib
import random
import re
import sqlite3
import sys

NAMES = "abcdefghijklmno"
HEAD = """mtu 1500
late 100
limit {limit}
seed {seed}
site h
{sites}link *>* rate=200M delay=10ms jitter=2ms loss=0.02%
"""


def scenario(o):
    rng = random.Random(o.seed)
    names = NAMES[:o.sites]
    out = [HEAD.format(limit=int(o.events * o.between * 5 + 3000), seed=o.seed, sites="".join(f"site {n}\n" for n in names))]
    out.append(f"run hub in h: exec {o.weft} hub --dir {o.dir}/hub --listen $WAN_h:7700")
    out.append('wait hub "listening" 100')
    out.append(f"run keys in h: for n in {' '.join(names)}; do {o.weft} hub invite $n --dir {o.dir}/hub --out {o.dir}/$n.json || exit 1; done")
    out.append("exit keys 0 150")
    for i, n in enumerate(names):
        out.append(f"run {n} in {n}: exec {o.worker} --invite {o.dir}/{n}.json --hub $WAN_h:7700 --listen $WAN_{n}:7701 --seed {i + 1} "
                   f"--step-ms 20 --every 50 --audit 2")
        out.append(f'wait {n} "joined" 300')
    ends = []  # (time, statements) that undo a trouble
    busy = {}  # what is in trouble: site or "hub", until when
    cut = {}   # reasons for which a directed link is dead
    now = 0.0

    def undo_until(t):
        nonlocal now
        for end, lines, what in sorted(e for e in ends if e[0] <= t):
            out.append(f"+{max(0, end - now):.2f}")
            now = max(now, end)
            out.extend(lines() if callable(lines) else lines)
            busy.pop(what, None)
        ends[:] = [e for e in ends if e[0] > t]

    def link_down(pairs):
        for p in pairs:
            cut[p] = cut.get(p, 0) + 1
            out.append(f"link {p[0]}>{p[1]} blackhole")

    def link_up(pairs):
        lines = []
        for p in pairs:
            cut[p] -= 1
            if cut[p] == 0:
                lines.append(f"link {p[0]}>{p[1]} up")
        return lines

    for _ in range(o.events):
        out.extend(f"alive {n}" for n in [*names, "hub"] if n not in busy)
        at = now + rng.expovariate(1 / o.between)
        undo_until(at)
        free = [n for n in names if n not in busy]
        kinds = ["slow"]
        if len(free) > 1:
            kinds += ["kill", "kill", "stop", "cut", "oneway"]
        if "hub" not in busy:
            kinds.append("hub")
        kind = rng.choice(kinds)
        out.append(f"+{at - now:.2f}")
        now = at
        lasts = min(rng.expovariate(1 / 5.0), 25)
        out.append(f"# {kind}")
        if kind == "hub":
            out.append("kill -KILL hub")
            busy["hub"] = 1
            ends.append((now + lasts, ["start hub"], "hub"))
        elif kind == "slow":
            a, b = rng.sample("h" + names, 2)
            out.append(f"link {a}>{b} rate={rng.choice([2, 20, 200])}M loss={rng.choice([0, 0.1, 1])}%")
            ends.append((now + lasts, [f"link {a}>{b} rate=200M loss=0.02%"], None))
        elif kind == "oneway":
            site = rng.choice(free)
            pairs = [(site, rng.choice(["h"] + [n for n in names if n != site]))]
            if rng.random() < 0.5:
                pairs = [p[::-1] for p in pairs]
            link_down(pairs)
            busy[site] = 1
            ends.append((now + lasts, lambda p=pairs: link_up(p), site))
        else:
            site = rng.choice(free)
            busy[site] = 1
            if kind == "kill":
                out.append(f"kill -KILL {site}")
                ends.append((now + lasts, [f"start {site}"], site))
            elif kind == "stop":
                out.append(f"kill -STOP {site}")
                ends.append((now + lasts, [f"kill -CONT {site}"], site))
            else:
                others = ["h"] + [n for n in names if n != site]
                pairs = [(site, x) for x in others] + [(x, site) for x in others]
                link_down(pairs)
                ends.append((now + lasts, lambda p=pairs: link_up(p), site))
    undo_until(float("inf"))
    out.append("+15")
    out.extend(f"alive {n}" for n in [*names, "hub"])
    for n in names:  # all together again: several rounds in which everyone is in
        out.append(f"mark {n}")
        out.append(f'wait {n} "sites={len(names)}" 600')
        out.append(f'wait {n} "sites={len(names)}" 600')
    out.append("+5")
    for n in names:
        out.append(f"kill -TERM {n}")
    for n in names:
        out.append(f"exit {n} 0 300")
    print("\n".join(out))


def check(o):
    bits = collections.defaultdict(dict)
    counts = collections.Counter()
    last = {}
    rollbacks = []
    if o.index:
        index = sqlite3.connect(f"file:{o.index}?mode=ro", uri=True)
        rollbacks = [t for t, in index.execute("select time from events where what = 'rollback' order by seq")]
    for n in NAMES[:o.sites]:
        text = pathlib.Path(o.dir, n + ".log").read_text(errors="replace")
        for p, v, d, t in re.findall(r"^bits fragment=(\d+) version=(\d+) digest=(\w+) at=([\d.]+)", text, re.M):
            bits[sum(r < float(t) for r in rollbacks), int(p), int(v)].setdefault(d, set()).add(n)
            last[int(p)] = max(last.get(int(p), 0), int(v))
        for word in ("merge", "rebase", "replace", "joined"):
            counts[word] += len(re.findall(f"^{word} ", text, re.M))
        done = re.findall(r"^done (.*)", text, re.M)
        if not done:
            sys.exit(f"site {n} did not come to its end")
        counts["steps"] += json.loads(done[-1])["steps"]
    differ = {k: v for k, v in bits.items() if len(v) > 1}
    shared = sum(len(set().union(*v.values())) > 1 for v in bits.values())
    print(f"{len(bits)} versions of {len(last)} fragments, {shared} of them seen by several sites, {len(differ)} with unequal bits; "
          f"{len(rollbacks)} rollbacks; {dict(counts)}")
    for k, v in sorted(differ.items())[:20]:
        print(f"fragment {k[1]} version {k[2]}: {v}")
    if differ or shared < len(last) or not counts["merge"]:
        sys.exit("the sites do not agree")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(required=True)
    s = sub.add_parser("scenario")
    s.add_argument("--sites", type=int, default=4)
    s.add_argument("--events", type=int, default=20)
    s.add_argument("--seed", type=int, default=1)
    s.add_argument("--between", type=float, default=2.0, help="mean seconds from one event to the next")
    s.add_argument("--worker", required=True)
    s.add_argument("--weft", required=True)
    s.add_argument("--dir", required=True)
    s.set_defaults(run=scenario)
    s = sub.add_parser("check")
    s.add_argument("--sites", type=int, default=4)
    s.add_argument("--index")
    s.add_argument("dir")
    s.set_defaults(run=check)
    o = p.parse_args()
    o.run(o)


main()
