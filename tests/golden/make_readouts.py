#!/usr/bin/env python3
"""Makes readouts.golden: what --dla and --edges have to say, from Hugging Face's GPT-2 in float64.

    pip install torch numpy safetensors transformers transformer_lens
    python3 tests/golden/make_readouts.py

The parts of the final residual stream are read by hooks of torch, not of mi; the constant of the
values is folded as TransformerLens does. A line: MODEL TOKENS ANSWER VERSUS PART FROZEN EXACT
(ids of GPT-2, versus - for none), compared by tests/test_readouts.sh. Parts are writers, whole
attention layers, one neuron in STEP, and heads by source (L2H1@3). TransformerLens in compatibility
mode is asked for layers, heads and neurons too, and has to say the same.

lens.golden: the lens by depth at the last position, of each case. A line: MODEL TOKENS ANSWER VERSUS
POINT COLUMN VALUE, of the columns of table depth (top: the probability of the likeliest token).

heads.golden: on the random tokens of --heads N, what zero ablation of each head adds to the mean
loss of tokens N+1 ... 2N-1. A line: MODEL N HEAD RISE.

edges.golden: every edge of the graph of EAP. The forward pass here takes a difference for the input
of each reader; without any it is checked against Hugging Face's. A line: EDGE CHANGE, of the logit
difference of EDGES, when the reader reads what the writer would have written on the source.
"""
import os
import tempfile
import numpy as np
import torch
from safetensors.torch import load_file
from safetensors import safe_open
from transformers import GPT2Config, GPT2LMHeadModel

HERE = os.path.dirname(os.path.abspath(__file__))
CASES = [
    ("odd7", None, [32, 33, 34, 32, 33, 35, 40], 36, 37),
    ("odd7", None, [10, 20, 30], 5, None),
    ("half12", None, [3, 1, 4, 1, 5, 9], 2, 6),
    ("tiny", "../../tiny.safetensors",
     [2215, 5335, 290, 1757, 1816, 284, 262, 3650, 11, 1757, 2921, 257, 4144, 284], 5335, 1757),
    ("tiny", "../../tiny.safetensors", [464, 412, 733, 417, 8765, 318, 287, 262, 1748, 286], 6342, None),
]

STEP = 40           # of neurons, one in so many

EDGES = ("odd7", [32, 33, 34, 32, 33, 35, 40], [32, 33, 34, 33, 32, 35, 41], 36, 37)

HEADS = [("odd7", None, 12), ("half12", None, 7), ("tiny", "../../tiny.safetensors", 20)]


def load(path):
    tensors = {k.removeprefix("transformer."): v for k, v in load_file(path).items()}
    with safe_open(path, "pt") as f:
        heads = int(f.metadata()["n_head"])
    ids = tensors.pop("vocab_ids", None)
    V, D = tensors["wte.weight"].shape
    L = 1 + max(int(k.split(".")[1]) for k in tensors if k.startswith("h."))
    config = GPT2Config(vocab_size=V, n_embd=D, n_layer=L, n_head=heads,
                        n_positions=tensors["wpe.weight"].shape[0], bos_token_id=None,
                        eos_token_id=None, attn_implementation="eager")
    model = GPT2LMHeadModel(config).double().eval()
    head = tensors.pop("lm_head.weight", tensors["wte.weight"])
    tensors = {k: v.double() for k, v in tensors.items() if not k.endswith((".attn.bias", "masked_bias"))}
    missing = model.transformer.load_state_dict(tensors, strict=False)
    assert not missing.unexpected_keys, missing
    model.lm_head.weight = torch.nn.Parameter(head.double())
    return model, heads, ids


