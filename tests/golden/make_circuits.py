#!/usr/bin/env python3
"""Makes circuits.golden and circuits.tsv: what --circuit and --stability have to say, from Hugging
Face's GPT-2 in float64, whose modules' inputs and outputs are set by hooks of torch.

    pip install torch numpy scipy safetensors transformers
    python3 tests/golden/make_circuits.py

Sets of units are drawn as mi draws them, by splitmix64's mixer of (seed, set, unit); so are the rows
of a resample. Compared by tests/test_circuits.sh. Lines: "run ARGUMENTS" of mi, then of its tables
TABLE ROW COLUMN VALUE SE ("-": it has one that is not compared).
"""
import itertools
import os
import sys

import numpy as np
import torch
from scipy.stats import hypergeom

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from make_readouts import load                      # noqa: E402

SETS, RESAMPLES, MASK = 20, 100, (1 << 64) - 1
ODD = [32, 33, 34, 32, 33, 35, 40]
TINY = [2215, 5335, 290, 1757, 1816, 284, 262, 3650, 11, 1757, 2921, 257, 4144, 284]
ABC = [2215, 5335, 290, 1757, 1816, 284, 262, 3650, 11, 5335, 2921, 257, 4144, 284]

# model, prompts (tokens), sources, groups, answer, versus, circuit as typed, as (site, layer, unit,
# positions or None for all), kind, seed
TABLE = [[32, 33, 34, 32, 33, 35, 40], [1, 2, 3, 4, 5, 6, 7], [9, 8, 7, 6, 5, 4, 3], [40, 41, 42, 43, 40, 41, 42],
         [20, 21, 22, 20, 21, 22, 20], [50, 3, 50, 3, 50, 3, 50], [11, 13, 17, 19, 23, 29, 31], [2, 4, 8, 16, 32, 1, 2]]
GROUPS = ["a", "a", "b", "b", "b", "c", "d", "d"]
UNEVEN = [[1, 4, 2, 8, 5, 7, 1, 3], [3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7], [40, 2], [7, 7, 7, 1, 2, 3, 4]]
CASES = [
    ("odd7", [ODD], None, None, 36, 37, "L0H1,L1H0,L2H2", [("z", 0, 1, None), ("z", 1, 0, None), ("z", 2, 2, None)], "mean", 0),
    ("odd7", [ODD], None, None, 36, 37, "L1H0-1@4,L2H2,L1.mlp_out=zero",
     [("z", 1, 0, [4]), ("z", 1, 1, [4]), ("z", 2, 2, None), ("mlp_out", 1, 0, None)], "zero", 7),
    ("odd7", TABLE, None, GROUPS, 36, 37, "L0H0,L1H2,L2H0@-1,L2H0@1",
     [("z", 0, 0, None), ("z", 1, 2, None), ("z", 2, 0, [6]), ("z", 2, 0, [1])], "mean", 3),
    ("brain11", [UNEVEN[0]], None, None, 2, 3, "L0N3,L1N0-1,L3N5",
     [("mlp_post", 0, 3, None), ("mlp_post", 1, 0, None), ("mlp_post", 1, 1, None), ("mlp_post", 3, 5, None)], "mean", 1),
    ("brain11", UNEVEN, None, None, 2, 3, "L0H1,L2H0,L3H1",
     [("z", 0, 1, None), ("z", 2, 0, None), ("z", 3, 1, None)], "mean", 0),
    ("tiny", [TINY], None, None, 5335, 1757, "L0H1,L4H2,L4H3,L5H3",
     [("z", 0, 1, None), ("z", 4, 2, None), ("z", 4, 3, None), ("z", 5, 3, None)], "mean", 0),
    ("tiny", [TINY], [ABC], None, 5335, 1757, "L0H1,L4H3@9,L5H3=source",
     [("z", 0, 1, None), ("z", 4, 3, [9]), ("z", 5, 3, None)], "source", 0),
]
ORDER = ["z", "mlp_post", "mlp_out"]                # the order of mi's sites


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


