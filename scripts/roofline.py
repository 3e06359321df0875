"""Draws docs/roofline.svg for scripts/bench: speed over arithmetic intensity, both logarithmic, under the roofs that were
measured in the same runs. Readable on light and on dark pages."""
import math

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 520, 70, 20, 54, 56
X = (0.05, 3000.0)  # flop a byte

# Flops a byte of the ops that move data (f32; one for each add, multiply, fma half; functions by their polynomials).
FLOPS_PER_BYTE = {"axpby": 3 / 12, "adamw": 15 / 28, "sumsq": 2 / 4, "norm_fwd": 8 / 8, "norm_bwd": 14 / 16, "gelu_fwd": 24 / 8,
                  "gelu_bwd": 34 / 12, "swiglu_fwd": 20 / 12, "rope": 3 / 8, "scale_copy": 1 / 8, "reduce_p 8": 7 / 36}
ATTENTION_BYTES = {"attn_fwd": 4, "attn_bwd": 8}  # activations of 4 x 1024 x 768 that are read or written

STYLE = """
text { font: 13px sans-serif; fill: #24292f } .small { font-size: 11px } .title { font-size: 16px; font-weight: 600 }
.grid { stroke: #8c959f; stroke-opacity: .25 } .lead { stroke: #1a7f37; stroke-width: 1 } .roof { stroke: #57606a; stroke-width: 2; fill: none } .low { stroke-dasharray: 6 4 }
.f32 { fill: #0969da } .bf16 { fill: #bc4c00 } .op { fill: #1a7f37 } .mark { fill-opacity: .75 } rect.page { fill: #ffffff }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .grid { stroke: #8b949e } .roof { stroke: #b1bac4 }
.f32 { fill: #58a6ff } .bf16 { fill: #ffa657 } .op { fill: #56d364 } rect.page { fill: #0d1117 } }
"""


def points(rows):
    """(class, intensity, flop/s, label) of everything that has flops; label is '' for most."""
    out = []
    for r in rows:
        if r["bench"] == "gemm" and r["who"] == "weft" and "avx2" not in r["isa"] and not r["packed"]:
            flops = 2 * r["m"] * r["n"] * r["k"]
            size = 2 if r["type"] == "bf16" else 4
            moved = (r["m"] * r["k"] + r["n"] * r["k"]) * size + 4 * r["m"] * r["n"]
            label = f"M = {r['m']}" if r["form"] == "NT" and (r["m"], r["n"]) in ((1, 3072), (16, 3072)) and r["type"] == "f32" else ""
            out.append((r["type"], flops / moved, flops / r["median_s"], label))
        if r["bench"] == "ops" and r["type"] == "f32":
            if r["op"] in FLOPS_PER_BYTE:
                i = FLOPS_PER_BYTE[r["op"]]
                out.append(("op", i, i * r["bytes"] / r["median_s"], r["op"]))
            if r["op"] in ATTENTION_BYTES:
                moved = ATTENTION_BYTES[r["op"]] * 4 * 1024 * 768 * 4
                out.append(("op", r["flops"] / moved, r["flops"] / r["median_s"], r["op"]))
    return out


