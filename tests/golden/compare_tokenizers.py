"""Compares mlxd's tokenizer with Hugging Face `tokenizers` on real tokenizer files.

    venv/bin/python compare_tokenizers.py BUILD/tokenize FOLDER... [--gguf FILE.gguf FOLDER]

Each FOLDER holds a tokenizer.json (and, if there are, tokenizer_config.json and
special_tokens_map.json), for instance a checkpoint as it is downloaded; none are kept in this
repository. Every text is encoded twice, control tokens parsed and not (the library's
encode_special_tokens; tokens that are not special, but look like <|this|>, mlxd reads in trusted
text only, so the library is told that they are special). Ids must be the same, and their text is
decoded by both. With --gguf the tokenizer in the file is compared with the tokenizer.json of the
same model; which added tokens are special, the file says (Gemma: <mask>, <unused7>).

The texts: those of texts.py, this repository's sources and documentation, a sample of every block
of Unicode in words and alone, random strings of all planes, control bytes, long runs, and texts
that look like control tokens. A million characters of one kind are timed.

Known differences, counted apart:
    marks        GGUF only: texts with U+2581. In the file, added tokens of several U+2581 are
                 spelled with blanks, so they match blanks, not U+2581
    newer        characters that Unicode 14 does not know: newer tables cut otherwise; and marks
                 that the library's own normal forms do not know (they are at Unicode 9: it leaves
                 younger ones where they are)
    ill-formed   byte sequences: mlxd shows one U+FFFD for each maximal part, the library's
                 ByteFallback one for each byte of the whole run
"""

import argparse
import json
import pathlib
import random
import re
import struct
import subprocess
import sys
import time
import unicodedata

from gguf import GGUFReader, TokenType
from tokenizers import Tokenizer

import texts

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Mlxd:
    def __init__(self, program, path):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([program, path], stdin=pipe, stdout=pipe)
        self.opened = self.process.stdout.readline().decode().strip()

    def number(self):
        return struct.unpack("<i", self.process.stdout.read(4))[0]

    def encode(self, text, special):
        """(ids, their text), or (None, why not)."""
        raw = text.encode()
        self.process.stdin.write(struct.pack("<II", special, len(raw)) + raw)
        self.process.stdin.flush()
        count = self.number()
        ids = None
        if count >= 0:
            ids = list(struct.unpack(f"<{count}i", self.process.stdout.read(4 * count)))
        shown = self.process.stdout.read(self.number())
        return ids, shown.decode()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def is_known(text):
    """Only characters of Unicode 14 (Python 3.11's tables), so that all tables agree."""
    return all(unicodedata.category(c) != "Cn" for c in text)


def unicode_sample():
    """Every 5th character of the planes in use, in groups: joined, with blanks, in words."""
    for start in range(0, 0x32000, 0x80):
        chars = [chr(c) for c in range(start, start + 0x80, 5) if not 0xD800 <= c < 0xE000]
        chars = [c for c in chars if unicodedata.category(c) != "Cn"]
        if chars:
            yield "".join(chars)
            yield " ".join(chars)
            yield "".join(f"a{c}{c} 1{c}B\n" for c in chars)


def random_unicode(rng, count):
    for _ in range(count):
        text = ""
        for _ in range(rng.randrange(1, 80)):
            top = rng.choice((0x80, 0x250, 0x3000, 0x10000, 0x20000, 0x110000))
            c = rng.randrange(top)
            text += chr(c) if not 0xD800 <= c < 0xE000 else "\n"
        yield text


def marks(rng, count):
    """Letters with combining marks in every order; hangul in pieces."""
    pool = [chr(c) for c in range(0x300, 0x370)]
    pool += list("\u0591\u05b0\u064b\u0651\u0e38\u3099\u20d0")
    letters = list("aeouAEnsc\u1100\u1161\u11a8\uac00\u0915\u0b47\u0b3e\u03b1\u1f00\u212b\u2126")
    for _ in range(count):
        text = ""
        for _ in range(rng.randrange(1, 12)):
            text += rng.choice(letters) + "".join(rng.choices(pool, k=rng.randrange(6)))
        yield text


def files():
    for pattern in ("src/**/*.[ch]", "docs/**/*.md", "tests/**/*.py", "*.md", "scripts/*"):
        for path in sorted(ROOT.glob(pattern)):
            yield path.read_text()


def look_alikes(rng, names, count):
    yield from names
    for _ in range(count):
        text = ""
        for _ in range(rng.randrange(1, 8)):
            name = rng.choice(names)
            cut = rng.choice((name, name, name[:-1], name[1:], name.upper(), f" {name} "))
            text += rng.choice(("", " ", "a", "\n", "  ", "1", "é")) + cut
        yield text


