"""Step `tokens`: text to ids, for the demo model and for the tiny vocabulary.

    tokenizer.json              the demo model's vocabulary, pre-tokenizer smollm
    tiny-smollm.tokenizer.json  tiny-f32.gguf (and all the others), pre-tokenizer smollm
    tiny-gpt2.tokenizer.json    tiny-gpt2.gguf, pre-tokenizer gpt-2

Each is {"plain": [...], "special": [...], ...}, entries one per line:

    plain          {"text": base64 of the UTF-8 bytes, "ids": [...]}
    special        {"text": ..., "ids": special tokens parsed, "ids_plain": not parsed}
    lossy          as plain; the text holds bytes for which the vocabulary has no token. The demo
                   model lacks 21: 04 06 13 14 16 1d c0 c1 f1 f2 f5..ff. Both `tokenizers` and
                   llama.cpp drop them without a word, so the ids decode to the text without them
    newer_unicode  as plain; needs Unicode tables newer than 14, see texts.py

The oracle is the `tokenizers` library (what transformers runs). transformers' reading of a GGUF
does not know `tokenizer.ggml.pre = smollm`: it sets up plain GPT-2, which glues a blank to a digit
that is not ASCII and keeps several of those together. So the true pre-tokenizer of SmolLM2,
Digits(individual_digits) and then ByteLevel, is put in its place; `stock_differs` in index.json
counts the strings on which transformers as it comes would have been wrong. A tokenizer built by
hand from the metadata, without transformers, must give the same ids.
"""

import base64
import json

import gguf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import oracle
import texts
import tiny


def pre_tokenizer(pre):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre == "gpt-2":
        return byte_level
    assert pre == "smollm"
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])


def by_hand(path, parse_special):
    """A tokenizer straight from the metadata; also returns its `pre` and its control tokens."""
    reader = gguf.GGUFReader(path)

    def key(name):
        return reader.get_field("tokenizer.ggml." + name).contents()

    tokens, kinds = key("tokens"), key("token_type")
    merges = [tuple(m.split(" ")) for m in key("merges")]
    made = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    made.pre_tokenizer = pre_tokenizer(key("pre"))
    made.decoder = decoders.ByteLevel()
    control = [t for t, k in zip(tokens, kinds) if k == gguf.TokenType.CONTROL]
    if parse_special:
        made.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
        assert made.get_vocab_size() == len(tokens)
    return made, key("pre"), control


def check_bytes(tokens, missing, text, ids):
    """The pieces of a byte-level encoding, joined, are the text (less what has no token)."""
    value = {c: b for b, c in enumerate(tiny.byte_alphabet())}
    raw = b"".join(bytes(value[c] for c in tokens[i]) for i in ids)
    assert raw == bytes(b for b in text.encode() if b not in missing)


def encode_all(path, plain):
    parsing, pre, control = by_hand(path, True)
    literal, _, _ = by_hand(path, False)
    stock = oracle.tokenizer(path)
    stock_pre = str(stock.backend_tokenizer.pre_tokenizer)
    tokens = [parsing.id_to_token(i) for i in range(parsing.get_vocab_size())]
    known = set(tokens)
    missing = {b for b, c in enumerate(tiny.byte_alphabet()) if c not in known}
    differs = []

    def ids(text):
        return stock(text, add_special_tokens=False)["input_ids"]

    # First as transformers comes, then with the right pre-tokenizer.
    special, newer = texts.special(control), texts.newer()
    before = {t: ids(t) for t in plain + special + newer}
    stock.backend_tokenizer.pre_tokenizer = pre_tokenizer(pre)

    def entry(text, is_special=False):
        found = ids(text)
        assert found == parsing.encode(text, add_special_tokens=False).ids, repr(text)
        unparsed = literal.encode(text, add_special_tokens=False).ids
        check_bytes(tokens, missing, text, unparsed)
        if not is_special:
            assert found == unparsed, repr(text)
        if found != before[text]:
            differs.append(text)
        row = {"text": base64.b64encode(text.encode()).decode(), "ids": found}
        return {**row, "ids_plain": unparsed} if is_special else row

    lossy = [t for t in plain if missing & set(t.encode())]
    lists = {
        "plain": [entry(t) for t in plain if t not in lossy],
        "lossy": [entry(t) for t in lossy],
        "special": [entry(t, True) for t in special],
        "newer_unicode": [entry(t) for t in newer],
    }
    return lists, pre, stock_pre, differs


def write(file, lists):
    parts = []
    for name, rows in lists.items():
        lines = ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows)
        parts.append(f'"{name}": [\n{lines}\n]')
    file.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def run(model, out):
    index = []
    jobs = (
        (model, "tokenizer.json", texts.plain() + texts.long_runs()),
        (out / "tiny-f32.gguf", "tiny-smollm.tokenizer.json", texts.plain(60, 40)),
        (out / "tiny-gpt2.gguf", "tiny-gpt2.tokenizer.json", texts.plain(60, 40)),
    )
    for path, file, plain in jobs:
        lists, pre, stock_pre, differs = encode_all(path, plain)
        write(out / file, lists)
        size = (out / file).stat().st_size
        print(f"{file}: {size} bytes, pre {pre}, transformers sets {stock_pre};")
        print(f"  it would differ on {len(differs)} strings, e.g. {differs[:3]!r}")
        counts = {name: len(rows) for name, rows in lists.items()}
        row = {"file": file, "vocabulary": path.name, "pre": pre, **counts}
        index.append({**row, "stock_differs": len(differs)})
    return index
