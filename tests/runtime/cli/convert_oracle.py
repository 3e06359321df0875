"""convert_oracle.py FILE EXPECTED: the logits that llm.c (GPT-2) or llama2.c (version 0) would compute from FILE, written down
here token by token from what those programs do with their files, against the logits that transformers computed from the
original model (input_ids and logits in the safetensors file EXPECTED). Prints the largest difference."""
import json
import math
import struct
import sys

raw = open(sys.argv[1], "rb").read()
at = 0


def floats(n):
    global at
    v = struct.unpack_from(f"<{n}f", raw, at)
    at += 4 * n
    return v


def matrix(rows, cols):
    return [floats(cols) for _ in range(rows)]


def times(w, x):
    return [sum(a * b for a, b in zip(row, x)) for row in w]


def softmax(x):
    m = max(x)
    e = [math.exp(v - m) for v in x]
    return [v / sum(e) for v in e]


def attend(q, keys, values, heads, shared):
    """q [heads * d] over all keys so far; `shared` query heads use one key-value head."""
    d = len(q) // heads
    out = []
    for h in range(heads):
        k0 = h // shared * d
        s = softmax([sum(q[h * d + i] * k[k0 + i] for i in range(d)) / math.sqrt(d) for k in keys])
        out += [sum(p * v[k0 + i] for p, v in zip(s, values)) for i in range(d)]
    return out


def plus(*vs):
    return [sum(v) for v in zip(*vs)]


def llama2c():
    global at
    dim, hidden, layers, heads, kv_heads, vocab, context = struct.unpack_from("<7i", raw)
    at, d, tied, vocab = 28, dim // heads, vocab > 0, abs(vocab)
    embed = matrix(vocab, dim)
    per_layer = lambda rows, cols: [matrix(rows, cols) for _ in range(layers)]
    att_norm = matrix(layers, dim)
    wq, wk, wv = per_layer(dim, dim), per_layer(kv_heads * d, dim), per_layer(kv_heads * d, dim)
    wo, ffn_norm = per_layer(dim, dim), matrix(layers, dim)
    w1, w2, w3 = per_layer(hidden, dim), per_layer(dim, hidden), per_layer(hidden, dim)
    norm = floats(dim)
    at += 4 * context * d  # the tables that run.c skips
    head = embed if tied else matrix(vocab, dim)
    assert at == len(raw)

    def rms(x, w):
        s = 1 / math.sqrt(sum(v * v for v in x) / len(x) + 1e-5)
        return [v * s * g for v, g in zip(x, w)]

    def rotate(x, pos):  # pairs side by side
        y = list(x)
        for i in range(0, len(x), 2):
            a = pos / 10000 ** ((i % d) / d)
            y[i], y[i + 1] = x[i] * math.cos(a) - x[i + 1] * math.sin(a), x[i] * math.sin(a) + x[i + 1] * math.cos(a)
        return y

    def forward(ids):
        cache = [([], []) for _ in range(layers)]
        for pos, t in enumerate(ids):
            x = embed[t]
            for l in range(layers):
                n = rms(x, att_norm[l])
                cache[l][0].append(rotate(times(wk[l], n), pos))
                cache[l][1].append(times(wv[l], n))
                x = plus(x, times(wo[l], attend(rotate(times(wq[l], n), pos), *cache[l], heads, heads // kv_heads)))
                n = rms(x, ffn_norm[l])
                gate = [v / (1 + math.exp(-v)) for v in times(w1[l], n)]
                x = plus(x, times(w2[l], [a * b for a, b in zip(gate, times(w3[l], n))]))
            yield times(head, rms(x, norm))
    return forward


def llmc():
    global at
    magic, version, context, vocab, layers, heads, dim, padded = struct.unpack_from("<8i", raw)
    assert magic == 20240326 and version == 3
    at = 1024
    wte, wpe = matrix(padded, dim), matrix(context, dim)
    per_layer = lambda rows, cols: [matrix(rows, cols) for _ in range(layers)]
    ln1w, ln1b = matrix(layers, dim), matrix(layers, dim)
    qkvw, qkvb = per_layer(3 * dim, dim), matrix(layers, 3 * dim)
    projw, projb = per_layer(dim, dim), matrix(layers, dim)
    ln2w, ln2b = matrix(layers, dim), matrix(layers, dim)
    fcw, fcb = per_layer(4 * dim, dim), matrix(layers, 4 * dim)
    outw, outb = per_layer(dim, 4 * dim), matrix(layers, dim)
    lnfw, lnfb = floats(dim), floats(dim)
    assert at == len(raw)

    def layernorm(x, w, b):
        m = sum(x) / len(x)
        s = 1 / math.sqrt(sum((v - m) ** 2 for v in x) / len(x) + 1e-5)
        return [(v - m) * s * g + c for v, g, c in zip(x, w, b)]

    def gelu(v):
        return 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))

    def forward(ids):
        cache = [([], []) for _ in range(layers)]
        for pos, t in enumerate(ids):
            x = plus(wte[t], wpe[pos])
            for l in range(layers):
                qkv = plus(times(qkvw[l], layernorm(x, ln1w[l], ln1b[l])), qkvb[l])
                cache[l][0].append(qkv[dim:2 * dim])
                cache[l][1].append(qkv[2 * dim:])
                x = plus(x, times(projw[l], attend(qkv[:dim], *cache[l], heads, 1)), projb[l])
                h = [gelu(v) for v in plus(times(fcw[l], layernorm(x, ln2w[l], ln2b[l])), fcb[l])]
                x = plus(x, times(outw[l], h), outb[l])
            yield times(wte[:vocab], layernorm(x, lnfw, lnfb))
    return forward


def tensor(path, name):
    data = open(path, "rb").read()
    n = struct.unpack_from("<Q", data)[0]
    t = json.loads(data[8:8 + n])[name]
    lo, hi = (8 + n + o for o in t["data_offsets"])
    code = {"F32": "f", "I64": "q", "I32": "i"}[t["dtype"]]
    return t["shape"], struct.unpack(f"<{(hi - lo) // struct.calcsize('<' + code)}{code}", data[lo:hi])


(batch, length), ids = tensor(sys.argv[2], "input_ids")
shape, want = tensor(sys.argv[2], "logits")
run = llmc() if raw[:4] == struct.pack("<i", 20240326) else llama2c()
worst = 0
for b in range(batch):
    for t, logits in enumerate(run(ids[b * length:(b + 1) * length])):
        row = (b * length + t) * shape[2]
        worst = max([worst] + [abs(x - y) for x, y in zip(logits, want[row:row + shape[2]])])
print(worst)
