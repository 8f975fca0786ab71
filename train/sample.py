"""A sample of the training text, one document a line: python3 train/sample.py >tests/data/text.txt

Kinds as they are mixed in short rows of phase 1, without the repeats of random tokens, and a story for every ten.
"""
import random

import text
from corpus import LENGTH, SHORT, plain

DOCUMENTS = 2000

kinds = [k for k in SHORT if k != "repeat"]
odds = [SHORT[k] / LENGTH[k] for k in kinds]
rng = random.Random(1)
for n in range(DOCUMENTS):
    kind = "story" if n % 10 == 9 else rng.choices(kinds, odds)[0]
    print(plain(text.document(rng, kind)).replace("\n", " "))
