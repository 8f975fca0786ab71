#!/usr/bin/env python3
"""Makes weights.golden: what --neurons and --weights have to say, by numpy in float64 from the files,
with full D x D matrices where mi has those of a head.

    python3 tests/golden/make_weights.py        (needs what make_readouts.py needs)

A line: MODEL TABLE ROW COL VALUE TOKEN, of tables of --tsv; compared by tests/test_weights.sh. TOKEN
is "" for numbers alone, and where a model's tokens have no letter (odd7's are those of bytes). The
first of each model is MODEL tokens IDS, its prompt.
Composition is asked of TransformerLens in compatibility mode, too, and neurons of its
stack_neuron_results(); both have to say the same.
"""
import os
import tempfile
import numpy as np
import torch
from transformer_lens.model_bridge import TransformerBridge
import make_readouts as readouts

HERE = os.path.dirname(os.path.abspath(__file__))
CASES = [                                   # model, file, tokens, answer, versus, heads, neurons
    ("odd7", None, [32, 33, 34, 32, 33, 35, 40], 36, 37, [(0, 1), (2, 0), (1, 2)], [(1, 3), (2, 17)]),
    ("half12", None, [3, 1, 4, 1, 5, 9], 2, None, [(1, 1), (0, 0)], [(0, 5)]),
    ("tiny", "../../tiny.safetensors",
     [2215, 5335, 290, 1757, 1816, 284, 262, 3650, 11, 1757, 2921, 257, 4144, 284], 5335, 1757,
     [(5, 3), (4, 1), (1, 0)], [(5, 366), (0, 3), (4, 100)]),
]


