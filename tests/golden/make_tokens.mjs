// Makes tests/golden/tokens.bin: what tiktoken's GPT-2 encoding says about 2,500 strings.
//
//     npm install tiktoken@1.0.22          (anywhere above this directory, or in it)
//     node tests/golden/make_tokens.mjs
//
// The text "<|endoftext|>" is allowed to be the token of that name. The file, little-endian:
//
//     u32 n_vocab, u16 id ...              the ids that the model has; n_vocab 0: all of them
//     u32 n_cases, and for each case       u32 n_bytes, bytes, u32 n_ids, u16 id ...
//
// and again from n_vocab on, if there is more. (make_tokens_bytes.py writes the same format.)
import { get_encoding } from "tiktoken";
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

let state = 20190214n;                                    // a 64-bit linear congruential generator
function below(n) {
  state = (state * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn;
  return Number((state >> 33n) % BigInt(n));
}
const pick = (list) => list[below(list.length)];
const times = (n, make) => Array.from({ length: n }, make);

const strings = new Set([
  "", " ", "a", "\n", "'", "Hello world", " Hello  world ", "Hello, world!\n",
  "When Mary and John went to the store, John gave a drink to",
  "The Eiffel Tower is in the city of", "The war lasted from the year 1732 to the year 17",
  "<|endoftext|>", "<|endoftext|><|endoftext|>", "a<|endoftext|>b", "  <|endoftext|>  b",
  "a  <|endoftext|>", "<|endoftext|", "<|endoftext|<|endoftext|>", "<|ENDOFTEXT|>", "\0", "a\0b\0\0",
]);

// Contractions: case-sensitive, in the middle of a word, cut off, repeated, with other apostrophes.
for (const end of ["s", "t", "re", "ve", "m", "ll", "d", "S", "T", "RE", "Re", "rE", "VE", "vE", "M",
                   "LL", "Ll", "lL", "D", "r", "v", "l", "ss", "lls", "x", "1", "é", "'", "'s", ""])
  for (const frame of [["it'", ""], ["IT'", " x"], ["'", ""], [" '", "!"], ["12'", "3"], ["'", "'"],
                       ["?'", "\n"], ["’", " "]])
    strings.add(frame[0] + end + frame[1]);

// White space: every kind, alone, in runs of mixed kinds, before every class and at the end.
const spaces = [..." \t\n\v\f\r\x85\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008" +
                "\u2009\u200a\u2028\u2029\u202f\u205f\u3000"];
const almost = [..."\x1c\x1d\x1e\x1f\u180e\u200b\u200c\u200d\u2060\ufeff"];     // no spaces to \s
for (const space of [...spaces, ...almost])
  for (const make of [(s) => s, (s) => "a" + s + "b", (s) => " " + s + "b", (s) => s + " b",
                      (s) => s + s + "1", (s) => "!" + s + s + "?", (s) => "x" + s + s])
    strings.add(make(space));
for (const end of ["\n", "\r\n", "\r", "\n\r", "\n\n", "\r\n\r\n", "\u2028", "\n \n", " \n", "\n\t"])
  for (const make of [(s) => "one" + s + "two", (s) => s + s + " two", (s) => "one " + s,
                      (s) => s.repeat(5) + "x"])
    strings.add(make(end));
for (const n of [2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257, 5000])
  for (const unit of [" ", "\n", "\t", "a", "=", "-", "0", "!", "é"].slice(0, n > 257 ? 1 : 9))
    for (const end of ["", "x"])
      strings.add(unit.repeat(n) + end);

// Scripts: the blocks' first and last code points; words, digits and marks as they come.
const blocks = [
  [0x41, 0x7a], [0xc0, 0x24f], [0x250, 0x2af], [0x2b0, 0x36f], [0x370, 0x3ff], [0x400, 0x52f],
  [0x531, 0x58a], [0x591, 0x5f4], [0x600, 0x6ff], [0x700, 0x74f], [0x780, 0x7fa], [0x900, 0x97f],
  [0x980, 0x9fe], [0xa01, 0xa76], [0xa81, 0xaff], [0xb01, 0xb77], [0xb82, 0xbfa], [0xc00, 0xc7f],
  [0xc80, 0xcf3], [0xd00, 0xd7f], [0xd81, 0xdf4], [0xe01, 0xe5b], [0xe81, 0xedf], [0xf00, 0xfda],
  [0x1000, 0x109f], [0x10a0, 0x10ff], [0x1100, 0x11ff], [0x1200, 0x139f], [0x13a0, 0x13fd],
  [0x1400, 0x167f], [0x1680, 0x169c], [0x16a0, 0x16f8], [0x1700, 0x171f], [0x1780, 0x17f9],
  [0x1800, 0x18aa], [0x1900, 0x194f], [0x1980, 0x19df], [0x1b00, 0x1b7e], [0x1c00, 0x1c7f],
  [0x1d00, 0x1dff], [0x1e00, 0x1fff], [0x2010, 0x205e], [0x2070, 0x218b], [0x2190, 0x23ff],
  [0x2460, 0x24ff], [0x2500, 0x27bf], [0x2800, 0x28ff], [0x2c00, 0x2c5f], [0x2c80, 0x2cff],
  [0x2d30, 0x2d7f], [0x2e80, 0x2fd5], [0x3001, 0x303f], [0x3041, 0x30ff], [0x3105, 0x318e],
  [0x3200, 0x33ff], [0x3400, 0x34ff], [0x4e00, 0x9fff], [0xa000, 0xa4c6], [0xa500, 0xa62b],
  [0xa720, 0xa7ca], [0xa840, 0xa877], [0xa8e0, 0xa8ff], [0xaa00, 0xaa5f], [0xabc0, 0xabf9],
  [0xac00, 0xd7a3], [0xe000, 0xe0ff], [0xf900, 0xfad9], [0xfb00, 0xfb4f], [0xfb50, 0xfdff],
  [0xfe00, 0xfe6b], [0xff01, 0xffee], [0x10000, 0x100fa], [0x10330, 0x1034a], [0x10400, 0x1044f],
  [0x10900, 0x1091f], [0x10a00, 0x10a58], [0x11000, 0x1107f], [0x12000, 0x12399], [0x13000, 0x1342f],
  [0x16800, 0x16a38], [0x1b000, 0x1b122], [0x1d100, 0x1d1e8], [0x1d400, 0x1d7ff], [0x1e900, 0x1e95f],
  [0x1ee00, 0x1eef1], [0x1f000, 0x1f0f5], [0x1f100, 0x1f1ff], [0x1f300, 0x1f64f], [0x1f680, 0x1f6fc],
  [0x1f900, 0x1f9ff], [0x20000, 0x2a6df], [0x30000, 0x3134a], [0xe0001, 0xe007f], [0xe0100, 0xe01ef],
  [0xf0000, 0xf00ff], [0x10ff00, 0x10ffff],
];
const from = ([first, last]) => String.fromCodePoint(first + below(last - first + 1));
for (const block of blocks)
  for (let i = 0; i < 8; i++)
    strings.add(times(2 + below(3), () => times(1 + below(5), () => from(block)).join(""))
      .join(pick([" ", " ", ", ", "\n", "1", "  "])));
const zeros = [0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66,
               0xe50, 0xed0, 0xf20, 0x1040, 0x17e0, 0x1810, 0xff10, 0x104a0, 0x1d7ce, 0x1e950];
for (const zero of zeros)
  for (const make of [(d) => d(1) + d(9) + d(8) + d(4), (d) => "x" + d(3) + " " + d(7) + d(7) + "y",
                      (d) => d(2) + "0" + d(5) + "½" + "Ⅷ" + "²"])
    strings.add(make((digit) => String.fromCodePoint(zero + digit)));

// Emoji with joiners, skin tones, flags, keycaps; combining marks in both normal forms.
strings.add("👩‍👩‍👧‍👦 👍🏽👍 🏳️‍🌈🇩🇪🇯🇵 1️⃣#️⃣ ❤️❤ 🧑🏿‍🚀!");
for (const text of ["é e\u0301 ñ n\u0303 Å", "Việt Nam", "한국어 조선말", "ĕ\u0316\u0301x", "क्षत्रिय", "กำลัง", "שָׁלוֹם",
                    "Å\u030a\u030a", "\u0301", " \u0301a", "a\u0301\u0301 1\u0301", "ﬁ ﬂ ǆ ß ẞ İ ı"])
  for (const form of ["NFC", "NFD", "NFKC", "NFKD"])
    strings.add(text.normalize(form));
for (let i = 0; i < 60; i++)
  strings.add(times(1 + below(4), () => times(1 + below(3), () => from([0x1f600, 0x1f64f]) +
    pick(["", "\u200d", "\ufe0f", "\u{1f3fd}"])).join("")).join(pick(["", " ", "a", "\n"])));

// Source code, made up from a handful of forms.
const name = () => pick(["i", "count", "resid_pre", "nHeads", "MAX_LEN", "x2", "buffer", "tmp_ptr"]);
const value = () => pick([name(), String(below(100000)), "0x" + below(65536).toString(16), "1e-5f",
                          '"%s: ' + name() + '\\n"', "'\\0'", name() + "[" + below(10) + "]"]);
const indent = (depth) => pick(["    ".repeat(depth), "\t".repeat(depth)]);
function statement(depth) {
  const line = pick([
    () => `${name()} ${pick(["=", "+=", "<<=", "&="])} ${value()} ${pick("+-*/%&|^")} ${value()};`,
    () => `if (${name()} ${pick(["<", "==", "!=", ">="])} ${value()})  /* isn't ${name()} */`,
    () => `for (int ${name()} = 0; ${name()} < ${value()}; ${name()}++) {`,
    () => `return ${name()}(${value()}, &${name()}, *${value()});`,
    () => `static const float *${name()}(struct ${name()} *${name()}, int n);`,
    () => `#define ${name().toUpperCase()}(x)  ((x)->${name()} ? ~(x)->${name()} : -${value()})`,
    () => `}   // ${name()}'s end; we'll ${name()} -> ${name()}`,
    () => ``, () => pick(["", "  ", "\t"]),
  ])();
  return indent(depth) + line + pick(["\n", "\n", "\n", "\r\n", "  \n"]);
}
for (let i = 0; i < 60; i++)
  strings.add(times(1 + below(12), () => statement(below(4))).join(""));
strings.add(times(320, () => statement(below(4))).join(""));

// Everything mixed, until there are enough.
const atoms = [...spaces, ...almost, " ", " ", " ", "  ", "\n", "'s", "'S", "'ll", "'", '"', ".", ",",
               "...", "!?", "the", " of", "Mary", "ing", "ANTI", "dis", "0", "42", "1999", "é", "ß", "日本",
               "ال", "я", "½", "٣", "😀", "\u0301", "\u200d", "<|endoftext|>", "<|", "|>", "_", "--", "€"];
while (strings.size < 2500)
  strings.add(times(1 + below(20), () => below(8) ? pick(atoms) : from(pick(blocks))).join(""));

const encoding = get_encoding("gpt2");
const chunks = [];
const u32 = (n) => chunks.push(Buffer.from(Uint32Array.of(n).buffer));
u32(0);
u32(strings.size);
for (const text of strings) {
  const bytes = Buffer.from(text, "utf8"), ids = Uint16Array.from(encoding.encode(text, "all"));
  u32(bytes.length);
  chunks.push(bytes);
  u32(ids.length);
  chunks.push(Buffer.from(ids.buffer));
}
writeFileSync(fileURLToPath(new URL("tokens.bin", import.meta.url)), Buffer.concat(chunks));
console.log(`tokens.bin: ${strings.size} strings, ${Buffer.concat(chunks).length} bytes`);