def run(model, rows):
    """what torch saw on the way: {(name, layer): [T,...]}, the end of the stream, logits"""
    kept, hooks = {}, []

    def keep(name, module, of):
        hook = module.register_forward_hook(
            lambda m, x, y: kept.__setitem__(name, (x[0] if of == "in" else y)[0].detach()))
        hooks.append(hook)

    for l, block in enumerate(model.transformer.h):
        keep(("qkv", l), block.attn.c_attn, "out")
        keep(("z", l), block.attn.c_proj, "in")
        keep(("attn", l), block.attn.c_proj, "out")
        keep(("neurons", l), block.mlp.c_proj, "in")
        keep(("mlp", l), block.mlp, "out")
    keep("end", model.transformer.ln_f, "in")
    with torch.no_grad():
        out = model(torch.tensor([rows]), output_attentions=True)
    for hook in hooks:
        hook.remove()
    for l, pattern in enumerate(out.attentions):
        kept["pattern", l] = pattern[0]
    return kept, kept["end"][-1], out.logits[0, -1]


def parts_of(model, heads, rows):
    """{part: vector at the last position}, the end of the stream, logits"""
    kept, end, logits = run(model, rows)
    t = model.transformer
    parts = {"embed": t.wte.weight[rows[-1]], "pos_embed": t.wpe.weight[len(rows) - 1]}
    for l, block in enumerate(t.h):
        D = block.attn.c_proj.weight.shape[0]
        d = D // heads
        W_V, b_V = block.attn.c_attn.weight[:, 2 * D:], block.attn.c_attn.bias[2 * D:]
        constant = b_V + block.ln_1.bias @ W_V
        W_O = block.attn.c_proj.weight
        z = kept["z", l][-1] - constant
        v = kept["qkv", l][:, 2 * D:] - constant
        for h in range(heads):
            of_h = slice(h * d, (h + 1) * d)
            parts[f"L{l}H{h}"] = z[of_h] @ W_O[of_h]
            for j in range(len(rows)):
                parts[f"L{l}H{h}@{j}"] = kept["pattern", l][h, -1, j] * (v[j, of_h] @ W_O[of_h])
        parts[f"L{l} biases"] = block.attn.c_proj.bias + constant @ W_O
        parts[f"L{l}.attn_out"] = kept["attn", l][-1]
        parts[f"L{l}.mlp_out"] = kept["mlp", l][-1]
        for n, a in enumerate(kept["neurons", l][-1]):
            parts[f"L{l}N{n}"] = a * block.mlp.c_proj.weight[n]
        parts[f"L{l}.b_out"] = block.mlp.c_proj.bias
    return {k: v.detach() for k, v in parts.items()}, end, logits


def by_transformer_lens(model, rows, answer, versus):
    """{part: its attribution}, of layers, heads and neurons"""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.tools.analysis import direct_logit_attribution
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        lens = TransformerBridge.boot_transformers(folder)
        lens.enable_compatibility_mode()
        said = {}
        with torch.no_grad():
            _, cache = lens.run_with_cache(torch.tensor([rows]))
            for unit in "component", "head":
                found = direct_logit_attribution(
                    lens, torch.tensor([rows]), answer_tokens=torch.tensor([answer]), unit=unit,
                    incorrect_tokens=None if versus is None else torch.tensor([versus]))
                for label, value in zip(found.labels, found.attribution[:, 0]):
                    layer, _, name = label.partition("_")
                    said[f"L{layer}.{name}" if layer.isdigit() else label] = value.item()
            u = lens.W_U[:, answer] - (0 if versus is None else lens.W_U[:, versus])
            neurons = cache.stack_neuron_results(-1, pos_slice=-1, apply_ln=True)[:, 0] @ u
        F = len(neurons) // len(model.transformer.h)
        said.update({f"L{i // F}N{i % F}": value.item() for i, value in enumerate(neurons)})
        del said["remainder"]
        return said