def roofs(rows):
    """Bytes a second of reading; flop/s of f32 and bf16: medians over the runs."""
    def median(values):
        v = sorted(values)
        return v[len(v) // 2] if v else None
    mine = [r for r in rows if r["bench"] == "gemm" and r["who"] == "weft" and "avx2" not in r["isa"]]
    return (median(r["peak"] for r in mine if r["floor"] == "read"),
            median(r["peak"] for r in mine if r["floor"] == "fma" and r["type"] == "f32"),
            median(r["peak"] for r in mine if r["floor"] == "fma" and r["type"] == "bf16"))


class Plot:
    def __init__(self, top):
        self.y_range = (0.3e9, 10 ** math.ceil(math.log10(top * 1.05)))
        self.parts = []

    def x(self, v):
        a, b = map(math.log10, X)
        return LEFT + (math.log10(v) - a) / (b - a) * (WIDTH - LEFT - RIGHT)

    def y(self, v):
        a, b = map(math.log10, self.y_range)
        return HEIGHT - BOTTOM - (math.log10(max(v, self.y_range[0])) - a) / (b - a) * (HEIGHT - TOP - BOTTOM)

    def add(self, text):
        self.parts.append(text)

    def line(self, x0, y0, x1, y1, cls):
        self.add(f'<line class="{cls}" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>')

    def text(self, x, y, words, cls="", anchor="start", turn=""):
        self.add(f'<text class="{cls}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{words}</text>')

    def grid(self):
        for e in range(-1, 4):
            x = self.x(10.0 ** e)
            self.line(x, TOP, x, HEIGHT - BOTTOM, "grid")
            self.text(x, HEIGHT - BOTTOM + 18, f"{10.0 ** e:g}", "small", "middle")
        for e in range(9, int(math.log10(self.y_range[1])) + 1):
            y = self.y(10.0 ** e)
            self.line(LEFT, y, WIDTH - RIGHT, y, "grid")
            self.text(LEFT - 8, y + 4, f"{10.0 ** (e - 9):g}", "small", "end")
        self.text((LEFT + WIDTH) / 2, HEIGHT - 14, "flop per byte of operands and results", anchor="middle")
        self.text(18, HEIGHT / 2, "Gflop/s", anchor="middle", turn=f' transform="rotate(-90 18 {HEIGHT / 2:.0f})"')

    def roof(self, bandwidth, peak, name, cls):
        knee = peak / bandwidth
        self.line(self.x(knee), self.y(peak), WIDTH - RIGHT, self.y(peak), cls)
        self.text(WIDTH - RIGHT - 4, self.y(peak) - 6, f"{name}: {peak / 1e9:.0f} Gflop/s", "small", "end")
        return knee

    def mark(self, kind, i, speed):
        x, y = self.x(min(max(i, X[0]), X[1])), self.y(speed)
        if kind == "f32":
            self.add(f'<circle class="mark f32" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        elif kind == "bf16":
            self.add(f'<rect class="mark bf16" x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"/>')
        else:
            self.add(f'<path class="mark op" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"/>')
        return x, y


def place(labels, marks):
    """Where each label of the mark at (x, y) goes so that it covers no mark and no other label; (x, y, words, the mark)."""
    boxes = [(x - 5, y - 5, x + 5, y + 5) for x, y in marks]
    out = []
    for x, y, words in sorted(labels):
        wide = 6.4 * len(words)
        tries = [(x + 8 + dx, y + 4 + dy) for dy in (0, 12, -12, 24, -24, 36, -36) for dx in (0, -wide - 16, -wide / 2 - 8)]
        for left, base in tries:
            box = (left, base - 10, left + wide, base + 2)
            if all(box[2] < b[0] or b[2] < box[0] or box[3] < b[1] or b[3] < box[1] for b in boxes):
                break
        boxes.append(box)
        out.append((left, base, words, (x, y)))
    return out


def draw(rows):
    bandwidth, f32, bf16 = roofs(rows)
    all_points = points(rows)
    top = max([p[2] for p in all_points] + [v for v in (f32, bf16) if v])
    plot = Plot(top)
    plot.grid()
    plot.text(LEFT, 24, "Kernels under the roofs of the machine, median of the runs", "title")
    if bandwidth and f32:
        knee = max(plot.roof(bandwidth, p, n, c) for p, n, c in
                   ((f32, "fp32 fma", "roof"), (bf16, "bf16 products", "roof low")) if p)
        low = max(X[0], plot.y_range[0] / bandwidth)
        plot.line(plot.x(low), plot.y(low * bandwidth), plot.x(knee), plot.y(knee * bandwidth), "roof")
        at = 7
        slope = math.degrees(math.atan2(plot.y(at * bandwidth) - plot.y(2 * at * bandwidth), plot.x(2 * at) - plot.x(at)))
        x, y = plot.x(at), plot.y(at * bandwidth) - 8
        plot.text(x, y, f"reading: {bandwidth / 1e9:.0f} GB/s", "small", "middle", f' transform="rotate({-slope:.1f} {x:.1f} {y:.1f})"')
    marks = [plot.mark(kind, i, speed) for kind, i, speed, _ in all_points]
    labels = [(*at, p[3]) for at, p in zip(marks, all_points) if p[3]]
    for x, y, words, mark in place(labels, marks):
        if abs(y - 4 - mark[1]) > 2:  # not beside its mark: a line leads there
            plot.line(min(max(mark[0], x), x + 6.4 * len(words)), y + 3 if y < mark[1] else y - 11, *mark, "lead")
        plot.text(x, y, words, "small")
    x = WIDTH - RIGHT - 330
    for kind, words in (("f32", "product, fp32"), ("bf16", "product, bf16"), ("op", "other op, fp32")):
        i, speed = X[0], plot.y_range[0]
        before = len(plot.parts)
        plot.mark(kind, i, speed)
        mark = plot.parts.pop(before)
        plot.add(f'<g transform="translate({x - plot.x(i):.1f} {40 - plot.y(speed):.1f})">{mark}</g>')
        plot.text(x + 9, 44, words, "small")
        x += 112
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">\n'
            f'<style>{STYLE}</style>\n<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>\n' + "\n".join(plot.parts) + "\n</svg>\n")
