"""convert_live.py FAMILY: FAMILY-{f32,f16,bf16}.gguf and FAMILY-shards against FAMILY-hf, by other programs' readers.
Each check runs where its library is installed, and says so."""
import importlib.util
import json
import os
import shutil
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
family = sys.argv[1]
PROMPT = "In 1234567 days, he'll   come!\n  \nAnd GOD's; (won't) über $%&  x"  # splits and merges of every kind


def have(*names):
    missing = [n for n in names if importlib.util.find_spec(n) is None]
    if missing:
        print(f"{family}: not checked, no {', '.join(missing)}")
    return not missing


def log_probs(model, ids):
    import torch
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)


def load(directory):
    import torch
    import transformers
    torch.set_num_threads(1)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, local_files_only=True, torch_dtype=torch.float32, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], (directory, kind, info[kind])
    return model.eval()


def tokenize():
    import tokenizers
    return tokenizers.Tokenizer.from_file(f"{family}-hf/tokenizer.json").encode(PROMPT, add_special_tokens=False).ids


def check_shards():
    """transformers takes the shards in half precision; the logits are those of the whole in f32, within rounding."""
    assert not os.path.exists(f"{family}-shards/model.safetensors")
    ids = tokenize()
    off = (log_probs(load(f"{family}-shards"), ids) - log_probs(load(f"{family}-hf"), ids)).abs().max().item()
    assert 0 < off < 2e-2, off
    print(f"{family}: transformers, f16 shards against f32: log-probabilities within {off:.1e}")


def check_gguf():
    """The gguf library's arrays are weft's, with rotary rows in pairs; the tokenizer is whole."""
    import gguf
    import numpy as np
    from safetensors.numpy import load_file
    want = load_file(f"{family}-hf/model.safetensors")
    vocab = json.load(open(f"{family}-hf/tokenizer.json"))["model"]
    for t in ("f32", "f16", "bf16"):
        r = gguf.GGUFReader(f"{family}-{t}.gguf")
        arrays = {x.name: x for x in r.tensors}
        for name, x in arrays.items():
            a = gguf.quants.dequantize(x.data, x.tensor_type)
            b = expected(want, name)
            assert a.shape == b.shape, (name, a.shape, b.shape)
            bound = {"f32": 0, "f16": 2.0**-11, "bf16": 2.0**-8}[t]
            assert np.all(np.abs(a - b) <= bound * np.abs(b) + (6e-8 if bound else 0)), (t, name)
        tokens = [bytes(r.fields["tokenizer.ggml.tokens"].parts[i]).decode() for i in r.fields["tokenizer.ggml.tokens"].data]
        merges = [bytes(r.fields["tokenizer.ggml.merges"].parts[i]).decode() for i in r.fields["tokenizer.ggml.merges"].data]
        assert all(tokens[i] == text for text, i in vocab["vocab"].items())
        assert merges == [m if isinstance(m, str) else " ".join(m) for m in vocab["merges"]]
    print(f"{family}: gguf {len(arrays)} tensors and {len(tokens)} tokens in three types")


def expected(want, name):
    import numpy as np
    if family == "gpt2":
        names = {"token_embd": "wte", "position_embd": "wpe", "output_norm": "ln_f", "attn_norm": "ln_1", "ffn_norm": "ln_2",
                 "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
    else:
        names = {"token_embd": "embed_tokens", "output_norm": "norm", "attn_norm": "input_layernorm",
                 "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
                 "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
                 "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    prefix = "transformer." if family == "gpt2" else "model."
    part = name.split(".")
    if part[0] == "output":
        return want["lm_head.weight"]
    if part[0] == "blk":
        prefix += f"{'h' if family == 'gpt2' else 'layers'}.{part[1]}."
    a = want[prefix + names[part[-2]] + "." + part[-1]]
    if family == "gpt2" and part[-2] in ("attn_qkv", "attn_output", "ffn_up", "ffn_down") and part[-1] == "weight":
        return a.T
    if part[-2] in ("attn_q", "attn_k"):
        heads = 2
        return np.ascontiguousarray(a.reshape(heads, 2, a.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(a.shape))
    return a


def ask_llama_cpp(path):
    """(id, {id: log-probability}) of 40 greedy steps behind the prompt."""
    import xllamacpp
    p = xllamacpp.CommonParams()
    p.model.path, p.n_ctx, p.n_parallel, p.warmup = path, 128, 1, False
    p.cpuparams.n_threads = 1
    r = xllamacpp.Server(p).handle_completions({"prompt": PROMPT, "temperature": 0, "n_probs": 3, "max_tokens": 40})
    r = json.loads(r) if isinstance(r, str) else r
    return [(e["id"], {t["id"]: t["logprob"] for t in e["top_logprobs"]}) for e in r["choices"][0]["logprobs"]["content"]]


def distance(model, steps):
    ids, worst = tokenize(), 0
    first = len(ids) - 1
    p = log_probs(model, ids + [s[0] for s in steps])
    for i, (_, top) in enumerate(steps):
        worst = max([worst] + [abs(p[first + i, k].item() - v) for k, v in top.items()])
    return worst


def check_llama_cpp():
    """llama.cpp tokenizes the prompt and predicts as transformers does with the same model. (Its cache is f16.)"""
    import gguf
    model = load(f"{family}-hf")
    for t, bound in (("f32", 5e-3), ("f16", 5e-3), ("bf16", 2e-2)):
        steps = ask_llama_cpp(f"{family}-{t}.gguf")
        d = distance(model, steps)
        assert len(steps) == 40 and d < bound, (t, len(steps), d)
        print(f"{family}: llama.cpp {t}, 40 steps: log-probabilities within {d:.1e}")
    # control: rotary rows as HuggingFace has them, or q|k|v in another order, are another model
    shutil.copyfile(f"{family}-f32.gguf", "wrong.gguf")
    name = "blk.0.attn_q.weight" if family == "llama" else "blk.0.attn_qkv.weight"
    r = gguf.GGUFReader("wrong.gguf", "r+")
    a = next(x for x in r.tensors if x.name == name).data
    a[:] = (a.reshape(2, a.shape[0] // 4, 2, -1).swapaxes(1, 2) if family == "llama" else a[::-1]).reshape(a.shape).copy()
    r.data.flush()
    d = distance(model, ask_llama_cpp("wrong.gguf"))
    assert d > 5e-2, d
    print(f"{family}: control: {name} in another order is off by {d:.1e}")


if have("transformers", "torch", "tokenizers"):
    check_shards()
if have("gguf", "safetensors"):
    check_gguf()
if have("xllamacpp", "transformers", "torch", "gguf"):
    check_llama_cpp()