def forward(model, heads, rows, deltas):
    """{writer: what it wrote [T,D]}, logits; deltas {reader: [T,D]} are added to what it reads, and
    one of "input" to the embeddings"""
    t = model.transformer
    T, D = len(rows), t.wte.weight.shape[1]
    d = D // heads
    mask = torch.triu(torch.full((T, T), -torch.inf, dtype=torch.float64), 1)
    written = {"input": t.wte.weight[rows] + t.wpe.weight[:T] + deltas.get("input", 0)}
    x = written["input"]

    def read(name, ln, x):
        return ln(x + deltas[name]) if name in deltas else ln(x)

    for l, block in enumerate(t.h):
        W, b = block.attn.c_attn.weight, block.attn.c_attn.bias
        out = block.attn.c_proj.bias.expand(T, D)
        for h in range(heads):
            q, k, v = (read(f"a{l}.h{h}<{name}>", block.ln_1, x)
                       @ W[:, i * D + h * d:i * D + (h + 1) * d] + b[i * D + h * d:i * D + (h + 1) * d]
                       for i, name in enumerate("qkv"))
            z = torch.softmax(q @ k.T / d ** 0.5 + mask, -1) @ v
            written[f"a{l}.h{h}"] = z @ block.attn.c_proj.weight[h * d:(h + 1) * d]
            out = out + written[f"a{l}.h{h}"]
        x = x + out
        written[f"m{l}"] = block.mlp(read(f"m{l}", block.ln_2, x))
        x = x + written[f"m{l}"]
    return written, read("logits", t.ln_f, x) @ model.lm_head.weight.T


def edges():
    name, ids, source, answer, versus = EDGES
    model, heads, _ = load(os.path.join(HERE, f"{name}.safetensors"))
    L, lines = len(model.transformer.h), []
    with torch.no_grad():
        base, logits = forward(model, heads, ids, {})
        assert (logits - model(torch.tensor([ids])).logits[0]).abs().max() < 1e-9
        other, _ = forward(model, heads, source, {})

        def said(logits):
            return (logits[-1, answer] - logits[-1, versus]).item()

        for u, writer in enumerate(base):
            l, h = divmod(u - 1, heads + 1)
            after = 0 if u == 0 else 2 * l + 1 + (h == heads)
            readers = [(2 * k, f"a{k}.h{i}<{n}>") for k in range(L) for n in "qkv" for i in range(heads)]
            readers += [(2 * k + 1, f"m{k}") for k in range(L)] + [(2 * L, "logits")]
            for half, reader in readers:
                if half >= after:
                    _, changed = forward(model, heads, ids, {reader: other[writer] - base[writer]})
                    lines.append(f"{writer}->{reader}\t{said(changed) - said(logits):.7g}")
    with open(os.path.join(HERE, "edges.golden"), "w") as f:
        f.write("\n".join(lines) + "\n")
    print(len(lines), "edges")


def mix(x):
    """splitmix64's mixer"""
    x = (x + 0x9E3779B97F4A7C15) % 2 ** 64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2 ** 64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2 ** 64
    return x ^ x >> 31


def heads_that_matter():
    lines = []
    for name, path, n in HEADS:
        model, heads, _ = load(os.path.join(HERE, path or f"{name}.safetensors"))
        tokens = 2 * [mix(mix(0) ^ i << 8) % model.config.vocab_size for i in range(n)]
        d = model.config.n_embd // heads

        def loss():
            with torch.no_grad():
                logits = model(torch.tensor([tokens])).logits[0]
            return torch.nn.functional.cross_entropy(logits[n:-1], torch.tensor(tokens[n + 1:])).item()

        base = loss()
        for l, block in enumerate(model.transformer.h):
            for h in range(heads):
                def ablate(module, x, h=h):
                    z = x[0].clone()
                    z[..., h * d:(h + 1) * d] = 0
                    return (z,)
                hook = block.attn.c_proj.register_forward_pre_hook(ablate)
                lines.append(f"{name}\t{n}\tL{l}H{h}\t{loss() - base:.7g}")
                hook.remove()
    with open(os.path.join(HERE, "heads.golden"), "w") as f:
        f.write("\n".join(lines) + "\n")


