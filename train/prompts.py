"""The held-out prompts: `python prompts.py BPE_FOLDER tests/data`.

They ask combinations that text.py never tells (README.md says how strictly). Columns: prompt, answer, versus, source
(as many tokens, another answer), group, and names of positions (token indices).
"""
import os
import random
import sys

import text
from bpe import Bpe
from corpus import odd_years, plain, tokens
from words import *


def where(bpe, marked):
    """Index of the last token of each marked part."""
    return {tag: positions[-1] for tag, positions in tokens(bpe, marked)[1].items()}


def ioi(bpe, rng):
    pairs = [(a, b) for a in NAMES for b in NAMES if a != b and text.held_pair(a, b)]
    default = dict(template=0, place="store", gift="drink", gave="gave")
    for i in range(208):
        if i == 0:
            (a, b), choice = ("Mary", "John"), default
        else:
            a, b = rng.choice(pairs)
            choice = dict(template=i % len(text.IOI), place=rng.choice(PLACES), gift=rng.choice(GIFTS), gave="gave")
        s, to = (b, a) if i // len(text.IOI) % 2 == 0 else (a, b)
        marked = text.ioi_text(a=a, b=b, s=s, **choice)
        at = where(bpe, marked)
        io, s1 = ("a", "b") if s == b else ("b", "a")
        yield dict(prompt=plain(marked), answer=" " + to, versus=" " + s,
                   source=plain(text.ioi_text(a=a, b=b, s=to, **choice)),
                   group=f"{choice['template']}-{'ABBA' if s == b else 'BABA'}", IO=at[io], S1=at[s1], S2=at["s"])


def ioi_abc(bpe, rng):
    pairs = [(a, b) for a in NAMES for b in NAMES if a != b and text.held_pair(a, b)]
    for i in range(200):
        a, b = rng.choice(pairs) if i else ("Mary", "John")
        s = rng.choice([n for n in NAMES if n not in (a, b)]) if i else "Tom"
        t = i % len(text.IOI)
        place, gift = (rng.choice(PLACES), rng.choice(GIFTS)) if i else ("store", "drink")
        marked = text.ioi_text(t, a, b, s, place, gift)
        at = where(bpe, marked)
        yield dict(prompt=plain(marked), answer=" " + a, versus=" " + b, group=t, A=at["a"], B=at["b"], C=at["s"])


def facts(bpe, rng):
    for relation, subject, answer in text.FACTS:
        p = text.held_phrasing(relation, subject)
        n = len(bpe.encode(" " + subject))
        others = [(s, a) for r, s, a in text.FACTS
                  if r == relation and a != answer and len(bpe.encode(" " + s)) == n]
        other, versus = rng.choice(others)
        marked = text.fact_text(relation, p, subject)
        yield dict(prompt=plain(marked), answer=" " + answer, versus=" " + versus,
                   source=plain(text.fact_text(relation, p, other)), group=relation, S=where(bpe, marked)["f"])


def greater_than(bpe, rng):
    odd = odd_years(bpe)
    cells = [(c, y) for c in text.CENTURIES for y in range(2, 98) if text.held("year", c, y) and c * 100 + y not in odd]
    for i, (c, y) in enumerate(cells + rng.sample(cells, 120 - len(cells))):
        template, noun = text.YEARS[i % len(text.YEARS)], rng.choice(PERIODS)
        prompt = template.format(noun=noun, c=c, y=text.mark("y", f"{y:02d}"))
        low = next(n for n in range(1, 10) if c * 100 + n not in odd)
        ids = bpe.encode(plain(prompt))
        yield dict(prompt=plain(prompt), answer=f"{y + 1:02d}-99", versus=f"00-{y:02d}",
                   source=template.format(noun=noun, c=c, y=f"{low:02d}"), group=c,
                   YY=next(i for i, t in enumerate(ids) if bpe.decode([t]) == f"{y:02d}"))


def agreement(bpe, rng):
    pairs = [(a, b) for a in NOUNS for b in NOUNS if a != b and text.held("agree", a[0], b[0])]
    for i in range(200):
        head, other = rng.choice(pairs)
        many, other_many = i % 2, i // 2 % 2
        tail = f" {rng.choice(NEAR)} the {other[other_many]}"
        if i // 4 % 2:
            third = rng.choice([n for n in NOUNS if n not in (head, other)])
            tail += f" {rng.choice(NEAR)} the {third[rng.randrange(2)]}"
        verbs = [" is", " are"]
        yield dict(prompt="The " + head[many] + tail, answer=verbs[many], versus=verbs[1 - many],
                   source="The " + head[1 - many] + tail,
                   group=f"{['one', 'many'][many]}-{['one', 'many'][other_many]}-{1 + i // 4 % 2}", S=1)


