#!/usr/bin/env python3
"""Makes relevance.golden: relevance of tokens by PyTorch, from Hugging Face's GPT-2 in float64, without
anything of mi. Compared by tests/test_lab_gradients.sh with what labs/relevance prints.

    pip install torch numpy safetensors transformers
    python3 tests/golden/make_relevance.py

Lines, with tabs: MODEL POSITION rollout gradient input path exact SE
"""
import os
import sys

import numpy as np
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from make_readouts import load                      # noqa: E402

CASES = [("odd7", [32, 33, 34, 32, 33, 35, 40], 36, 37), ("brain11", [1, 4, 2, 8, 5, 7, 1, 3], 2, 3)]
DRAWS, MOST_STEPS = 20, 4096


def splitmix():
    """The random numbers of labs/lab.h: below(n)."""
    seed, mask = 1, 2 ** 64 - 1

    def below(n):
        nonlocal seed
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        x = seed
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
        return (x ^ x >> 31) % n
    return below


def metric(model, embeds, answer, versus, attentions=None):
    out = model(inputs_embeds=embeds[None], output_attentions=attentions is not None)
    if attentions is not None:
        attentions += out.attentions
    return out.logits[0, -1, answer] - out.logits[0, -1, versus]


def slope(model, embeds, answer, versus):
    x = embeds.detach().clone().requires_grad_()
    m = metric(model, x, answer, versus)
    return torch.autograd.grad(m, x)[0], m.item()


def relevance(model, tokens, answer, versus):
    e = model.transformer.wte.weight[tokens].detach()
    n, V = len(tokens), model.config.vocab_size
    patterns = []
    x = e.clone().requires_grad_()
    m = metric(model, x, answer, versus, patterns)
    slopes = torch.autograd.grad(m, patterns)
    eye = torch.eye(n, dtype=e.dtype)
    rollout = gradient = eye
    for a, g in zip(patterns, slopes):
        rollout = (a[0].mean(0) + eye) / 2 @ rollout
        gradient = (eye + (a[0] * g[0]).clamp(min=0).mean(0)) @ gradient
    by_input = (e * slope(model, e, answer, versus)[0]).sum(-1)
    zero = slope(model, 0 * e, answer, versus)[1]
    steps, path = 16, torch.zeros(n, dtype=e.dtype)
    while steps <= MOST_STEPS and abs(path.sum() + zero - m) > .01 * abs(m - zero):
        path = sum((e * slope(model, e * (k + .5) / steps, answer, versus)[0]).sum(-1)
                   for k in range(steps)) / steps
        steps *= 4
    below, falls = splitmix(), np.zeros((n, DRAWS))
    for t in range(n):
        for i in range(DRAWS):
            other = list(tokens)
            while other[t] == tokens[t]:
                other[t] = below(V)
            with torch.no_grad():
                logits = model(torch.tensor([other])).logits[0, -1]
            falls[t, i] = m.item() - (logits[answer] - logits[versus]).item()
    return np.stack([rollout[-1].detach(), gradient[-1].detach(), by_input.detach(), path.detach(),
                     falls.mean(1), falls.std(1, ddof=1) / np.sqrt(DRAWS)], 1)


def main():
    with open(os.path.join(HERE, "relevance.golden"), "w") as out:
        for name, tokens, answer, versus in CASES:
            model = load(os.path.join(HERE, name + ".safetensors"))
            model = (model[0] if isinstance(model, tuple) else model).double().eval()
            model.config._attn_implementation = "eager"
            for t, row in enumerate(relevance(model, tokens, answer, versus)):
                print(name, t, *("%.6f" % v for v in row), sep="\t", file=out)


main()