def lens(model, name, ids, rows, answer, versus, row):
    """lines of what every point of the stream says at the last position"""
    points, hooks = [], []
    for block in model.transformer.h:
        for module in (block, block.ln_2):          # what they read: resid_pre, resid_mid
            hooks.append(module.register_forward_pre_hook(
                lambda m, x: points.append(x[0][0, -1].detach())))
    with torch.no_grad():
        end = model(torch.tensor([rows])).logits[0, -1].log_softmax(-1)
        names = [f"L{i // 2}.resid_{'mid' if i % 2 else 'pre'}" for i in range(len(points))]
        names.append(f"L{len(points) // 2 - 1}.resid_post")
        said = [model.lm_head(model.transformer.ln_f(x)).log_softmax(-1) for x in points] + [end]
    for hook in hooks:
        hook.remove()
    lines, a = [], row(answer)
    for point, log_p in zip(names, said):
        p = log_p.exp()
        values = {"prob": p[a], "rank": 1 + (log_p > log_p[a]).sum(), "top": p.max(),
                  "entropy": torch.distributions.Categorical(logits=log_p).entropy(),
                  "kl": torch.nn.functional.kl_div(log_p, end, log_target=True, reduction="sum")}
        if versus is not None:
            values["logit_diff"] = log_p[a] - log_p[row(versus)]
        for column, value in values.items():
            lines.append("\t".join([name, " ".join(map(str, ids)), str(answer),
                                    str(versus or "-"), point, column, f"{value.item():.7g}"]))
    return lines


def main():
    edges()
    heads_that_matter()
    lines, lens_lines = [], []
    for name, path, ids, answer, versus in CASES:
        model, heads, vocab = load(os.path.join(HERE, path or f"{name}.safetensors"))
        row = (lambda i: i) if vocab is None else (lambda i: vocab.tolist().index(i))
        parts, end, logits = parts_of(model, heads, [row(i) for i in ids])
        W_U = model.lm_head.weight.detach()
        other = W_U.mean(0) if versus is None else W_U[row(versus)]
        u = W_U[row(answer)] - other
        lens_lines += lens(model, name, ids, [row(i) for i in ids], answer, versus, row)
        ln = model.transformer.ln_f

        def said(x):
            return (ln(x) @ u).item()

        sigma = torch.sqrt(((end - end.mean()) ** 2).mean() + ln.eps)
        frozen = {part: ((c - c.mean()) / sigma * ln.weight @ u).item() for part, c in parts.items()}

        def total(*kinds):                  # of the parts whose names have one of these
            return sum(v for part, v in frozen.items()
                       if any(part.endswith(k) for k in ("embed", *kinds)))

        for part, value in by_transformer_lens(model.float(), [row(i) for i in ids], row(answer),
                                               None if versus is None else row(versus)).items():
            assert abs(value - frozen[part]) < 5e-5 * (1 + abs(value)), (part, value, frozen[part])
        model.double()
        for part, c in parts.items():
            exact = said(end) - said(end - c)
            if "N" in part and int(part.split("N")[1]) % STEP:
                continue
            if "@" in part and part[1] < "4" and name == "tiny":
                continue
            lines.append("\t".join([name, " ".join(map(str, ids)), str(answer), str(versus or "-"),
                                    part, f"{frozen[part]:.7g}", f"{exact:.7g}"]))
        assert abs(total(".attn_out", ".mlp_out") + (ln.bias @ u).item() - said(end)) < 1e-9
        want = logits[row(answer)] - (logits.mean() if versus is None else logits[row(versus)])
        assert abs(said(end) - want.item()) < 1e-9
    with open(os.path.join(HERE, "readouts.golden"), "w") as f:
        f.write("\n".join(lines) + "\n")
    with open(os.path.join(HERE, "lens.golden"), "w") as f:
        f.write("\n".join(lens_lines) + "\n")
    print(len(lines), "lines")


if __name__ == "__main__":
    main()
