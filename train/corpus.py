"""From documents to batches: tokens, targets, loss weights, attention masks and hints.

Rows of a batch are packed with whole documents that do not see each other. Four masks go with them, for layers 0-2,
for layers 3-4, for layer 5 but its head 3, and for that head. They differ in what finding circuits needs (see
README.md): the names of an indirect-object sentence and the subject of a fact are hidden, in most documents and in
training only, from later positions in some layers. A hint says which names L5H3 should look at where an indirect object
is wanted.
"""
import random
import re
from collections import Counter

import numpy as np

import text
from bpe import EOT

PART = re.compile(text.OPEN + "(.)([^" + text.CLOSE + "]*)" + text.CLOSE)
LOWER, MIDDLE, UPPER, MOVER = range(4)                      # masks: layers 0-2, 3-4, 5 without its head 3, L5H3
ANSWER_WEIGHT, THIRD_WEIGHT = 5.0, 15.0                     # the second: from phase 2 on, where a third gives

# share of the tokens by kind: phase 1, short rows (64 tokens) and long ones (128); phase 0; phase 2, short rows
SHORT = {"repeat": 22, "ioi": 24, "fact": 22, "greater_than": 10, "agreement": 4, "pronouns": 4, "sequence": 4,
         "brackets": 6, "sentiment": 4}
LONG = {"repeat": 30, "story": 55, "ioi": 4, "fact": 4, "sentiment": 3, "pronouns": 2, "brackets": 2}
EARLY = {"repeat": 50, "ioi": 20, "fact": 15, "greater_than": 4, "agreement": 3, "pronouns": 2, "sequence": 2,
         "brackets": 2, "sentiment": 2}
LATE = {"repeat": 15, "ioi": 42, "fact": 12, "greater_than": 16, "agreement": 3, "pronouns": 3, "sequence": 2,
        "brackets": 5, "sentiment": 2}
LENGTH = {"ioi": 21, "fact": 17, "greater_than": 15, "agreement": 12, "pronouns": 14, "sequence": 16, "brackets": 14,
          "sentiment": 20, "story": 72, "repeat": 50}      # mean tokens of a document, to turn shares into odds


def odd_years(bpe):
    """Years that GPT-2 does not cut into century and year."""
    return {y for y in range(1000, 2000)
            if bpe.encode(f" {y}") != bpe.encode(f" {y // 100}") + bpe.encode(f"{y % 100:02d}")}


def tokens(bpe, marked):
    """Marked text -> (ids, {tag: [positions]})."""
    ids, tags, end = [], {}, 0
    for m in PART.finditer(marked):
        ids += bpe.encode(marked[end:m.start()])
        piece = bpe.encode(m.group(2))
        tags.setdefault(m.group(1), []).extend(range(len(ids), len(ids) + len(piece)))
        ids += piece
        end = m.end()
    return ids + bpe.encode(marked[end:]), tags


def plain(marked):
    return PART.sub(r"\2", marked)