class Net:
    def __init__(self, name):
        path = "../../tiny.safetensors" if name == "tiny" else f"{name}.safetensors"
        self.model, self.heads, vocab = load(os.path.join(HERE, path))
        self.row = (lambda i: i) if vocab is None else vocab.tolist().index
        self.layers = len(self.model.transformer.h)

    def width(self, site):
        D = self.model.config.n_embd
        return {"z": D // self.heads, "mlp_post": 1, "mlp_out": D}[site]

    def units(self, site):
        D = self.model.config.n_embd
        return {"z": self.heads, "mlp_post": 4 * D, "mlp_out": 1}[site]

    def run(self, tokens, sets=()):
        """sets: (site, layer, column, columns, position, values). Logits of the last position, and
        {(site, layer): values [T, width]} as they were before."""
        seen, hooks = {}, []

        def change(site, layer, x):
            x = x.clone()
            seen[site, layer] = x[0].clone()
            for s, l, first, n, t, value in sets:
                if (s, l) == (site, layer):
                    x[0, t, first:first + n] = value
            return x

        for l, block in enumerate(self.model.transformer.h):
            hooks.append(block.attn.c_proj.register_forward_pre_hook(lambda m, x, l=l: (change("z", l, x[0]),)))
            hooks.append(block.mlp.c_proj.register_forward_pre_hook(lambda m, x, l=l: (change("mlp_post", l, x[0]),)))
            hooks.append(block.mlp.register_forward_hook(lambda m, x, y, l=l: change("mlp_out", l, y)))
        with torch.no_grad():
            logits = self.model(torch.tensor([[self.row(i) for i in tokens]])).logits[0, -1]
        for hook in hooks:
            hook.remove()
        return logits, seen


def values_of(net, prompts, sources, kind):
    """What an ablated row of a prompt is set to: f(prompt, site, layer, t) -> [width]"""
    kept = [net.run(p)[1] for p in prompts]
    if kind == "zero":
        return lambda r, s, l, t: torch.zeros_like(kept[r][s, l][t])
    if kind == "source":
        other = [net.run(p)[1] for p in sources]
        return lambda r, s, l, t: other[r][s, l][t]
    if len(prompts) > 1 and len({len(p) for p in prompts}) == 1:
        return lambda r, s, l, t: torch.stack([k[s, l][t] for k in kept]).mean(0)
    return lambda r, s, l, t: torch.cat([k[s, l] for k in kept]).mean(0)


def estimate(x, group):
    x = np.array(x)
    if len(x) == 1:
        return x[0], None
    if len(set(group)) < 2:
        return x.mean(), None
    e = x - x.mean()
    G = len(set(group))
    sums = [sum(v for v, g in zip(e, group) if g == one) for one in sorted(set(group))]
    return x.mean(), np.sqrt(G / (G - 1) * sum(s * s for s in sums)) / len(x)


def circuit(case):
    name, prompts, sources, groups, answer, versus, _, members, kind, seed = case
    net = Net(name)
    a, b = net.row(answer), net.row(versus)
    value = values_of(net, prompts, sources, kind)
    sites = [s for s in ORDER if any(m[0] == s for m in members)]
    units = [(s, l, u) for s in sites for l in range(net.layers) for u in range(net.units(s))]

    def cells(keep):
        """{(unit, t)} that are ablated where keep(unit, t) is false"""
        return lambda T: [(u, t) for u in units for t in range(T) if not keep(u, t)]

    def is_member(u, t, T):
        return any(m[:3] == u and (m[3] is None or t in m[3]) for m in members)

    def shuffled(number):
        order, start = [], 0
        for i, u in enumerate(units):
            if i and units[i - 1][0] != u[0]:
                start = i
            j = start + mix(mix(seed) ^ (number << 32 | i)) % (i - start + 1)
            order.append(None)
            order[i] = order[j]
            order[j] = i
        return {u: units[order[i]] for i, u in enumerate(units)}

    orders = [shuffled(s) for s in range(SETS)]

    def results(r):
        tokens, T = prompts[r], len(prompts[r])
        base = net.run(tokens)[0]

        def said(ablated):
            sets = [(s, l, u * net.width(s), net.width(s), t,
                     value(r, s, l, t)[u * net.width(s):(u + 1) * net.width(s)]) for (s, l, u), t in ablated]
            x = net.run(tokens, sets)[0]
            p, q = torch.log_softmax(x, -1), torch.log_softmax(base, -1)
            return (x[a] - x[b]).item(), (p.exp() * (p - q)).sum().item()

        everything = [(u, t) for u in units for t in range(T)]
        inside = [c for c in everything if is_member(*c, T)]
        outside = [c for c in everything if not is_member(*c, T)]
        out = {"whole": ((base[a] - base[b]).item(), 0), "circuit": said(outside), "complement": said(inside),
               "all ablated": said(everything)}
        for s, order in enumerate(orders):
            out["in", s] = said([c for c in everything if not is_member(order[c[0]], c[1], T)])
            out["out", s] = said([c for c in everything if is_member(order[c[0]], c[1], T)])
        for i, m in enumerate(members):
            own = [(m[:3], t) for t in range(T) if m[3] is None or t in m[3]]
            out["less", i] = said(sorted(set(outside + own)))
            out["from whole", i] = said(own)
        return out

    rows = [results(r) for r in range(len(prompts))]
    group = groups or list(range(len(prompts)))
    lines = []

    def line(table, row, col, x):
        mean, se = x
        lines.append(f"{table}\t{row}\t{col}\t{mean:.7g}\t" + ("" if se is None else f"{se:.5g}"))

    def of(key, i=0):
        return [r[key][i] for r in rows]

    def over_sets(which, i=0):
        means = [np.mean(of((which, s), i)) for s in range(SETS)]
        return np.mean(means), np.std(means, ddof=1) / np.sqrt(SETS)

    for s in range(SETS):
        for i, k in itertools.product(range(2), ("in", "out")):
            col = ("circuit" if k == "in" else "complement") + (" kl" if i else "")
            lines.append(f"random sets\t{s + 1}\t{col}\t{np.mean(of((k, s), i)):.7g}\t-")
    for key in ("whole", "circuit", "complement", "all ablated"):
        line("circuit", key, "logit_diff", estimate(of(key), group))
        if key != "whole":
            line("completeness", key, "kl", estimate(of(key, 1), group))
    whole = np.array(of("whole")) - np.array(of("all ablated"))
    for key in ("circuit", "complement"):
        part = np.array(of(key)) - np.array(of("all ablated"))
        ratio = part.sum() / whole.sum()
        _, se = estimate(part - ratio * whole, group)
        line("faithfulness", key, "faithfulness", (ratio, None if se is None else se / abs(whole.mean())))
    for which, row in (("in", "random circuits"), ("out", "random complements")):
        mean, se = over_sets(which)
        line("circuit", row, "logit_diff", (mean, se))
        line("completeness", row, "kl", over_sets(which, 1))
        line("faithfulness", row, "faithfulness", ((mean - np.mean(of("all ablated"))) / whole.mean(), se / abs(whole.mean())))
    usual = {"z": "L{}H{}", "mlp_post": "L{}N{}", "mlp_out": "L{}.mlp_out"}
    for i, (s, l, u, t) in enumerate(members):
        label = usual[s].format(l, u)
        if t is not None:                           # a position that is counted from the end says so
            label += "@" + ("-1" if "@-1" in case[6] and t == [len(prompts[0]) - 1] else str(t[0]))
        less, whole_less = np.array(of(("less", i))), np.array(of(("from whole", i)))
        line("circuit", "less " + label, "logit_diff", estimate(less, group))
        line("members", label, "minimality", estimate(less - np.array(of("circuit")), group))
        line("members", label, "incompleteness", estimate(less - whole_less, group))
    return lines


def stability(K, seed):
    """The K heads of odd7 that matter most over TABLE, mean-ablated one at a time."""
    net = Net("odd7")
    value = values_of(net, TABLE, None, "mean")
    heads = [(l, h) for l in range(net.layers) for h in range(net.heads)]
    d = net.width("z")
    change = np.zeros((len(TABLE), len(heads)))
    for r, tokens in enumerate(TABLE):
        def said(sets):
            x = net.run(tokens, sets)[0]
            return (x[36] - x[37]).item()
        base = said([])
        for i, (l, h) in enumerate(heads):
            change[r, i] = said([("z", l, h * d, d, t, value(r, "z", l, t)[h * d:(h + 1) * d])
                                 for t in range(len(tokens))]) - base
    names = sorted(set(GROUPS))
    sums = np.array([change[[g == n for g in GROUPS]].sum(0) for n in names])

    def strongest(x):
        order = np.argsort(-abs(x), kind="stable")
        assert abs(x[order[K - 1]]) - abs(x[order[K]]) > 1e-4, "too near a tie for float32"
        return order[:K].tolist()

    best = strongest(sums.sum(0))
    G = len(names)
    draws = [[mix(mix(seed) ^ (b << 32 | j)) % G for j in range(G)] for b in range(RESAMPLES)]
    chosen = [set(strongest(sums[draw].sum(0))) for draw in draws]
    lines = [f"stability\tL{heads[i][0]}H{heads[i][1]}\tchosen\t{sum(i in s for s in chosen) / RESAMPLES:.7g}\t"
             for i in best]
    pairs = [len(x & y) / len(x | y) for x, y in itertools.combinations(chosen, 2)]
    N = len(heads)
    at_random = sum(i / (2 * K - i) * hypergeom(N, K, K).pmf(i) for i in range(K + 1))
    lines.append(f"jaccard\tresamples\tjaccard\t{np.mean(pairs):.7g}\t")
    lines.append(f"jaccard\trandom sets\tjaccard\t{at_random:.7g}\t")
    return lines


def main():
    lines = []
    for k, case in enumerate(CASES):
        name, prompts, sources, groups, answer, versus, typed, _, _, seed = case
        file = "tiny.safetensors" if name == "tiny" else f"tests/golden/{name}.safetensors"
        ask = f'--tokens "{" ".join(map(str, prompts[0]))}"' if len(prompts) == 1 else f"--data tests/golden/circuits{k}.tsv"
        if len(prompts) > 1:
            with open(os.path.join(HERE, f"circuits{k}.tsv"), "w") as f:
                f.write("tokens\tgroup\n" if groups else "tokens\n")
                for i, p in enumerate(prompts):
                    f.write(" ".join(map(str, p)) + (f"\t{groups[i]}" if groups else "") + "\n")
        if sources:
            ask += f' --source-tokens "{" ".join(map(str, sources[0]))}"'
        lines.append(f'run\t-m {file} {ask} --answer "#{answer}" --versus "#{versus}" --circuit "{typed}" --seed {seed}')
        lines += circuit(case)
        print(lines[-1])
    for K, seed in ((2, 0), (4, 5)):
        lines.append('run\t-m tests/golden/odd7.safetensors --data tests/golden/circuits2.tsv --answer "#36" '
                     f'--versus "#37" --ablate heads=mean --each --stability {K} --seed {seed}')
        lines += stability(K, seed)
    with open(os.path.join(HERE, "circuits.golden"), "w") as f:
        f.write("\n".join(lines) + "\n")
    print(len(lines), "lines")


if __name__ == "__main__":
    main()
