#!/usr/bin/env python3
"""Makes edits.golden: what --patch with --from and --along, and directions out of a table, have to
do, from Hugging Face's GPT-2 in float64, with hooks of torch.

    pip install torch numpy safetensors transformers
    python3 tests/golden/make_edits.py

A line: MODEL ARGUMENTS ADDRESS VALUE, the logit difference in this cell of the sweep, or "edited";
compared by tests/test_edits.sh. DIR/rows.npy and DIR/heads.npy there are what mi saves of
the model's first prompt at ROWS and HEADS. labels.tsv is the table of data:FILE.
"""
import csv
import os
import torch
from make_readouts import HERE, load

A = [32, 33, 34, 32, 33, 35, 40]
B = [36, 33, 34, 33, 32, 39, 38]
C = [35, 38, 32, 33]                                    # of another length
ASK = (36, 37)
MODELS = ["odd7", "brain11", "tiny"]
ROWS, HEADS = (1, [0, 1, 2]), (0, 1, [1, 2])            # L1.resid_post@0-2, L0H1@1-2


class Model:
    def __init__(self, name):
        path = os.path.join(HERE, "../../tiny.safetensors" if name == "tiny" else f"{name}.safetensors")
        self.model, self.heads, vocab = load(path)
        self.blocks = self.model.transformer.h
        self.d = self.model.transformer.wte.weight.shape[1] // self.heads
        self.row = (lambda i: i) if vocab is None else vocab.tolist().index

    def run(self, ids, change=None):
        """{(site, layer): [T,D]} and the logit difference at the end. change: (site, layer, function
        of [T,D]); sites resid_pre, resid_post and z."""
        kept, hooks = {}, []

        def seen(site, l):
            def hook(module, args, *out):
                x = out[0] if out else args[0]
                x = x[0] if isinstance(x, tuple) else x
                if change and change[:2] == (site, l):
                    x = change[2](x[0].clone())[None]
                kept[site, l] = x[0]
                if not out:
                    return (x, *args[1:])
            return hook
        for l, block in enumerate(self.blocks):
            hooks.append(block.register_forward_pre_hook(seen("resid_pre", l)))
            hooks.append(block.register_forward_hook(seen("resid_post", l)))
            hooks.append(block.attn.c_proj.register_forward_pre_hook(seen("z", l)))
        with torch.no_grad():
            logits = self.model(torch.tensor([[self.row(i) for i in ids]])).logits[0, -1]
        for hook in hooks:
            hook.remove()
        return kept, (logits[self.row(ASK[0])] - logits[self.row(ASK[1])]).item()

    def difference(self, site, l):
        """mean over rows with label 1 less that with label 0, at the column at"""
        sums = {"0": [], "1": []}
        with open(os.path.join(HERE, "labels.tsv")) as f:
            for line in csv.DictReader(f, delimiter="\t"):
                ids = [int(i) for i in line["tokens"].split()]
                sums[line["label"]].append(self.run(ids)[0][site, l][int(line["at"])])
        return torch.stack(sums["1"]).mean(0) - torch.stack(sums["0"]).mean(0)


def at(t, f):
    def change(x):
        x[t] = f(x[t])
        return x
    return change


def words(ids):
    return ",".join(map(str, ids))