def runs():
    units = ("a", " ", "\n", "1", "\u00e9", "\u4e2d", "'", "\U0001f600", " a", "a ", "ab", " \n",
             "the ", "\t", "!", "\r\n", "\u0301", "e\u0301", "A", "aB", "\u2581", "<", "</", "_",
             "-", "\u00a0", "x\u0301\u0316", "\x00", "0a", "\u200d", "\u0e01\u0e33")
    for unit in units:
        for n in (7, 64, 1000, 5000):
            yield unit * (n // len(unit) or 1)


def corpus(names):
    rng = random.Random(20261128)
    plain = [*texts.plain(600, 200), *texts.long_runs(), *unicode_sample(), *marks(rng, 400),
             *random_unicode(rng, 1500), *files(), *runs(), *look_alikes(rng, names, 400)]
    return list(dict.fromkeys(t for t in plain))


def cut(text, size=300):
    return repr(text if len(text) <= size else text[:size] + "...")


class Comparison:
    def __init__(self, theirs, plain, ours, is_gguf):
        self.theirs, self.plain, self.ours, self.is_gguf = theirs, plain, ours, is_gguf
        self.same = self.wrong = self.newer = self.decoded = self.lossy = self.marks = 0
        plain.encode_special_tokens = True

    def is_newer(self, text):
        normalizer = self.theirs.normalizer
        form = type(normalizer).__name__
        if form[:2] == "NF" and normalizer.normalize_str(text) != unicodedata.normalize(form, text):
            return True
        return not is_known(text)

    def report(self, what, text, mine, other):
        if self.wrong <= 5:
            at = next((i for i, (a, b) in enumerate(zip(mine or [], other)) if a != b), -1)
            print(f"  {what}: {cut(text)}\n    at {at}: mlxd {(mine or [])[max(at, 0):][:12]}"
                  f"\n    tokenizers {other[max(at, 0):][:12]}")

    def ids(self, text, special):
        theirs = self.theirs if special else self.plain
        other = theirs.encode(text, add_special_tokens=False).ids
        mine, shown = self.ours.encode(text, special)
        if mine == other:
            self.same += 1
        elif self.is_newer(text):
            self.newer += 1
        elif self.is_gguf and "\u2581" in text:
            self.marks += 1
        else:
            self.wrong += 1
            self.report("special" if special else "plain", text, mine or [shown], other)
        return mine, other, shown

    def text(self, text):
        mine, other, shown = self.ids(text, False)
        if mine == other:
            expected = self.theirs.decode(other, skip_special_tokens=True)
            if shown == expected:
                self.decoded += 1
            elif "\ufffd" in expected:
                self.lossy += 1
            else:
                self.wrong += 1
                self.report("decode", text, [shown[:200]], [expected[:200]])
        self.ids(text, True)


def stretch(ours, unit, n=1 << 20):
    text = unit * (n // len(unit.encode()))
    begin = time.time()
    ids, why = ours.encode(text, False)
    return time.time() - begin, len(ids) if ids is not None else why


def compare(program, folder, path):
    source = json.loads((folder / "tokenizer.json").read_text())
    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ours = Mlxd(program, path)
    is_gguf = path != folder
    print(f"{folder.name}{' (gguf)' if is_gguf else ''}: {ours.opened}", flush=True)
    names = [t["content"] for t in source["added_tokens"]]
    special = [t["content"] for t in source["added_tokens"] if t["special"]] or ["<|x|>"]
    sample = special[:40] + random.Random(1).sample(names, min(len(names), 200))
    kinds = GGUFReader(path).get_field("tokenizer.ggml.token_type").contents() if is_gguf else []
    for token in source["added_tokens"]:
        if token["id"] < len(kinds):
            token["special"] = kinds[token["id"]] == TokenType.CONTROL
        looks = re.fullmatch(r"<\|.+\|>|<\uff5c.+\uff5c>", token["content"], re.DOTALL)
        token["special"] = token["special"] or looks is not None
    if is_gguf: # Gemma 3: <start_of_image> is no control token there, and the last one is missing
        source["added_tokens"] = [t for t in source["added_tokens"] if t["id"] < len(kinds)]
        theirs = Tokenizer.from_str(json.dumps(source))
    c = Comparison(theirs, Tokenizer.from_str(json.dumps(source)), ours, is_gguf)
    for text in corpus(list(dict.fromkeys(sample))):
        c.text(text)
    print(f"  {c.same} encodings are the same, {c.wrong} differ; {c.newer} with newer characters "
          f"and {c.marks} with marks differ; {c.decoded} decoded texts are the same, "
          f"{c.lossy} ill-formed ones differ")
    slow = [(unit, *stretch(ours, unit)) for unit in
            ("a", " ", "\n", "a ", "1", "\u4e2d", "\u0301\u0316", "'", "A", "\u00a0\n", "<|")]
    print("  1 MiB of", ", ".join(f"{u!r}: {s * 1e3:.0f} ms, {n}" for u, s, n in slow), flush=True)
    ours.close()
    return c.wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("folders", nargs="*", type=pathlib.Path)
    parser.add_argument("--gguf", nargs=2, action="append", type=pathlib.Path, default=[])
    args = parser.parse_args()
    wrong = sum(compare(args.program, f, f) for f in args.folders)
    wrong += sum(compare(args.program, folder, file) for file, folder in args.gguf)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