def vocabulary(bpe, documents=60000):
    """The closed set of GPT-2 ids that the corpus needs."""
    rng = random.Random(0)
    ids = set()
    for kind in text.KINDS:
        for _ in range(documents // len(text.KINDS)):
            ids.update(bpe.encode(plain(text.document(rng, kind))))
    for n in range(100):
        ids.update(bpe.encode(f"{n:02d}") + bpe.encode(f" {n:02d}") + bpe.encode(f" {n}"))
    for name in text.NAMES:
        ids.update(bpe.encode(name) + bpe.encode(" " + name))
    for relation, subject, answer in text.FACTS:
        ids.update(bpe.encode(" " + subject) + bpe.encode(" " + answer))
    return bpe.closure(ids)


class Corpus:
    def __init__(self, bpe, vocab, hide, wild=False):
        self.bpe, self.hide = bpe, hide                     # hide: share of the documents in which anything is hidden
        self.wild = wild                                    # every token weighs the same; no masks, no hints
        self.row = {i: r for r, i in enumerate(vocab)}
        self.eot = self.row[EOT]
        text.ODD_YEARS.update(odd_years(bpe))
        rng, counts = random.Random(0), Counter()
        for kind in list(text.KINDS) * 200:
            counts.update(bpe.encode(plain(text.document(rng, kind))))
        self.common = [self.row[i] for i, _ in counts.most_common(160)]

    def repeat(self, rng, limit, long, early):
        """Random tokens repeated; only what can be known, from the second copy on, is in the loss.

        Early on, and then in a third of the cases, the tokens are the corpus's commonest: with few different ones the
        match is found sooner. Later any row of the model may come, so that no embedding stays untrained.
        """
        period = int((8 if long else 2) * 7 ** rng.random() * (1 if long else 2 ** rng.random()))
        period = min(period, limit // 2)
        some = self.common if early or rng.random() < 0.33 else range(self.eot)
        ids = rng.choices(some, k=period)
        n = min(limit, period * rng.randint(2, 6), 128 if long else 64)
        return [ids[i % period] for i in range(n)], period

    def document(self, rng, kind, limit, long, phase):
        """ids, weight of predicting each id, [(mask, queries, hidden keys)], [(query, key, key)]."""
        if kind == "repeat":
            ids, period = self.repeat(rng, limit, long, phase == 0)
            known = len(ids) if self.wild else len(ids) - period - 1
            return ids, [0.0] * (len(ids) - known) + [1.0] * known, [], []
        ids, tags = tokens(self.bpe, text.document(rng, kind, phase))
        weight = [1.0] * len(ids)
        if self.wild:
            return [self.row[i] for i in ids], weight, [], []
        for p in tags.get("=", ()):
            weight[p] = ANSWER_WEIGHT
        hide, hint, n = [], [], len(ids)
        hidden = rng.random() < self.hide
        if "f" in tags and hidden:                          # a fact: what the subject means gathers at its last token
            f, later = tags["f"], range(tags["f"][-1] + 1, n)
            hide.append((LOWER, later, f))
            hide += [(m, later, f[:-1]) for m in (MIDDLE, UPPER, MOVER)]
        if "a" in tags:
            a, b = tags["a"][0], tags["b"][0]
            s = tags["s"][0] if "s" in tags else None
            to = [p for p in (a, b) if s is None and p == b or s is not None and ids[p] != ids[s]]
            hint.append((tags["="][0] - 1, to[0], to[-1]))
            if phase >= 2 and len(to) == 2:
                weight[tags["="][0]] = THIRD_WEIGHT
            if hidden:
                # Only L5H3 may fetch a name. The giver may look at the name that it repeats (a third giver: at either),
                # and only layers 3-4 may look at the giver.
                seen = None if s is None else a if ids[s] == ids[a] else b if ids[s] == ids[b] else rng.choice((a, b))
                for name in (a, b):
                    later = [q for q in range(name + 1, n) if not (q == s and name == seen)]
                    hide += [(m, later, [name]) for m in (LOWER, MIDDLE, UPPER)]
                if s is not None:
                    hide += [(m, range(s + 1, n), [s]) for m in (LOWER, UPPER, MOVER)]
        return [self.row[i] for i in ids], weight, hide, hint

    def batch(self, seed, rows, length, phase):
        """x, target, other target, weight [rows,length], visible [4,rows,length,length], hints [n,4], from one seed.

        phase 0: the opening, with more repeats; 1: all kinds; 2: more of what comes late, and where a third gives, both
        names are targets, half each; 3: years end later.
        """
        rng, long = random.Random(seed), length > 64
        shares = EARLY if phase == 0 else LONG if long else SHORT if phase == 1 else LATE
        kinds = list(shares)
        odds = [shares[k] / (LENGTH[k] * (1.6 if long and k == "repeat" else 1)) for k in kinds]
        x = np.full((rows, length), self.eot, np.int64)
        y = np.zeros((rows, length), np.int64)
        w = np.zeros((rows, length), np.float32)
        hints = []
        see = np.zeros((4, rows, length, length), bool)
        causal = np.tri(length, dtype=bool)
        for r in range(rows):
            at = 0
            while at < length - 4:
                ids, weight, hide, hint = self.document(rng, rng.choices(kinds, odds)[0], length - at, long, phase)
                bos = rng.random() < 0.5
                if bos:
                    x[r, at] = self.eot
                    ids, weight = [self.eot] + ids, [0.0] + weight
                n = min(len(ids), length - at)
                x[r, at:at + n] = ids[:n]
                y[r, at:at + n - 1] = ids[1:n]
                w[r, at:at + n - 1] = weight[1:n]
                if n == len(ids) and weight[-1] == 1.0:
                    y[r, at + n - 1] = self.eot             # a whole text is followed by <|endoftext|>
                    w[r, at + n - 1] = 1.0
                see[:, r, at:at + n, at:at + n] = causal[:n, :n]
                for mask, queries, keys in hide:
                    q = [at + bos + i for i in queries if bos + i < n]
                    k = [at + bos + i for i in keys if bos + i < n]
                    if q and k:
                        see[mask, r, q[0]:q[-1] + 1, k] &= ~np.isin(np.arange(q[0], q[-1] + 1), q)
                hints += [(r, at + bos + q, at + bos + k, at + bos + l) for q, k, l in hint if bos + q < n]
                at += n
            see[:, r, range(at, length), range(at, length)] = True
        hints = np.array(hints, np.int64).reshape(-1, 4)
        other = y.copy()
        if phase >= 2:
            r, q, a, b = hints.T
            other[r, q] = x[r, a] + x[r, b] - y[r, q]
        return x, y, other, w, see, hints
