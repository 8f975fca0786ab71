#!/usr/bin/env python3
"""Makes what labs/probe is to print, and the directions it is to write, without anything of mi: vectors
from Hugging Face's GPT-2 in float64, probes by scikit-learn. Compared by tests/test_lab_probe.sh.

    pip install torch numpy scipy safetensors transformers scikit-learn regex
    python3 tests/golden/make_probe.py BPE_FOLDER       encoder.json and vocab.bpe of GPT-2

Writes probe_odd7.tsv and probe_mixed.tsv, tables of random tokens with classes of unequal size: in
the first each group has one label, in the second groups have both. Lines of probe.golden, with tabs:
CASE KEY numbers, in the order in which they are printed; KEY "w NAME": those of NAME's direction.
"""
import math
import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"         # many small matrices: threads would only wait
import numpy as np                          # noqa: E402
import torch
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier, RidgeCV
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
sys.path[:0] = [HERE, os.path.join(ROOT, "train")]
from bpe import Bpe                                 # noqa: E402
from make_readouts import load                      # noqa: E402

FOLDS, DRAWS, KINDS = 5, 19, ["mean", "ridge", "lda"]
MASK = 2 ** 64 - 1


class Random:
    """That of labs/lab.h."""
    def __init__(self, seed):
        self.seed = seed

    def below(self, n):
        self.seed = (self.seed + 0x9E3779B97F4A7C15) & MASK
        x = self.seed
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
        return (x ^ x >> 31) % n

    def normal(self):
        u, v = [(self.below(2 ** 30) + .5) / 2 ** 30 for _ in range(2)]
        return math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v)


def make_tables():
    random = np.random.default_rng(5)
    for name, mixed in [("odd7", False), ("mixed", True)]:
        with open(os.path.join(HERE, f"probe_{name}.tsv"), "w") as out:
            out.write("prompt\tlabel\tgroup\tanswer\tversus\n")
            for row in range(48):
                group = row % 16
                label = int(random.random() < .35) if mixed else int(group % 3 == 0)
                tokens = random.integers(32, 48, random.integers(3, 7))
                if random.random() < .8:            # some rows do not show their label
                    tokens[-2] = 48 + label
                versus = "#7" if row % 2 else "#7|#9"
                out.write("#" + " ".join(map(str, tokens)) + f"\t{label}\tg{group}\t#5\t{versus}\n")


def read_table(path, encode):
    with open(path, encoding="utf-8") as f:
        names, *rows = [line.rstrip("\n").split("\t") for line in f]
    rows = [dict(zip(names, row)) for row in rows]
    for row in rows:
        row["prompt"] = encode(row["prompt"])
        for side in ("answer", "versus"):
            row[side] = [encode(text)[0] for text in row[side].split("|")]
    return rows


def estimate(v, group):
    """mean and its standard error over sums of groups"""
    v, group = np.asarray(v, float), np.asarray(group)
    sums = np.array([(v[group == g] - v.mean()).sum() for g in np.unique(group)])
    G = len(sums)
    return [v.mean(), math.sqrt(G / (G - 1) * (sums ** 2).sum()) / len(v)]


def deal(label, group):
    fold, dealt = np.zeros(len(label), int), [0, 0]
    for g in range(max(group) + 1):
        mostly = int((label[group == g] * 2 - 1).sum() >= 0)
        fold[group == g] = dealt[mostly] % FOLDS
        dealt[mostly] += 1
    return fold


def shuffle(label, group, random):
    whole = all(len(set(label[group == g])) == 1 for g in group)
    out = np.array([label[group == g][0] for g in range(max(group) + 1)]) if whole else label.copy()
    for i in range(len(out) - 1, 0, -1):
        j = random.below(i + 1)
        while not whole and group[i] != group[j]:
            j = random.below(i + 1)
        out[i], out[j] = out[j], out[i]
    return out[group] if whole else out


def fit(kind, X, y):
    """w, b: positive scores for label 1"""
    mean = [X[y == k].mean(0) for k in (0, 1)]
    if kind == "mean":
        w = mean[1] - mean[0]
        return w, -(mean[0] + mean[1]) @ w / 2
    if kind == "ridge":
        sign = 2. * y - 1
        alphas = ((X - X.mean(0)) ** 2).sum() / len(X) * 10. ** np.arange(-3, 4)
        alpha = RidgeCV(alphas=alphas).fit(X, sign).alpha_
        probe = RidgeClassifier(alpha=alpha).fit(X, y)
    else:
        within = X - np.array(mean)[y]
        shrinkage = LedoitWolf(assume_centered=True).fit(within).shrinkage_
        probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(X, y)
    return np.ravel(probe.coef_), np.ravel(probe.intercept_)[0]


def along(w, X, y):
    """a direction alone: its sign and threshold"""
    if X[y == 1].mean(0) @ w < X[y == 0].mean(0) @ w:
        w = -w
    return w, -(X[y == 1].mean(0) + X[y == 0].mean(0)) @ w / 2


def try_folds(X, y, fold, fitted):
    out = []
    for f in range(FOLDS):
        w, b = fitted(X[fold != f], y[fold != f])
        score = (X[fold == f] * w).sum(1) + b       # equal rows have equal scores: ties are ties
        out.append([balanced_accuracy_score(y[fold == f], score > 0), roc_auc_score(y[fold == f], score)])
    return np.array(out)


def draws(v):
    return estimate(v, range(DRAWS)) + [max(v)]


