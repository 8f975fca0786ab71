"""Measure every bar: `python evaluate.py TINY.safetensors BPE_FOLDER` prints the table (a checkpoint will do, too)."""
import sys

import torch
from safetensors import safe_open

import prompts
from bpe import EOT, Bpe
from model import GPT2


class Lab:
    """A model with its vocabulary: everything below takes and returns text, rows and numbers."""

    def __init__(self, model, bpe, vocab):
        self.model, self.bpe, self.vocab = model.eval(), bpe, vocab
        self.row = {i: r for r, i in enumerate(vocab)}

    def rows(self, text):
        return [self.row[i] for i in self.bpe.encode(text)]

    def one(self, text):
        (row,) = self.rows(text)
        return row

    def words(self, answer):
        """' are| were' or '33-99' -> rows."""
        if "-" in answer:
            low, high = map(int, answer.split("-"))
            return [self.one(f"{n:02d}") for n in range(low, high + 1)]
        return [self.one(a) for a in answer.split("|")]

    def last_logits(self, texts):
        """Logits at the end of each text. Right padding is harmless: attention is causal."""
        ids = [self.rows(t) for t in texts]
        longest = max(map(len, ids))
        x = torch.tensor([i + [0] * (longest - len(i)) for i in ids])
        with torch.no_grad():
            h = self.model(x)
            return self.model.unembed(h[torch.arange(len(ids)), torch.tensor([len(i) - 1 for i in ids])])


def accuracy(lab, rows):
    """Top-1 is among the answers; mean logit difference (log-sum-exp) where there is a versus."""
    logits = lab.last_logits([r["prompt"] for r in rows])
    right, difference, mass = [], [], []
    for r, l in zip(rows, logits):
        answer = lab.words(r["answer"])
        right.append(l.argmax().item() in answer)
        if r.get("versus"):
            versus = lab.words(r["versus"])
            difference.append((l[answer].logsumexp(0) - l[versus].logsumexp(0)).item())
            p = l.softmax(0)
            mass.append((p[answer].sum() - p[versus].sum()).item())
    mean = lambda v: sum(v) / max(1, len(v))
    return mean(right), difference, mean(mass)


def induction(lab, n=25, samples=64, seed=0):
    """Accuracy on the second copy of n random tokens, and each head's induction and previous-token scores."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, len(lab.vocab) - 1, (samples, n), generator=g).repeat(1, 2)
    patterns = {}

    def keep(site, layer, value):
        if site == "pattern":
            patterns[layer] = value
        return value
    with torch.no_grad():
        guess = lab.model.logits(x, keep).argmax(-1)
    right = (guess[:, n:-1] == x[:, n + 1:]).float().mean().item()
    scores = {}
    for layer, p in patterns.items():
        ind = p.diagonal(1 - n, -2, -1)[..., :].mean((0, -1))
        prev = p.diagonal(-1, -2, -1).mean((0, -1))
        dup = p.diagonal(-n, -2, -1).mean((0, -1))
        for h in range(p.shape[1]):
            scores[layer, h] = (ind[h].item(), prev[h].item(), dup[h].item())
    return right, scores


def bars(lab, lists):
    """Name -> (value, bar, met) of what needs no intervention."""
    table = {}
    for name, bar in [("ioi", .98), ("facts", .97), ("agreement", .98), ("pronouns", .98), ("sequences", .97),
                      ("brackets", .95), ("sentiment", .95)]:
        table[name] = (accuracy(lab, lists[name])[0], bar)
    difference = accuracy(lab, lists["ioi_abc"])[1]
    table["ioi_abc |d|"] = (sum(map(abs, difference)) / len(difference), -1.0)
    table["greater_than"] = (accuracy(lab, lists["greater_than"])[2], .9)
    right, scores = induction(lab)
    table["induction"] = (right, .95)
    table["induction head"] = (max(s[0] for s in scores.values()), .6)
    table["previous head"] = (max(s[1] for s in scores.values()), .5)
    return {k: (v, bar, v >= bar if bar > 0 else v < -bar) for k, (v, bar) in table.items()}


# ---- circuits --------------------------------------------------------------------------------------------------------

class Pair:
    """Prompts of which logit(answer) - logit(versus) is wanted at the last token, under edits."""

    def __init__(self, lab, rows, column="prompt"):
        ids = [lab.rows(r[column]) for r in rows]
        self.lab, self.length = lab, torch.tensor([len(i) for i in ids])
        self.x = torch.tensor([i + [0] * (self.length.max() - len(i)) for i in ids])
        self.all = torch.arange(len(ids))
        self.answer = torch.tensor([lab.one(r["answer"]) for r in rows])
        self.versus = torch.tensor([lab.one(r["versus"]) for r in rows])
        self.kept = {}
        self.base = self.difference(self.keep)

    def keep(self, site, layer, value):
        if site in ("z", "resid_pre", "pattern"):
            self.kept[site, layer] = value
        return value

    def difference(self, edit):
        with torch.no_grad():
            logits = self.lab.model.unembed(self.lab.model(self.x, edit=edit)[self.all, self.length - 1])
        return logits[self.all, self.answer] - logits[self.all, self.versus]

    def ablate(self, heads, how):
        """Difference with z of these (layer, head) replaced by 0 or by its mean over the prompt's positions."""
        inside = (torch.arange(self.x.shape[1])[None] < self.length[:, None])[..., None, None]

        def edit(site, layer, value):
            mine = [h for l, h in heads if l == layer]
            if site == "z" and mine:
                z = self.kept["z", layer]
                mean = (z * inside).sum(1, keepdim=True) / self.length[:, None, None, None]
                value = value.clone()
                value[:, :, mine] = mean[:, :, mine] if how == "mean" else 0.0
            return value
        return self.difference(edit)

    def patch(self, source, layer, at):
        """Difference with resid_pre of `layer` taken from the source run at one position of each row."""
        def edit(site, l, value):
            if site == "resid_pre" and l == layer:
                value = value.clone()
                value[self.all, at] = source.kept["resid_pre", l][self.all, at]
            return value
        return self.difference(edit)


