#!/usr/bin/env python3
"""Makes tests/golden/tokens_bytes.bin: what GPT-2's tokenizer says where tiktoken cannot be asked.

    pip install regex==2024.11.6
    python3 tests/golden/make_tokens_bytes.py DIRECTORY

DIRECTORY holds OpenAI's encoder.json and vocab.bpe. The implementation below is independent of
mi.c: a regular expression for the words, the listed merges for the parts. It first has to agree
with every case of tokens.bin. Then two sections in the format of tokens.bin are written: bytes that
are not UTF-8 (decoded with "surrogateescape": each bad byte is one character, a lone surrogate) and
long words; and a vocabulary that keeps only some of the merges.
"""
import os
import random
import struct
import sys

import regex

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "train"))
from make_tokenizer import merge, read_bpe                                        # noqa: E402

WORDS = regex.compile(
    r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""")
END = "<|endoftext|>"


def encode(text, id_of, merges):
    """text: bytes -> ids"""
    ids = []
    for i, piece in enumerate(text.decode("utf-8", "surrogateescape").split(END)):
        if i > 0:
            ids.append(id_of[END.encode()])
        for word in WORDS.findall(piece):
            word = word.encode("utf-8", "surrogateescape")
            ids += [id_of[part] for part in merge([word[i:i + 1] for i in range(len(word))], merges)]
    return ids


def read_cases(path):
    """-> (text, ids) of the first section of a golden file"""
    with open(path, "rb") as file:
        data = file.read()
    n_vocab, n_cases = struct.unpack_from("<2I", data)
    assert n_vocab == 0
    at = 8
    for _ in range(n_cases):
        n_bytes, = struct.unpack_from("<I", data, at)
        text = data[at + 4:at + 4 + n_bytes]
        at += 4 + n_bytes
        n_ids, = struct.unpack_from("<I", data, at)
        yield text, list(struct.unpack_from(f"<{n_ids}H", data, at + 4))
        at += 4 + 2 * n_ids


def section(vocab, cases):
    out = struct.pack(f"<I{len(vocab)}HI", len(vocab), *vocab, len(cases))
    for text, ids in cases:
        out += struct.pack("<I", len(text)) + text + struct.pack(f"<I{len(ids)}H", len(ids), *ids)
    return out


def bad_strings(rng):
    """Every way of not being UTF-8, alone and in company; then random ones."""
    bad = [b"\x80", b"\xbf", b"\xc0", b"\xc1", b"\xf5", b"\xfe", b"\xff",      # never, or not first
           b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xe0\x9f\xbf",         # overlong
           b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf",
           b"\xc1\x81", b"\xc0\xb1", b"\xc0\xa0", b"\xe0\x81\x81", b"\xf0\x80\x80\xa0",  # of A, 1, space
           b"\xf8\x90\x80\x80", b"\xff\x80\x80\x80",
           b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\xbd\xed\xb8\x80",      # surrogates
           b"\xf4\x90\x80\x80", b"\xf7\xbf\xbf\xbf", b"\xf8\x88\x80\x80\x80",  # above U+10FFFF
           b"\xc3", b"\xe2\x82", b"\xe2", b"\xf0\x9f\x98", b"\xf0\x9f", b"\xf0"]   # cut off
    frames = [(b"", b""), (b"caf", b" x"), (b" ", b"1"), (b"  ", b"  "), (b"!", b"?"), (b"\xc3\xa9", b"'s"),
              (b"\n", b"\n<|endoftext|>")]
    strings = {before + b + after for b in bad for before, after in frames}
    good = [b" ", b"a", b" the", b"1", b"!", b"\n", b"'s", b"\xc3\xa9", b"\xe2\x80\x83", b"\xe6\x97\xa5",
            b"\xf0\x9f\x98\x80", b"\xcc\x81"]
    while len(strings) < 430:
        strings.add(b"".join(rng.choice(rng.choice([bad, good])) for _ in range(rng.randrange(1, 12))))
    while len(strings) < 530:
        strings.add(bytes(rng.randrange(256) for _ in range(rng.randrange(1, 24))))
    return sorted(strings)


def long_words(rng):
    return [bytes(rng.choice(letters) for _ in range(rng.randrange(100, 500)))
            for letters in (b"etaoinshrdlu", b"ab", b"aA", b"=-", b"\x80\xff") for _ in range(8)]


def closed_vocab(rng, tokens, merges):
    """-> ids: the bytes, the end of text, and 400 random tokens with all that they are made of"""
    parts_of = {i: pair for pair, i in merges.items()}
    id_of = {token: i for i, token in enumerate(tokens)}
    keep = set(range(256)) | {len(tokens) - 1}
    todo = [int(256 * (len(merges) / 256) ** rng.random()) + 255 for _ in range(400)]
    while todo:
        i = todo.pop()
        if i not in keep:
            keep.add(i)
            todo += [id_of[part] for part in parts_of[i]]
    return sorted(keep)


def main(directory):
    rng = random.Random(1)
    tokens, merges = read_bpe(directory)
    id_of = {token: i for i, token in enumerate(tokens)}
    valid = list(read_cases(os.path.join(HERE, "tokens.bin")))
    for text, ids in valid:
        assert encode(text, id_of, merges) == ids, f"tiktoken disagrees: {text}"
    every = [(text, encode(text, id_of, merges)) for text in bad_strings(rng) + long_words(rng)]
    vocab = closed_vocab(rng, tokens, merges)
    kept = {pair: i for pair, i in merges.items() if i in set(vocab)}
    texts = [text for text, _ in rng.sample(valid, 150) + rng.sample(every, 50) if len(text) < 400]
    texts += [tokens[i] for i in rng.sample(vocab, 100)]
    texts += [b"".join(tokens[rng.choice(vocab)] for _ in range(8)) for _ in range(100)]
    some = [(text, encode(text, id_of, kept)) for text in texts]
    with open(os.path.join(HERE, "tokens_bytes.bin"), "wb") as file:
        file.write(section([], every) + section(vocab, some))
    print(f"tokens.bin: all {len(valid)} agree; tokens_bytes.bin: {len(every)} strings of any bytes, "
          f"{len(some)} with a vocabulary of {len(vocab)}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