def cases(name):
    m = Model(name)
    L, T, d = len(m.blocks), len(A), m.d
    start = f"--tokens {words(A)}"
    base, _ = m.run(A)

    # back-patching: every pair of layers; patchscopes: out of other prompts, of any length
    for source, ids, s, t in (("--source same", A, 3, 6), (f"--source-tokens {words(B)}", B, 5, 2),
                              (f"--source-tokens {words(C)}", C, 3, 5)):
        kept, _ = m.run(ids)
        for g in range(L):
            args = f"{start} {source} --patch L*.resid_pre@{t} --from L{g}.resid_post@{s} --each"
            for l in range(L):
                h = kept["resid_post", g][s]
                yield args, f"L{l}.resid_pre@{t}", m.run(A, ("resid_pre", l, at(t, lambda x: h)))[1]
    kept, _ = m.run(B)
    args = f"{start} --source-tokens {words(B)} --patch L*.resid_pre=0.25 --from L0.resid_post --each"
    for l in range(L):
        yield args, f"L{l}.resid_pre", m.run(A, ("resid_pre", l, lambda x: x + .25 * (kept["resid_post", 0] - x)))[1]
    args = f"{start} --source-tokens {words(B)} --patch L1.resid_pre@1-3 --from L1.resid_post@4-6"

    def three(x):
        x[1:4] = kept["resid_post", 1][4:7]
        return x
    yield args, "edited", m.run(A, ("resid_pre", 1, three))[1]

    def spread(x):
        x[1:4] = kept["resid_post", 0][5]
        return x
    args = f"{start} --source-tokens {words(B)} --patch L1.resid_pre@1-3 --from L0.resid_post@5"
    yield args, "edited", m.run(A, ("resid_pre", 1, spread))[1]
    args = f"{start} --source-tokens {words(B)} --patch L1.resid_pre@* --from L1.resid_post --each"
    for t in range(T):
        h = kept["resid_post", 1][t]
        yield args, f"L1.resid_pre@{t}", m.run(A, ("resid_pre", 1, at(t, lambda x: h)))[1]
    args = f"{start} --source-tokens {words(B)} --patch L1H*@4 --from L0H1@2 --each"
    for h in range(m.heads):
        def change(x):
            x[4, h * d:(h + 1) * d] = kept["z", 0][2, d:2 * d]
            return x
        yield args, f"L1H{h}@4", m.run(A, ("z", 1, change))[1]

    # subspaces: rows of a file, and of a head
    q, _ = torch.linalg.qr(base["resid_post", ROWS[0]][ROWS[1]].T)
    P = q @ q.T
    for alpha in (1, .5):
        args = f"{start} --source-tokens {words(B)} --patch L1.resid_pre@*={alpha} --along DIR/rows.npy --each"
        for t in range(T):
            change = at(t, lambda x: x + alpha * (kept["resid_pre", 1][t] - x) @ P)
            yield args, f"L1.resid_pre@{t}", m.run(A, ("resid_pre", 1, change))[1]
    l, h, ts = HEADS
    q, _ = torch.linalg.qr(base["z", l][ts, h * d:(h + 1) * d].T)
    args = f"{start} --source-tokens {words(B)} --patch L*H1 --along DIR/heads.npy --each"
    for l in range(L):
        def change(x):
            part = slice(d, 2 * d)
            x[:, part] += (kept["z", l][:, part] - x[:, part]) @ q @ q.T
            return x
        yield args, f"L{l}H1", m.run(A, ("z", l, change))[1]

    # directions out of a table: added, removed, exchanged
    for l in range(L):
        v = m.difference("resid_pre", l)
        u = v / v.norm()
        table = "data:tests/golden/labels.tsv"
        s = kept["resid_pre", l]
        for args, f in ((f"{start} --steer L*.resid_pre@-1=1.5 --direction {table} --each", lambda x: x + 1.5 * v),
                        (f"{start} --project L*.resid_pre@-1 --direction {table} --each", lambda x: x - (x @ u) * u),
                        (f"{start} --source-tokens {words(B)} --patch L*.resid_pre@-1 --along {table} --each",
                         lambda x: x + ((s[-1] - x) @ u) * u)):
            yield args, f"L{l}.resid_pre@-1", m.run(A, ("resid_pre", l, at(-1, f)))[1]


def main():
    with open(os.path.join(HERE, "edits.golden"), "w") as f:
        for name in MODELS:
            for args, address, value in cases(name):
                ask = f"--answer #{ASK[0]} --versus #{ASK[1]} {args}"
                f.write(f"{name}\t{ask}\t{address}\t{value:.7g}\n")


if __name__ == "__main__":
    main()
