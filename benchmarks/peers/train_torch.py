#!/usr/bin/env python3
"""A whole training step in PyTorch, compiled (torch.compile), for the same model and batch as weft's: bf16 autocast over fp32
weights, scaled_dot_product_attention, fused AdamW, random tokens. Prints one JSON object.
Usage: train_torch.py '{"family": "gpt2", "layers": 12, "hidden": 768, ...}'   (scripts/gpu-check gives the model)"""
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

WARM, STEPS = 8, 20


class RMSNorm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Block(nn.Module):
    def __init__(self, o):
        super().__init__()
        h, self.heads, self.kv = o["hidden"], o["heads"], o["kv_heads"]
        self.d, self.llama = h // o["heads"], o["family"] == "llama"
        norm = RMSNorm if self.llama else nn.LayerNorm
        self.norm1, self.norm2 = norm(h), norm(h)
        bias = not self.llama
        self.qkv = nn.Linear(h, h + 2 * self.kv * self.d, bias=bias)
        self.out = nn.Linear(h, h, bias=bias)
        self.up = nn.Linear(h, o["ffn"] * (2 if self.llama else 1), bias=bias)
        self.down = nn.Linear(o["ffn"], h, bias=bias)

    def forward(self, x, cos, sin):
        b, t, h = x.shape
        q, k, v = self.qkv(self.norm1(x)).split((h, self.kv * self.d, self.kv * self.d), -1)
        q = q.view(b, t, self.heads, self.d).transpose(1, 2)
        k, v = (w.view(b, t, self.kv, self.d).transpose(1, 2) for w in (k, v))
        if self.llama:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.kv != self.heads)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, h))
        u = self.up(self.norm2(x))
        if self.llama:
            g, u = u.chunk(2, -1)
            return x + self.down(F.silu(g) * u)
        return x + self.down(F.gelu(u, approximate="tanh"))


class Model(nn.Module):
    def __init__(self, o):
        super().__init__()
        h, self.llama = o["hidden"], o["family"] == "llama"
        self.tokens = nn.Embedding(o["vocab"], h)
        self.places = None if self.llama else nn.Embedding(o["context"], h)
        self.blocks = nn.ModuleList(Block(o) for _ in range(o["layers"]))
        self.norm = RMSNorm(h) if self.llama else nn.LayerNorm(h)
        d = h // o["heads"]
        angle = torch.outer(torch.arange(o["context"]), 10000.0 ** (-torch.arange(0, d, 2) / d))
        self.register_buffer("cos", angle.cos().to(torch.bfloat16), persistent=False)
        self.register_buffer("sin", angle.sin().to(torch.bfloat16), persistent=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids, targets):
        x = self.tokens(ids)
        if self.places is not None:
            x = x + self.places.weight[: ids.shape[1]]
        for b in self.blocks:
            x = b(x, self.cos, self.sin)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def main():
    o = json.loads(sys.argv[1])
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    model = Model(o).cuda()
    run = torch.compile(model)
    optim = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, fused=True)
    micro, times = o["micro"], []
    data = torch.randint(o["vocab"], (o["batch"], o["context"] + 1), device="cuda")
    for step in range(WARM + STEPS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for i in range(0, o["batch"], micro):
            part = data[i:i + micro]
            with torch.autocast("cuda", torch.bfloat16):
                loss = run(part[:, :-1], part[:, 1:])
            (loss * micro / o["batch"]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        optim.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        if step >= WARM:
            times.append(time.perf_counter() - began)
    seconds = statistics.median(times)
    print(json.dumps({"peer": "torch.compile", "torch": torch.__version__, "seconds": seconds,
                      "tokens_per_s": o["batch"] * o["context"] / seconds, "loss": float(loss)}))


if __name__ == "__main__":
    main()
