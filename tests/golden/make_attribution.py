#!/usr/bin/env python3
"""Makes attribution.golden: attribution patching and EAP by PyTorch's autograd, in float64.

    pip install torch numpy safetensors transformers transformer_lens==4.3.0
    python3 tests/golden/make_attribution.py

The forward pass of make_readouts.py takes a difference for the input of each reader; its gradient at
0 is that of what the reader reads. transformer_lens says the same of all nodes and edges, or this
fails. Compared by tests/test_readouts.sh. A line: MODEL STEPS KIND NAME VALUE; STEPS as in --steps, 0
for none; KIND is node (a head, an MLP, the input), edge, or anew: q or k of a head with its pattern
computed anew (AtP*). Lines "case" have what is typed: prompt, source, answer, versus.
"""
import os
import sys
import tempfile

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from make_readouts import load, forward             # noqa: E402
from make_gradient import caught                    # noqa: E402

IOI = [2215, 5335, 290, 1757, 1816, 284, 262, 3650, 11, 1757, 2921, 257, 4144, 284]
CASES = [                                           # model, prompt, source, answer, versus
    ("odd7", [32, 33, 34, 32, 33, 35, 40], [32, 33, 34, 33, 32, 35, 41], 36, 37),
    ("brain11", [1, 4, 2, 8, 5, 7, 1, 3], [1, 2, 4, 8, 5, 1, 7, 3], 2, 5),
    ("tiny", IOI, [5335 if i == 9 else token for i, token in enumerate(IOI)], 5335, 1757),
]
SIDES = {"": 0.5, "left": 0, "right": 1}


def half_after(writer, H):
    """The half-layer after which a writer can be read, and in which a reader reads."""
    if writer == "input":
        return 0
    layer = int(writer[1:].split(".")[0])
    return 2 * layer + 1 if writer[0] == "a" else 2 * layer + 2


def half_of(reader, L):
    if reader == "logits":
        return 2 * L
    return 2 * int(reader[1:].split(".")[0]) + (reader[0] == "m")


def slopes(model, H, L, ids, shift, answer, versus):
    """{reader: d metric / d what it reads [T,D]}, with shift added to the embeddings"""
    readers = [f"a{l}.h{h}<{n}>" for l in range(L) for n in "qkv" for h in range(H)]
    readers += [f"m{l}" for l in range(L)] + ["logits"]
    deltas = {r: torch.zeros_like(shift, requires_grad=True) for r in readers}
    _, logits = forward(model, H, ids, {**deltas, "input": shift})
    (logits[-1, answer] - logits[-1, versus]).backward()
    return {r: d.grad for r, d in deltas.items()}


def anew(model, H, ids, source, answer, versus):
    """{"L1H2.q": score}: the pattern anew from the source's q, or k, times its gradient"""
    model.set_attn_implementation("eager")
    ours, logits = caught(model, ids)
    (logits[-1, answer] - logits[-1, versus]).backward()
    theirs, _ = caught(model, source)
    T, scores = len(ids), {}
    mask = torch.triu(torch.full((T, T), -torch.inf, dtype=torch.float64), 1)
    for l in range(len(model.transformer.h)):
        def parts(sites):
            return [x.view(T, H, -1).transpose(0, 1) for x in sites["qkv", l][0].detach().chunk(3, -1)]
        (q, k, _), (q2, k2, _) = parts(ours), parts(theirs)
        pattern = ours["pattern", l]
        for name, a, b in (("q", q2, k), ("k", q, k2)):
            new = torch.softmax(a @ b.transpose(1, 2) / a.shape[-1] ** 0.5 + mask, -1)
            effect = ((new - pattern.detach()[0]) * pattern.grad[0]).sum((1, 2))
            scores.update({f"L{l}H{h}.{name}": effect[h].item() for h in range(H)})
    return scores


def check_transformer_lens(model, H, ids, source, answer, versus, nodes, edges):
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.tools.analysis import attribution_patching as tl
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        bridge = TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float64)
    bridge.eval()
    got_nodes, got_edges = {}, {}

    def name(node):
        if node.kind in ("embed", "logits"):
            return {"embed": "input"}.get(node.kind, "logits")
        if node.kind in ("mlp_out", "mlp_in"):
            return f"m{node.layer}"
        part = "" if node.kind == "attn_head_out" else f"<{node.kind[0]}>"
        return f"a{node.layer}.h{node.head}{part}"

    for granularity in ("node", "edge"):
        result = tl.attribution_patch(
            bridge, torch.tensor([source]), torch.tensor([ids]),
            lambda logits: (logits[:, -1, answer] - logits[:, -1, versus]).mean(),
            tl.EdgeAttributionConfig(granularity=granularity))
        for node, score in result.node_scores.items() if granularity == "node" else ():
            got_nodes[name(node)] = got_nodes.get(name(node), 0) + float(score)
        for (writer, reader), score in result.edge_scores.items():
            edge = f"{name(writer)}->{name(reader)}"
            got_edges[edge] = got_edges.get(edge, 0) + float(score)
    for got, want in ((got_nodes, nodes), (got_edges, edges)):
        assert got.keys() == want.keys(), got.keys() ^ want.keys()
        error = max(abs(got[k] - want[k]) for k in got)
        print(f"transformer_lens: {len(got)} scores, largest difference {error:.1e}")
        assert error < 1e-4 * max(map(abs, want.values()))


def main():
    lines = []
    for name, ids, source, answer, versus in CASES:
        path = "../../tiny" if name == "tiny" else name
        model, H, vocab = load(os.path.join(HERE, path + ".safetensors"))
        lines.append("\t".join(["case", name, " ".join(map(str, ids)), " ".join(map(str, source)),
                                str(answer), str(versus)]))
        if vocab is not None:
            row = vocab.tolist().index
            ids, source, answer, versus = [*map(row, ids)], [*map(row, source)], row(answer), row(versus)
        L = len(model.transformer.h)
        with torch.no_grad():
            ours, theirs = (forward(model, H, x, {})[0] for x in (ids, source))
        change = {w: theirs[w] - ours[w] for w in ours}
        for steps in ("0", "5") if name == "tiny" else ("0", "5", "3:left", "2:right"):
            number, _, side = steps.partition(":")
            n = max(int(number), 1)
            at = [(k + SIDES[side]) / n if number != "0" else 0 for k in range(n)]
            all_slopes = [slopes(model, H, L, ids, x * change["input"], answer, versus) for x in at]
            slope = {r: sum(s[r] for s in all_slopes) / n for r in all_slopes[0]}
            edges = {f"{w}->{r}": (change[w] * slope[r]).sum().item() for w in change for r in slope
                     if half_of(r, L) >= half_after(w, H)}
            nodes = {w: sum(v for e, v in edges.items() if e.startswith(w + "->")) for w in change}
            if steps == "0":
                check_transformer_lens(model, H, ids, source, answer, versus, nodes, edges)
            shown = {e: v for e, v in edges.items() if name != "tiny" or e.endswith(("logits", "a5.h3<q>"))}
            for kind, scores in (("node", nodes), ("edge", shown)):
                lines += ["\t".join([name, steps, kind, k, f"{v:.7g}"]) for k, v in scores.items()]
        for site, score in anew(model, H, ids, source, answer, versus).items():
            lines.append("\t".join([name, "0", "anew", site, f"{score:.7g}"]))
    with open(os.path.join(HERE, "attribution.golden"), "w") as f:
        f.write("\n".join(lines) + "\n")
    print(len(lines), "lines")


if __name__ == "__main__":
    main()
