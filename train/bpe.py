"""GPT-2's byte-level BPE, and the small closed vocabularies that tiny uses.

A merge's rank is the id of its result: id = 256 + rank. So a set of ids that is closed under merges (with an id, both
halves of the merge that makes it) is a BPE of its own, and needs no merge list.
"""
import json
import os

import regex

PIECE = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
EOT = 50256


def byte_alphabet():
    """GPT-2's printable stand-ins for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in plain}
    for n, b in enumerate(b for b in range(256) if b not in table):
        table[b] = chr(256 + n)
    return table


class Bpe:
    def __init__(self, folder):
        with open(os.path.join(folder, "encoder.json"), encoding="utf-8") as f:
            self.ids = json.load(f)
        with open(os.path.join(folder, "vocab.bpe"), encoding="utf-8") as f:
            lines = f.read().split("\n")[1:]
        self.halves = {}                                    # merged id -> ids of its two halves
        for rank, line in enumerate(line for line in lines if line):
            left, right = line.split(" ")
            merged = self.ids[left + right]
            assert merged == 256 + rank
            self.halves[merged] = (self.ids[left], self.ids[right])
        self.merge = {pair: merged for merged, pair in self.halves.items()}
        self.alphabet = byte_alphabet()
        to_byte = {c: b for b, c in self.alphabet.items()}
        self.bytes = {i: bytes(to_byte[c] for c in s) for s, i in self.ids.items() if i != EOT}
        self.bytes[EOT] = b"<|endoftext|>"
        self.cache = {}

    def piece(self, text):
        """Token ids of one pre-token: merge the pair of lowest rank until none is left."""
        ids = self.cache.get(text)
        if ids is None:
            ids = [self.ids[self.alphabet[b]] for b in text.encode("utf-8")]
            while len(ids) > 1:
                best = min(self.merge.get(pair, EOT) for pair in zip(ids, ids[1:]))
                if best == EOT:
                    break
                merged, i = [], 0
                while i < len(ids):
                    if i + 1 < len(ids) and self.merge.get((ids[i], ids[i + 1])) == best:
                        merged.append(best)
                        i += 2
                    else:
                        merged.append(ids[i])
                        i += 1
                ids = merged
            self.cache[text] = ids
        return ids

    def encode(self, text):
        return [i for p in PIECE.findall(text) for i in self.piece(p)]

    def decode(self, ids):
        return b"".join(self.bytes[i] for i in ids).decode("utf-8", "replace")

    def closure(self, ids):
        """The smallest closed vocabulary that holds `ids`, all bytes and <|endoftext|>, ascending."""
        closed, todo = set(range(256)) | {EOT}, list(ids)
        while todo:
            i = todo.pop()
            if i not in closed:
                closed.add(i)
                todo.extend(self.halves[i])
        return sorted(closed)