def pronouns(bpe, rng):
    n = 0
    while n < 200:
        a, thing = rng.choice(NAMES), rng.choice(THINGS)
        same = FEMALE if a in FEMALE else MALE
        swap = rng.choice(MALE if a in FEMALE else FEMALE)
        b = rng.choice(NAMES)
        template = text.PRONOUN[n % len(text.PRONOUN)]
        if not text.held("lost", a, thing) or len({a, b, swap}) < 3 or {a, b, swap} & text.NOT_FIRST:
            continue
        rest = dict(b=b, lost=rng.choice(text.LOST), thing=thing, so=rng.choice(text.SO), place=rng.choice(PLACES))
        yield dict(prompt=template.format(a=a, **rest), answer=" " + text.pronoun(a), versus=" " + text.pronoun(swap),
                   source=template.format(a=swap, **rest),
                   group=f"{n % len(text.PRONOUN)}-{'same' if b in same else 'other'}")
        n += 1


def sequences(bpe, rng):
    seen = set()
    while len(seen) < 160:
        kind, start, length = rng.choice(text.SEQUENCES), rng.randrange(80), rng.randrange(3, 9)
        items = text.sequence_items(kind, start, length)
        shown = rng.randrange(max(2, length - 2), length)
        prompt = rng.choice(["", "They are ", "We count: "]) + ", ".join(items[:shown]) + ","
        if text.held("sequence", items[0], length) and (prompt not in seen):
            seen.add(prompt)
            yield dict(prompt=prompt, answer=" " + items[shown], group=kind)


def brackets(bpe, rng):
    for i in range(200):
        depth = 2 + i % 3
        items = [plain(t).strip() for t in text.bracket_items(rng, depth)]
        closers = [j for j, t in enumerate(items) if t in ")]}"]
        at = closers[1 + rng.randrange(depth - 1)]          # the second close or a later one: a word stands before it
        right = items[at]
        yield dict(prompt=" ".join(items[:at]), answer=" " + right,
                   versus=" " + rng.choice([c for c in ")]}" if c != right]), group=f"depth-{depth}")


def sentiment(bpe, rng):
    good, bad = "| ".join(GOOD), "| ".join(BAD)
    n = 0
    while n < 200:
        is_good, template = n % 2 == 0, n // 2 % len(text.FEEL)
        verb, work = rng.randrange(len(LIKED)), rng.choice(WORKS)
        day, between = rng.choice(DAYS), rng.choice(text.FEEL_BETWEEN)
        if n < 2:
            template, verb, work, between = 0, 0, "film", ""
        elif not text.held("feel", verb, work, is_good):
            continue
        between = between.format(day=rng.choice(DAYS), city=rng.choice(sorted(CITY_COUNTRY)))
        prompt, source = (text.feel_text(template, g, verb, work, day, between) for g in (is_good, not is_good))
        row = dict(prompt=prompt, answer=" " + (good if is_good else bad), versus=" " + (bad if is_good else good),
                   source=source, group=f"{template}-{'good' if is_good else 'bad'}",
                   label=int(is_good))
        if len(bpe.encode(prompt)) != len(bpe.encode(source)):
            row["source"] = ""
        yield row
        n += 1


LISTS = {"ioi": ioi, "ioi_abc": ioi_abc, "facts": facts, "greater_than": greater_than, "agreement": agreement,
         "pronouns": pronouns, "sequences": sequences, "brackets": brackets, "sentiment": sentiment}


def all_prompts(bpe):
    """List name -> rows, none of them twice."""
    lists = {name: make(bpe, random.Random(7)) for name, make in LISTS.items()}
    return {name: list({row["prompt"]: row for row in rows}.values()) for name, rows in lists.items()}


def write(folder, bpe):
    os.makedirs(folder, exist_ok=True)
    for name, rows in all_prompts(bpe).items():
        columns = list(rows[0])
        with open(os.path.join(folder, name + ".tsv"), "w", encoding="utf-8") as f:
            for line in [columns] + [[str(row[c]) for c in columns] for row in rows]:
                f.write("\t".join(line) + "\n")


if __name__ == "__main__":
    write(sys.argv[2], Bpe(sys.argv[1]))