def probes(X, label, group):
    fold = deal(label, group)
    for kind in KINDS:
        real = try_folds(X, label, fold, lambda A, y: fit(kind, A, y))
        random, null = Random(1), []
        for _ in range(DRAWS):
            other = shuffle(label, group, random)
            null.append(try_folds(X, other, deal(other, group), lambda A, y: fit(kind, A, y)).mean(0))
        line = []
        for i in (0, 1):
            line += estimate(real[:, i], range(FOLDS)) + draws([n[i] for n in null])
        yield kind, line
    null = []
    for i in range(DRAWS):
        random = Random(i)
        w = np.array([random.normal() for _ in range(X.shape[1])])
        null.append(try_folds(X, label, fold, lambda A, y: along(w, A, y)).mean(0))
    yield "random", draws([n[0] for n in null]) + draws([n[1] for n in null])


def geometry(X, label, group):
    random, far = Random(1), []
    apart = lambda y: np.linalg.norm(X[y == 1].mean(0) - X[y == 0].mean(0))     # noqa: E731
    for _ in range(DRAWS):
        far.append(apart(shuffle(label, group, random)))
    line = [apart(label)] + draws(far)
    for k in (0, 1):
        l = np.linalg.eigvalsh(np.cov(X[label == k].T, bias=True))
        line += [math.sqrt(l.sum()), l.sum() ** 2 / (l ** 2).sum()]
    return line


def causal(model, rows, layer, X, label, group):
    fold, random = deal(label, group), Random(1)
    free = []
    for i in range(len(KINDS) + DRAWS):
        w = np.array([random.normal() for _ in range(X.shape[1])])
        free.append(w / np.linalg.norm(w))
    free = free[len(KINDS):]
    base, change, steps = np.zeros(len(rows)), {}, np.zeros((FOLDS, len(KINDS)))

    def logit_diff(row, edit):
        def hook(module, inputs):
            x = inputs[0].clone()
            x[0, -1] = edit(x[0, -1])
            return (x,) + inputs[1:]
        handle = model.transformer.h[layer].register_forward_pre_hook(hook)
        logits = model(torch.tensor([row["prompt"]])).logits[0, -1]
        handle.remove()
        return (logits[row["answer"]].logsumexp(0) - logits[row["versus"]].logsumexp(0)).item()

    for f in range(FOLDS):
        ways = []
        for k, kind in enumerate(KINDS):
            w, _ = fit(kind, X[fold != f], label[fold != f])
            w = w / np.linalg.norm(w)
            means = [(X[(fold != f) & (label == k)] @ w).mean() for k in (0, 1)]
            steps[f, k] = means[1] - means[0]
            ways += [(kind, w, None), (kind, w, k)]
        for i, w in enumerate(free):
            ways += [(i, w, None)] + [(i, w, k) for k in range(len(KINDS))]
        for r in np.flatnonzero(fold == f):
            base[r] = logit_diff(rows[r], lambda x: x)
            for name, w, k in ways:
                u = torch.tensor(w)
                if k is None:
                    value = logit_diff(rows[r], lambda x: x - (x @ u) * u)
                else:
                    amount = steps[f, k] * (-1 if label[r] else 1)
                    value = logit_diff(rows[r], lambda x: x + amount * u)
                change.setdefault((name, k), np.zeros(len(rows)))[r] = value - base[r]
    yield "base", estimate(base, group)
    for k, kind in enumerate(KINDS):
        for which, number in [(None, []), (k, [steps[:, k].mean()])]:
            random = [change[i, which] for i in range(DRAWS)]
            strongest = max((estimate(v, group) for v in random), key=lambda e: abs(e[0]))
            yield (f"{kind} " + ("out" if which is None else "moved"),
                   number + estimate(change[kind, which], group) +
                   estimate(np.mean(random, 0), group) + strongest)


def main():
    make_tables()
    bpe = Bpe(sys.argv[1])
    with open(os.path.join(HERE, "probe.golden"), "w") as out, torch.no_grad():
        def line(case, key, numbers):
            out.write(f"{case}\t{key}" + "".join(f"\t{x:.6g}" for x in numbers) + "\n")

        for case, file, table, layer in [("odd7", "odd7", "probe_odd7", 1), ("mixed", "odd7", "probe_mixed", 2),
                                         ("tiny", "tiny", "sentiment", 3)]:
            tiny = case == "tiny"
            path = os.path.join(ROOT, "tiny.safetensors") if tiny else os.path.join(HERE, f"{file}.safetensors")
            model, _, ids = load(path)
            row_of = {int(i): r for r, i in enumerate(ids)} if tiny else None
            rows = read_table(os.path.join(ROOT, "tests/data" if tiny else HERE, f"{table}.tsv"),
                              (lambda t: [row_of[i] for i in bpe.encode(t)]) if tiny
                              else lambda t: [int(i) for i in t[1:].split()])
            label = np.array([int(row["label"]) for row in rows])
            names = list(dict.fromkeys(row["group"] for row in rows))
            group = np.array([names.index(row["group"]) for row in rows])
            hidden = [[h[0, -1].numpy() for h in model(torch.tensor([row["prompt"]]),
                                                       output_hidden_states=True).hidden_states]
                      for row in rows]
            L = model.config.n_layer
            X = [np.array([h[l] for h in hidden]) for l in range(L)]
            for l in range(L):
                for kind, numbers in probes(X[l], label, group):
                    line(case, f"L{l} {kind}", numbers)
            for l in range(L):
                line(case, f"L{l}", geometry(X[l], label, group))
            for key, numbers in causal(model, rows, layer, X[layer], label, group):
                line(case, key, numbers)
            for kind in KINDS:
                w, _ = fit(kind, X[layer], label)
                w = w / np.linalg.norm(w)
                apart = (X[layer][label == 1].mean(0) - X[layer][label == 0].mean(0)) @ w
                line(case, f"w {kind}", w * apart)


if __name__ == "__main__":
    main()
