#!/usr/bin/env python3
"""Makes tokenizer.bin from GPT-2's published byte-level BPE.

    pip install regex==2024.11.6
    python3 train/make_tokenizer.py DIRECTORY [tokenizer.bin]

DIRECTORY holds OpenAI's encoder.json and vocab.bpe. The file, all integers little-endian:

    8 bytes    magic "MITOKEN1"
    4 x u32    number of letter ranges (\\p{L}), of number ranges (\\p{N}), of space ranges (\\s),
               number of tokens
    2 x u32    first and last code point, for each range: letters, numbers, spaces, each ascending
    u8, bytes  length and bytes, for each token in id order; then the file ends

Ids 0-255 are the single bytes (in GPT-2's order: printable ones first), the last id is
<|endoftext|>, and every id between them is the result of one merge.

No merges are stored, because "join the neighbours whose bytes together are the token with the
lowest id" is the same rule. Why: merge number i makes token 256 + i, so the lowest id is the
earliest merge. A pair that vocab.bpe does not list may also spell a token t (58,299 pairs do), but
it never comes up. Suppose it did, for the first time, over a stretch S of the text that spells t.
Nothing was merged across the edges of S, so what happened inside S is what happens to S alone; and
S alone, by the listed merges, ends as t (checked below for every token) through t's one listed
pair. So the pair was the listed one after all. The same holds for any vocabulary that contains,
with each token, the two it is made of: the merges that t needs are there, in the same order.

The Unicode classes are those of Unicode 16, which tiktoken also uses (1.0.22 for JavaScript and
0.14.0 for Python, compared code point by code point). They grow with each Unicode version, hence
the pinned package and the counts checked below.
"""
import json
import os
import struct
import sys

import regex

N_CODE_POINTS = {r"\p{L}": 141028, r"\p{N}": 1911, r"\s": 25}    # Unicode 16
NO_RANK = 1 << 30


def byte_of_character():
    """encoder.json spells bytes as characters: printable ones as themselves, others from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return table


def read_bpe(directory):
    """-> token bytes in id order, listed merges {(left bytes, right bytes): id}"""
    with open(os.path.join(directory, "encoder.json"), encoding="utf-8") as file:
        encoder = json.load(file)
    with open(os.path.join(directory, "vocab.bpe"), encoding="utf-8") as file:
        lines = file.read().split("\n")[1:]
    table = byte_of_character()
    spell = lambda characters: bytes(table[c] for c in characters)
    by_id = sorted(encoder, key=encoder.get)
    assert [encoder[t] for t in by_id] == list(range(len(by_id))) and by_id[-1] == "<|endoftext|>"
    tokens = [spell(t) for t in by_id[:-1]] + [by_id[-1].encode()]
    pairs = [tuple(line.split(" ")) for line in lines if line]
    for i, (left, right) in enumerate(pairs):
        assert encoder[left + right] == 256 + i, "a merge's rank is not the id of its result"
    assert len(tokens) == 256 + len(pairs) + 1 and len(set(tokens)) == len(tokens)
    return tokens, {(spell(a), spell(b)): 256 + i for i, (a, b) in enumerate(pairs)}


def merge(parts, rank):
    """Joins the neighbours of lowest rank, leftmost first, until none have a rank."""
    while len(parts) > 1:
        ranks = [rank.get(pair, NO_RANK) for pair in zip(parts, parts[1:])]
        i = ranks.index(min(ranks))
        if ranks[i] == NO_RANK:
            break
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return parts


def class_ranges(pattern):
    """-> [[first, last], ...]: the code points that the pattern matches"""
    matches = regex.compile(pattern).fullmatch
    members = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF and matches(chr(c))]
    assert len(members) == N_CODE_POINTS[pattern], f"{pattern}: not the table of Unicode 16"
    ranges = []
    for c in members:
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    return ranges


def main(directory, path="tokenizer.bin"):
    tokens, merges = read_bpe(directory)
    for token in tokens[256:-1]:
        single_bytes = [token[i:i + 1] for i in range(len(token))]
        assert merge(single_bytes, merges) == [token], f"{token} does not encode to itself"
    classes = [class_ranges(pattern) for pattern in N_CODE_POINTS]
    with open(path, "wb") as file:
        file.write(b"MITOKEN1")
        file.write(struct.pack("<4I", *map(len, classes), len(tokens)))
        for ranges in classes:
            for first_last in ranges:
                file.write(struct.pack("<2I", *first_last))
        for token in tokens:
            file.write(struct.pack("B", len(token)) + token)
    print(f"{path}: {len(tokens)} tokens, ranges: {[len(ranges) for ranges in classes]}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
