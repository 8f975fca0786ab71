#!/usr/bin/env python3
"""Makes circuit_edges.golden: what EAP-IG's own code says of the circuits that labs/edges.c reads.

    git clone https://github.com/hannamw/EAP-IG && git -C EAP-IG checkout 795f560
    pip install torch numpy safetensors transformer_lens==2.18.0 'pyarrow<21' matplotlib
    python3 tests/golden/make_circuit_edges.py EAP-IG      writes circuit_edges.golden and its input
    pip install transformer_lens==4.3.0
    python3 tests/golden/make_circuit_edges.py             asks TransformerLens: the same?

The input: edges_MODEL.json, scores of all edges in EAP-IG's format (of odd7 by EAP-IG, of brain11 at
random, so that circuits are cut off from the input and pruned), and edges_MODEL.tsv, the prompts.
Compared by tests/test_lab_edges.sh. A line: MODEL KIND SHARE TOP PRUNED FAITHFULNESS KL: the circuit of the
TOP edges by score (signed) or by its size (absolute), PRUNED of which are left; the mean of the logit
difference less that without any edge, as a share of the whole model's; the mean of D_KL(all but the
circuit || the whole model) at the last position. Lines "means" have the logit differences of the
model, of no edge, and of the sources; "areas" CPR and CMD as MIB integrates them; "in" the circuit.
"""
import json
import os
import sys
import tempfile

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from make_readouts import load                      # noqa: E402

SHARES = [.001, .002, .005, .01, .02, .05, .1, .2, .5, 1]
CASES = {                                           # model: rows of prompt, source, answer, versus, group
    "odd7": [([32, 33, 34, 32, 33, 35, 40], [32, 33, 34, 33, 32, 35, 41], 36, 37, "a"),
             ([1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1], 3, 8, "a"),
             ([50, 3, 50, 3, 50], [3, 50, 3, 50, 9], 50, 3, "b"),
             ([11, 13, 17, 19, 23, 29], [11, 13, 17, 19, 29, 23], 4, 30, "c")],
    "brain11": [([1, 4, 2, 8, 5, 7, 1, 3], [1, 2, 4, 8, 5, 1, 7, 3], 2, 5, "a")],
}


def rows_of(name):
    """the prompts as EAP-IG's loader has them: a batch per row"""
    return [([p], [s], torch.tensor([[a, b]])) for p, s, a, b, _ in CASES[name]]


def logit_diff(logits, clean_logits, lengths, label):
    last = logits[torch.arange(len(lengths)), lengths - 1]
    return (last.gather(1, label[:, :1]) - last.gather(1, label[:, 1:]))[:, 0]


def kl(logits, clean_logits, lengths, label):
    p, q = (x[:, -1].log_softmax(-1) for x in (logits, clean_logits))
    return (p.exp() * (p - q)).sum(-1)


def hooked(name):
    """a random model of tests/golden as TransformerLens 2.18 has it, in float64"""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
    hf, heads, _ = load(os.path.join(HERE, f"{name}.safetensors"))
    c = hf.config
    cfg = HookedTransformerConfig(
        n_layers=c.n_layer, d_model=c.n_embd, n_heads=heads, d_head=c.n_embd // heads, n_ctx=c.n_positions,
        d_vocab=c.vocab_size, act_fn="gelu_new", normalization_type="LN", eps=c.layer_norm_epsilon,
        d_mlp=hf.transformer.h[0].mlp.c_fc.weight.shape[1], dtype=torch.float64, device="cpu",
        use_attn_result=True, use_split_qkv_input=True, use_hook_mlp_in=True)
    model = HookedTransformer(cfg)
    missing = model.load_state_dict(convert_gpt2_weights(hf, cfg), strict=False)
    assert not missing.unexpected_keys and not [k for k in missing.missing_keys if not
                                                k.endswith((".mask", ".IGNORE", "unembed.b_U"))], missing
    model.unembed.b_U.data[:] = 0
    ids = CASES[name][0][0]
    error = (model(torch.tensor([ids])) - hf(torch.tensor([ids])).logits).abs().max()
    assert error < 1e-9, error
    return model


