#!/usr/bin/env python3
"""Makes gradient.golden: gradients of a metric by PyTorch, from Hugging Face's GPT-2 in float64.

    pip install torch numpy safetensors transformers
    python3 tests/golden/make_gradient.py

Tensors are caught on their way through Hugging Face's modules and told to keep their gradients.
Compared by tests/test_gradient.c. Lines:

    run MODEL POS N TOKEN ...           a prompt; the metric looks at the logits of position POS
    dlogits N TOKEN WEIGHT ...          and is the sum of WEIGHT times logit
    site NAME LAYER POSITION N NUMBER ...   of scores and pattern: head by head, keys <= POSITION
"""
import os
import sys

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from make_readouts import load                      # noqa: E402

CASES = [                                           # model, tokens, position, metric
    ("odd7", [32, 33, 34, 32, 33, 35, 40], 6, {36: 1, 37: -1}),
    ("odd7", [10, 20, 30, 3, 5], 3, {5: 1, 7: 0.5, 9: -2}),
    ("brain11", [1, 4, 2, 8, 5, 7, 1, 3], 6, {2: 1, 3: -1}),
]


def caught(model, tokens):
    """The tensors of the pass by (site, layer), [T, width] or [H, T, T], and the logits."""
    sites = {}

    def keep(name, layer, x):
        x.retain_grad()
        sites[name, layer] = x

    def on_input(name, layer):
        return lambda module, x: keep(name, layer, x[0])

    def on_output(name, layer):
        return lambda module, x, y: keep(name, layer, y[0] if isinstance(y, tuple) else y)

    t, hooks = model.transformer, []
    for l, block in enumerate(t.h):
        hooks += [block.ln_1.register_forward_pre_hook(on_input("resid_pre", l)),
                  block.ln_1.register_forward_hook(on_output("ln1", l)),
                  block.attn.c_attn.register_forward_hook(on_output("qkv", l)),
                  block.attn.c_proj.register_forward_pre_hook(on_input("z", l)),
                  block.attn.c_proj.register_forward_hook(on_output("attn_out", l)),
                  block.ln_2.register_forward_pre_hook(on_input("resid_mid", l)),
                  block.ln_2.register_forward_hook(on_output("ln2", l)),
                  block.mlp.c_fc.register_forward_hook(on_output("mlp_pre", l)),
                  block.mlp.c_proj.register_forward_pre_hook(on_input("mlp_post", l)),
                  block.mlp.register_forward_hook(on_output("mlp_out", l)),
                  block.register_forward_hook(on_output("resid_post", l))]
    hooks += [t.wte.register_forward_hook(on_output("embed", 0)),
              t.wpe.register_forward_hook(on_output("pos_embed", 0)),
              t.ln_f.register_forward_hook(on_output("ln_f", 0))]
    softmax, layer = torch.nn.functional.softmax, [0]

    def softmax_that_keeps(x, *args, **named):
        y = softmax(x, *args, **named)
        keep("scores", layer[0], x)
        keep("pattern", layer[0], y)
        layer[0] += 1
        return y

    torch.nn.functional.softmax = softmax_that_keeps
    try:
        logits = model(torch.tensor([tokens])).logits[0]
    finally:
        torch.nn.functional.softmax = softmax
        for hook in hooks:
            hook.remove()
    assert layer[0] == len(t.h)
    return sites, logits


def main():
    lines = []

    def site(name, layer, t, numbers):
        lines.append(f"site {name} {layer} {t} {len(numbers)} "
                     + " ".join(f"{x:.6g}" for x in numbers.tolist()))

    for name, tokens, pos, metric in CASES:
        model, _, _ = load(os.path.join(HERE, name + ".safetensors"))
        model.set_attn_implementation("eager")
        sites, logits = caught(model, tokens)
        sum(weight * logits[pos, token] for token, weight in metric.items()).backward()
        lines.append(f"run {name} {pos} {len(tokens)} " + " ".join(map(str, tokens)))
        lines.append(f"dlogits {len(metric)} " + " ".join(f"{k} {v}" for k, v in metric.items()))
        for (what, layer), x in sorted(sites.items()):
            g = x.grad
            positions = [pos] if what == "ln_f" else [1, pos]
            for t in positions:
                if what in ("scores", "pattern"):
                    site(what, layer, t, g[0, :, t, :t + 1].flatten())
                elif what == "qkv":
                    for part, rows in zip("qkv", g[0, t].chunk(3)):
                        site(part, layer, t, rows)
                else:
                    site(what, layer, t, g[0, t])
    with open(os.path.join(HERE, "gradient.golden"), "w") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