def weights(model):
    t, H = model.transformer, model.config.n_head
    out = []
    for b in t.h:
        W, c = b.attn.c_attn.weight.detach().numpy(), b.attn.c_attn.bias.detach().numpy()
        D = W.shape[0]
        W = [W[:, i * D:(i + 1) * D].reshape(D, H, D // H).transpose(1, 0, 2) for i in range(3)]
        c = [c[i * D:(i + 1) * D].reshape(H, D // H) for i in range(3)]
        O = b.attn.c_proj.weight.detach().numpy().reshape(H, D // H, D)
        out.append((W, c, O, b.ln_1, b.ln_2, b.mlp))
    return out


def norm(x, ln):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + ln.eps) * ln.weight.detach().numpy() + ln.bias.detach().numpy()


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))


def spoken(model, o):
    gamma = model.transformer.ln_f.weight.detach().numpy()
    return ((o - o.mean(-1, keepdims=True)) * gamma) @ model.lm_head.weight.detach().numpy().T


def place(logits, token):
    return 1 + int((logits > logits[token]).sum())


def compositions(ws, later, H):
    """kind -> {(l1, h1): score} of one later head"""
    l2, h2 = later
    met = lambda l: [w * ws[l][3].weight.detach().numpy()[None, :, None] for w in ws[l][0]]
    flat = lambda m: m - m.mean(1, keepdims=True)
    read = [flat(m) for m in met(l2)]
    O = lambda l: ws[l][2] - ws[l][2].mean(-1, keepdims=True)
    R = [read[0][h2] @ read[1][h2].T, read[1][h2] @ read[0][h2].T, read[2][h2] @ O(l2)[h2]]
    out = [{}, {}, {}]
    for l1 in range(l2):
        V = flat(met(l1)[2])
        for h1 in range(H):
            L = V[h1] @ O(l1)[h1]
            for kind in range(3):
                out[kind][l1, h1] = np.linalg.norm(L @ R[kind]) / np.linalg.norm(L) / np.linalg.norm(R[kind])
    return out


def check_tl(model):
    """composition scores, and the bridge itself"""
    with tempfile.TemporaryDirectory() as folder:
        model.float().save_pretrained(folder)
        bridge = TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)
        bridge.enable_compatibility_mode(disable_warnings=True)
        return [bridge.all_composition_scores(kind) for kind in "QKV"], bridge


def main():
    lines = []
    for name, file, tokens, answer, versus, heads, neurons in CASES:
        model, H, ids = readouts.load(os.path.join(HERE, file or name + ".safetensors"))
        rows = tokens if ids is None else [list(ids.tolist()).index(t) for t in tokens]
        row_of = (lambda t: t) if ids is None else (lambda t: list(ids.tolist()).index(t))
        ws, t = weights(model), model.transformer
        wte = t.wte.weight.detach().numpy()
        out = lambda table, row, col, value, token="": lines.append(
            "\t".join([name, table, row, col, "%.8g" % value, token]))
        lines.append("\t".join([name, "tokens", " ".join(map(str, tokens))]))
        letter = lambda v: chr(33 + v) if name == "odd7" and v > 1 else ""

        def spoken_out(table, row, logits):         # the first four, and the last two
            order = np.argsort(-logits)
            for i, col in [(0, "+1"), (1, "+2"), (2, "+3"), (3, "+4"), (-1, "-1"), (-2, "-2")]:
                out(table, row, col, logits[order[i]], letter(order[i]))

        scores, bridge = check_tl(model)
        _, tl_cache = bridge.run_with_cache(torch.tensor([rows]))
        tl_u = bridge.W_U[:, row_of(answer)] - (bridge.W_U[:, row_of(versus)] if versus is not None else 0)
        stack = tl_cache.stack_neuron_results(-1, pos_slice=-1, apply_ln=True)
        tl_parts = (stack[:, 0] @ tl_u).detach().numpy()
        model = model.double()
        with torch.no_grad():
            cache = model(torch.tensor([rows]), output_hidden_states=True).hidden_states
        cache = [h[0].numpy() for h in cache]
        # neurons
        last = len(tokens) - 1
        raw = {}
        hooks = [b.mlp.act.register_forward_hook(lambda m, i, o, l=l: raw.__setitem__(l, o[0].numpy()))
                 for l, b in enumerate(t.h)]
        final = []
        hooks.append(t.ln_f.register_forward_pre_hook(lambda m, i: final.append(i[0][0].numpy())))
        with torch.no_grad():
            model(torch.tensor([rows]))
        [h.remove() for h in hooks]
        end = final[0][last]
        sigma = np.sqrt(end.var() + t.ln_f.eps)
        W_U = model.lm_head.weight.detach().numpy()
        u = W_U[row_of(answer)] - (W_U[row_of(versus)] if versus is not None else W_U.mean(0))
        for l, n in neurons:
            value = t.h[l].mlp.c_proj.weight.detach().numpy()[n]
            a = raw[l][last, n]
            g = t.ln_f.weight.detach().numpy() * u
            out("neurons", f"L{l}N{n}", "base", a * (value - value.mean()) @ g / sigma)
            out("neuron active", f"L{l}N{n}", "base", a)
            F = raw[l].shape[1]
            assert abs(tl_parts[l * F + n] - a * (value - value.mean()) @ g / sigma) < 1e-5, (name, l, n)
            for p in range(len(rows)):
                out("neuron activations", f"L{l}N{n}", str(p), raw[l][p, n])
            spoken_out("neuron values", f"L{l}N{n}", spoken(model, value))
            key = t.h[l].mlp.c_fc.weight.detach().numpy()[:, n] * ws[l][4].weight.detach().numpy()
            spoken_out("neuron keys", f"L{l}N{n}", wte @ (key - key.mean()))
        # heads alone
        raw_e = wte[rows]
        mlp = ws[0][5]
        pre = norm(raw_e, ws[0][4]) @ mlp.c_fc.weight.detach().numpy() + mlp.c_fc.bias.detach().numpy()
        effective = raw_e + gelu(pre) @ mlp.c_proj.weight.detach().numpy() + mlp.c_proj.bias.detach().numpy()
        for l, h in heads:
            (W, c, O, ln1, _, _) = ws[l]
            for col, e in (("through MLP 0", effective), ("raw", raw_e)):
                o = (norm(e, ln1) @ W[2][h] + c[2][h]) @ O[h]
                logits = spoken(model, o)
                for p in range(len(rows)):
                    out(f"ov rank L{l}H{h}", str(p), col, place(logits[p], rows[p]))
                    spoken_out(f"ov{' raw' * (col == 'raw')} L{l}H{h}", str(p), logits[p])
                x = norm(e, ln1)
                qk = (x @ W[0][h] + c[0][h]) @ (x @ W[1][h]).T / np.sqrt(W[0].shape[2])
                for p in range(len(rows)):
                    for j in range(len(rows)):
                        out(f"qk{' raw' * (col == 'raw')} L{l}H{h}", str(p), str(j), qk[p, j])
        # copy scores
        everyone = []
        for l in range(len(ws)):
            for h in range(H):
                x = norm(cache[1], ws[min(1, len(ws) - 1)][3])
                o = (x @ ws[l][0][2][h] + ws[l][1][2][h]) @ ws[l][2][h]
                score = []
                for sign in (1, -1):
                    logits = norm(sign * o, t.ln_f) @ W_U.T
                    score.append(np.mean([place(logits[p], rows[p]) <= 5 for p in range(len(rows))]))
                everyone.append(score)
                if (l, h) in heads:
                    out("copy score", f"L{l}H{h}", "copies", score[0])
                    out("copy score", f"L{l}H{h}", "negative", score[1])
        for i, col in enumerate(("copies", "negative")):
            out("copy score", f"all {len(everyone)} heads", col, np.mean([e[i] for e in everyone]))
        # composition, all heads as columns
        ours = {later: compositions(ws, later, H) for later in heads if later[0]}
        for later, kinds in ours.items():
            for kind in range(3):
                for (l1, h1), score in kinds[kind].items():
                    tl = scores[kind][l1, h1, later[0], later[1]].item()
                    assert abs(tl - score) < 1e-6, (name, later, "QKV"[kind], l1, h1, tl, score)
                    out(f"{'QKV'[kind]} composition", f"L{l1}H{h1}", f"L{later[0]}H{later[1]}", score)
    with open(os.path.join(HERE, "weights.golden"), "w") as f:
        f.write("\n".join(lines) + "\n")
    print(len(lines), "lines")


if __name__ == "__main__":
    main()