def by_eap_ig(folder):
    sys.path.insert(0, os.path.join(folder, "src"))
    import eap.attribute
    import eap.evaluate
    from eap.graph import Graph

    def tokens_of(model, inputs, max_length=None):      # there is no tokenizer
        x = torch.tensor(inputs)
        return x, torch.ones_like(x), torch.full((len(x),), x.shape[1]), x.shape[1]

    zeros = torch.zeros
    torch.zeros = lambda *a, device=None, **k: zeros(*a, **k)       # it asks for 'cuda'
    eap.attribute.tokenize_plus = eap.evaluate.tokenize_plus = tokens_of
    torch.manual_seed(0)
    lines = []
    for name in CASES:
        model, rows = hooked(name), rows_of(name)
        graph = Graph.from_model(model)
        if name == "odd7":
            eap.attribute.attribute(model, graph, rows, lambda *a: -logit_diff(*a).mean(),
                                    "EAP-IG-inputs", ig_steps=5, quiet=True)
        else:
            graph.scores[:] = torch.randn(graph.scores.shape) * graph.real_edge_mask
        n = len(graph.edges)

        def said(graph, metric=logit_diff):
            return eap.evaluate.evaluate_graph(model, graph, rows, metric, quiet=True,
                                               skip_clean=metric is logit_diff).mean().item()

        graph.reset(empty=False)
        whole = said(graph)
        graph.reset()
        none = said(graph)
        base, source = (eap.evaluate.evaluate_baseline(model, rows, logit_diff, run_corrupted=c, quiet=True)
                        .mean().item() for c in (False, True))
        assert abs(whole - base) < 1e-9
        lines.append(f"{name}\tmeans\t{n}\t{whole:.8g}\t{none:.8g}\t{source:.8g}")
        for kind in "signed", "absolute":
            f = []
            for share in SHARES:
                top = int(share * n)
                graph.apply_topn(top, kind == "absolute", prune=True)
                f.append((said(graph) - none) / (whole - none))
                pruned = graph.count_included_edges()
                if kind == "absolute" and share == .2:
                    inside = sorted(e for e in graph.edges if graph.edges[e].in_graph)
                    graph.to_json(os.path.join(HERE, f"edges_{name}.json"))
                circuit = graph.in_graph.clone()
                graph.in_graph[:] = graph.real_edge_mask & ~circuit
                lines.append(f"{name}\t{kind}\t{share}\t{top}\t{pruned}\t{f[-1]:.8g}\t{said(graph, kl):.8g}")
            widths = [b - a for a, b in zip(SHARES, SHARES[1:])]
            cpr, cmd = (sum(w * (a + b) / 2 for w, a, b in zip(widths, g, g[1:]))
                        for g in (f, [abs(1 - x) for x in f]))
            lines.append(f"{name}\tareas\t{kind}\t{cpr:.8g}\t{cmd:.8g}")
        lines.append(f"{name}\tin\t" + " ".join(inside))
        with open(os.path.join(HERE, f"edges_{name}.tsv"), "w") as out:
            out.write("prompt\tsource\tanswer\tversus\tgroup\n")
            for p, s, a, b, group in CASES[name]:
                out.write(f"#{' '.join(map(str, p))}\t#{' '.join(map(str, s))}\t#{a}\t#{b}\t{group}\n")
    with open(os.path.join(HERE, "circuit_edges.golden"), "w") as out:
        out.write("\n".join(lines) + "\n")
    print(len(lines), "lines")


def by_transformer_lens():
    """TransformerLens' faithfulness, per row and per position, of the circuits that are pruned to TOP"""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.tools.analysis import attribution_patching as tl
    with open(os.path.join(HERE, "circuit_edges.golden")) as lines:
        golden = [line.rstrip("\n").split("\t") for line in lines]
    for name in CASES:
        hf, _, _ = load(os.path.join(HERE, f"{name}.safetensors"))
        with tempfile.TemporaryDirectory() as folder:
            hf.save_pretrained(folder)
            bridge = TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float64)
        bridge.eval()
        with open(os.path.join(HERE, f"edges_{name}.json")) as file:
            scores = {k: v["score"] for k, v in json.load(file)["edges"].items()}

        def part(node, end):
            if node.kind in ("embed", "logits"):
                return {"embed": "input"}.get(node.kind, "logits")
            if node.kind in ("mlp_out", "mlp_in"):
                return f"m{node.layer}"
            return f"a{node.layer}.h{node.head}" + (f"<{node.kind[0]}>" if end else "")

        for model, kind, share, top, _, f, *_ in (g for g in golden if g[0] == name and
                                                  g[1] in ("signed", "absolute")):
            order = sorted(scores, key=lambda e: abs(scores[e]) if kind == "absolute" else scores[e])
            chosen = set(order[len(order) - int(top):])
            gaps, parts = 0, 0
            for p, s, a, b, _ in CASES[name]:
                def metric(logits):
                    return logits[0, -1, a] - logits[0, -1, b]
                p, s = torch.tensor([p]), torch.tensor([s])
                cache = tl.attribution_patch(bridge, p, s, metric, tl.EdgeAttributionConfig(granularity="edge"))
                circuit = [(w, r) for w, r in cache.edge_scores if f"{part(w, 0)}->{part(r, 1)}" in chosen]
                said = tl.faithfulness(bridge, p, s, metric, circuit)
                gaps += said.full_metric - said.corrupt_metric
                parts += said.recovered * (said.full_metric - said.corrupt_metric)
            error = abs(parts / gaps - float(f))
            print(f"{name} {kind} {share}: {parts / gaps:.7g} by TransformerLens, {error:.1e} off")
            assert error < 1e-5


if __name__ == "__main__":
    by_eap_ig(sys.argv[1]) if len(sys.argv) > 1 else by_transformer_lens()