def heads_of(lab):
    return [(l, h) for l in range(len(lab.model.h)) for h in range(lab.model.h[0].heads)]


def head_effects(lab, rows, how="mean"):
    """Share of the mean logit difference that each head's ablation removes."""
    pair = Pair(lab, rows)
    base = pair.base.mean()
    return {head: (1 - pair.ablate([head], how).mean() / base).item() for head in heads_of(lab)}


def five_strongest(lab, rows):
    effects = head_effects(lab, rows)
    five = sorted(effects, key=effects.get, reverse=True)[:5]
    pair = Pair(lab, rows)
    return five, (1 - pair.ablate(five, "mean").mean() / pair.base.mean()).item(), effects


def fact_patching(lab, rows):
    """[layer] -> share of the way to the source's answer, patching the last subject token, and the last token."""
    pair, source = Pair(lab, rows), Pair(lab, rows, "source")
    S = torch.tensor([int(r["S"]) for r in rows])
    assert bool((pair.length == source.length).all())
    way = source.base.mean() - pair.base.mean()
    return [tuple(((pair.patch(source, layer, at).mean() - pair.base.mean()) / way).item() for at in (S, pair.length - 1))
            for layer in range(len(lab.model.h))]


def default_prompt(lab, lists):
    """Of the prompt that mi starts with: probabilities and differences, whole and with each head of layer 5 away."""
    pair = Pair(lab, lists["ioi"][:1])
    out = {"base": pair.base.item()}
    for l, h in heads_of(lab):
        for how in ("mean", "zero"):
            out[l, h, how] = pair.ablate([(l, h)], how).item()
    return out


def looks(lab, rows):
    """Of each head: mean attention from END to IO and to S2, and from S2 to S1."""
    pair = Pair(lab, rows)
    at = {name: torch.tensor([int(r[name]) for r in rows]) for name in ("IO", "S1", "S2")}
    at["END"] = pair.length - 1
    edges = [("END", "IO"), ("END", "S2"), ("S2", "S1")]
    return {edge: {(l, h): pair.kept["pattern", l][pair.all, h, at[edge[0]], at[edge[1]]].mean().item()
                   for l, h in heads_of(lab)} for edge in edges}


def circuits(lab, lists, head=(5, 3)):
    table, lines = {}, []
    five, removed, effects = five_strongest(lab, lists["ioi"])
    table["ioi: five heads remove"] = (removed, .7)
    lines.append("ioi, mean ablation, share removed: " +
                 "  ".join(f"L{l}H{h} {effects[l, h]:.2f}" for l, h in sorted(effects, key=effects.get, reverse=True)[:8]))
    for (query, key), heads in looks(lab, lists["ioi"]).items():
        lines.append(f"ioi, attention {query} -> {key}: " +
                     "  ".join(f"L{l}H{h} {heads[l, h]:.2f}" for l, h in sorted(heads, key=heads.get, reverse=True)[:5]))
    d = default_prompt(lab, lists)
    table[f"default prompt: L{head[0]}H{head[1]} removes"] = (1 - d[(*head, "mean")] / d["base"], .2)
    lines.append(f"default prompt: difference {d['base']:.2f}; with one head of the last layers away (mean, zero): " +
                 "  ".join(f"L{l}H{h} {d[l, h, 'mean']:.2f} {d[l, h, 'zero']:.2f}" for l, h in heads_of(lab)[-8:]))
    for relation in ("city", "country", "capital", "language"):
        rows = [r for r in lists["facts"] if r["group"] == relation]
        grid = fact_patching(lab, rows)
        lines.append(f"{relation}: resid_pre patched at subject, at end, by layer: " +
                     "  ".join(f"{a:.2f} {b:.2f}" for a, b in grid))
        if relation in ("city", "country"):
            best = max((s for s, e in grid[1:] if e < .1), default=0.0)
            table[f"{relation}: best middle layer at subject"] = (best, .4)
    right, scores = induction(lab)
    for i, name in enumerate(("induction", "previous", "duplicate")):
        lines.append(f"{name} scores: " + "  ".join(
            f"L{l}H{h} {scores[l, h][i]:.2f}" for l, h in sorted(scores, key=lambda k: -scores[k][i])[:4]))
    return {k: (v, bar, v >= bar) for k, (v, bar) in table.items()}, lines


def short(table):
    return "  ".join(f"{k} {v:.3f}{'' if ok else '!'}" for k, (v, _, ok) in table.items())


def load(path, bpe_folder):
    """A Lab from a checkpoint of train.py or from the safetensors that convert.py made of it."""
    if path.endswith(".safetensors"):
        with safe_open(path, "pt") as f:
            heads = int(f.metadata()["n_head"])
            names = {n: f.get_tensor(n) for n in f.keys()}
        vocab = names.pop("vocab_ids").tolist()
        shape = dict(context=len(names["wpe.weight"]), width=names["wpe.weight"].shape[1], heads=heads,
                     layers=1 + max(int(n.split(".")[1]) for n in names if n.startswith("h.")))
        state = {}
        for name, value in names.items():
            ours = name.replace("attn.c_", "c_").replace("mlp.c_fc", "c_fc").replace("mlp.c_proj", "c_out")
            state[ours] = value.t() if name.startswith("h.") and value.dim() == 2 else value
    else:
        saved = torch.load(path, weights_only=True)
        state, shape, vocab = saved["model"], saved["shape"], saved["vocab"]
    model = GPT2(len(vocab), **shape)
    model.load_state_dict(state)
    return Lab(model, Bpe(bpe_folder), vocab)


def sample(lab, text="", n=90, temperature=0.8, seed=0):
    g = torch.Generator().manual_seed(seed)
    ids = [lab.row[EOT]] + lab.rows(text)
    while len(ids) < n:
        with torch.no_grad():
            logits = lab.model.logits(torch.tensor([ids]))[0, -1]
        ids.append(torch.multinomial((logits / temperature).softmax(0), 1, generator=g).item())
        if ids[-1] == lab.row[EOT]:
            ids.pop()
            break
    return lab.bpe.decode([lab.vocab[i] for i in ids[1:]])


def main():
    lab = load(sys.argv[1], sys.argv[2])
    lists = prompts.all_prompts(lab.bpe)
    found, lines = circuits(lab, lists)
    for name, (value, bar, met) in {**bars(lab, lists), **found}.items():
        print(f"{name:42s} {value:7.3f}  {'>=' if bar > 0 else '< '} {abs(bar):.2f}  {'yes' if met else 'NO'}")
    print("\n".join(lines))
    for i in range(10):
        print(f"[{i}] {sample(lab, ['', 'One day,', 'Once upon a time,'][i % 3], seed=i)}")


if __name__ == "__main__":
    main()
