"""Step `tokenizers`: small tokenizers of every kind, and what `tokenizers` makes of texts.

    tokenizers/NAME.tokenizer.json   a complete tokenizer.json, trained here on our own texts
    tokenizers/NAME.config.json      its tokenizer_config.json (llama3, mistral only)
    tokenizers/NAME.golden.json      {"plain": [...], "special": [...]}, entries one per line:
                                     {"text": base64, "ids": [...], "shown": base64}
    tokenizers/NAME.gguf             the same as the metadata of a GGUF file (llama3, qwen, o200k,
                                     deepseek: the families that GGUF has a name for)
    tokenizers/spm.gguf              metadata only: a model of the sentencepiece library
    tokenizers/spm.golden.json       the same, by that library

`plain` was encoded with the library's encode_special_tokens, `special` without; `shown` is what the
ids decode to without control tokens. The kinds are those of real families:

    llama3     Split L3, ByteLevel; ignore_merges; BOS by template; merges as strings
    qwen       NFC; Split Q2, ByteLevel; added tokens that are not special; merges as pairs
    o200k      Split O200K as Removed with invert, ByteLevel
    deepseek   three Splits (CR and LF literal in the last), ByteLevel; normalized added tokens
    smollm     Digits, ByteLevel with its own pattern and a blank in front
    llama2     Prepend, Replace; byte fallback; decoder with Strip
    gemma      Replace; a Split that never matches; added tokens that merges make, too
    mistral    Metaspace first, not split; lstrip, rstrip, single_word, normalized added tokens
    unknown    no byte fallback: unknown tokens, fused; NFKC, Lowercase, Strip; Whitespace, Digits,
               Punctuation
    apart      the same with unknown tokens apart, two bytes only, Metaspace split

The oracle for spm.gguf is sentencepiece itself (what llama.cpp's llama model reproduces): it joins
by score, not by the order of merges.
"""

import base64
import json
import random
import tempfile

import gguf
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

import texts

MARK = "\u2581"
L3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
      r"|\s*[\r\n]+|\s+(?!\S)|\s+")
Q2 = L3.replace("{1,3}", "")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
DEEPSEEK = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
            "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
            "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def byte_level(**more):
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, "use_regex": False, **more})


def added(text, **flags):
    return AddedToken(text, **{"normalized": False, "special": False, **flags})


def special(text, **flags):
    return added(text, **{"special": True, **flags})


def train(made, out, size, alphabet=()):
    """Trains on our texts."""
    source = [*texts.ENGLISH.splitlines(), *texts.CODE, *texts.LANGUAGES.splitlines()]
    source += (out / "corpus.txt").read_text().split("\n\n")
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, min_frequency=2,
                                  initial_alphabet=list(alphabet), max_token_length=24)
    made.train_from_iterator(source, trainer)
    model = json.loads(made.to_str())["model"]
    return list(model["vocab"]), [tuple(m) for m in model["merges"]]


def bytes_kind(out, size, pre, normalizer=None, first=(), **model):
    """A byte-level tokenizer; `first` are the texts of ids in front of the vocabulary."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre
    if normalizer:
        made.normalizer = normalizer
    tokens, merges = train(made, out, size, sorted(pre_tokenizers.ByteLevel.alphabet()))
    made.model = models.BPE({t: i for i, t in enumerate([*first, *tokens])}, merges, **model)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    return made


def chars_kind(out, size, normalizer, pre, n_bytes=256, **model):
    """A SentencePiece-like one: <unk> <s> </s>, byte tokens, then what was trained."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([*([normalizer] if normalizer else []),
                                               normalizers.Replace(" ", MARK)])
    # Words, for training only: blanks belong to what follows them.
    trained.pre_tokenizer = pre_tokenizers.Split(MARK, "merged_with_next")
    tokens, merges = train(trained, out, size)
    first = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256 - n_bytes, 256))]
    vocab = {t: i for i, t in enumerate([*first, *tokens])}
    made = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", **model))
    if normalizer:
        made.normalizer = normalizer
    if pre:
        made.pre_tokenizer = pre
    made.add_special_tokens([special(t) for t in first[:3]])
    return made


def fallback_decoder(*more):
    return decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(),
                              decoders.Fuse(), *more])


def bos_template(name, number):
    return processors.TemplateProcessing(single=f"{name} $A", special_tokens=[(name, number)])


def make_llama3(out):
    made = bytes_kind(out, 700, pre_tokenizers.Sequence([split(L3), byte_level()]),
                      ignore_merges=True)
    # A word that no merge makes; ignore_merges finds it all the same.
    source = json.loads(made.to_str())
    source["model"]["vocab"]["\u0120unreachable"] = len(source["model"]["vocab"])
    made = Tokenizer.from_str(json.dumps(source))
    made.add_special_tokens([special(t) for t in
                             ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")])
    number = made.token_to_id("<|begin_of_text|>")
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                               bos_template("<|begin_of_text|>", number)])
    return made


def make_qwen(out):
    made = bytes_kind(out, 700, pre_tokenizers.Sequence([split(Q2), byte_level()]),
                      normalizers.NFC())
    made.add_special_tokens([special(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    made.add_tokens([added("<tool_call>"), added("</tool_call>"), added("<think>")])
    return made


def make_o200k(out):
    pre = pre_tokenizers.Sequence([split(O200K, "removed", True), byte_level()])
    made = bytes_kind(out, 700, pre)
    made.add_special_tokens([special("<|return|>"), special("<|call|>"), special("<|end|>")])
    return made


def make_deepseek(out):
    pre = [split(r"\p{N}{1,3}"), split(CJK), split(DEEPSEEK), byte_level()]
    first = ["<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"]
    made = bytes_kind(out, 700, pre_tokenizers.Sequence(pre), normalizers.Sequence([]), first)
    made.add_special_tokens([special(t) for t in first])
    made.add_tokens([added("<think>", normalized=True), added("  <i>", normalized=True)])
    return made


def make_smollm(out):
    pre = [pre_tokenizers.Digits(individual_digits=True),
           byte_level(use_regex=True, add_prefix_space=True)]
    made = bytes_kind(out, 600, pre_tokenizers.Sequence(pre))
    made.add_special_tokens([special("<|endoftext|>"), special("<|im_start|>"),
                             special("<|im_end|>")])
    return made


def make_llama2(out):
    normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    made = chars_kind(out, 500, normalizer, None, byte_fallback=True, fuse_unk=True)
    made.decoder = fallback_decoder(decoders.Strip(" ", 1, 0))
    made.post_processor = bos_template("<s>", 1)
    return made


def make_gemma(out):
    pre = pre_tokenizers.Split(" ", "merged_with_previous")
    made = chars_kind(out, 500, normalizers.Replace(" ", MARK), pre, byte_fallback=True,
                      fuse_unk=True)
    made.add_special_tokens([special("<start_of_turn>"), special("<end_of_turn>")])
    made.add_tokens([added("\n\n"), added(MARK * 2), added("<table>")])
    made.decoder = fallback_decoder()
    return made


def make_mistral(out):
    pre = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made = chars_kind(out, 500, None, pre, byte_fallback=True, fuse_unk=False)
    made.add_special_tokens([special("[INST]"), special("[/INST]", lstrip=True, rstrip=True),
                             special("<|user|>", rstrip=True), special("<mask>", lstrip=True)])
    made.add_tokens([added("nation", single_word=True), added("<tool call>", normalized=True)])
    made.decoder = decoders.Sequence([decoders.ByteFallback(),
                                      decoders.Metaspace(prepend_scheme="first", split=False)])
    return made


def make_unknown(out):
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(),
                                       normalizers.Strip(),
                                       normalizers.Replace(Regex(r"[\u2018\u2019]"), "'")])
    pre = [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=False),
           pre_tokenizers.Punctuation("merged_with_previous")]
    made = chars_kind(out, 300, normalizer, pre_tokenizers.Sequence(pre), 0, fuse_unk=True)
    made.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.Fuse()])
    return made


def make_apart(out):
    pre = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.CharDelimiterSplit(";"),
           pre_tokenizers.Metaspace(prepend_scheme="always"), split(r"[,.]+", "contiguous"),
           split("'", "merged_with_next")]
    made = chars_kind(out, 300, None, pre_tokenizers.Sequence(pre), 2, fuse_unk=False,
                      byte_fallback=True)
    made.decoder = decoders.Metaspace()
    return made


KINDS = {
    "llama3": make_llama3, "qwen": make_qwen, "o200k": make_o200k, "deepseek": make_deepseek,
    "smollm": make_smollm, "llama2": make_llama2, "gemma": make_gemma, "mistral": make_mistral,
    "unknown": make_unknown, "apart": make_apart,
}
PAIRS = ("qwen", "llama2")  # the others spell merges as strings
CONFIGS = {
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|eot_id|>"},
               "tokenizer_class": "PreTrainedTokenizerFast"},
    "mistral": {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>",
                "added_tokens_decoder": {"3000": {"content": "<late>", "special": True},
                                         "1": {"content": "<s>", "special": True}}},
}


# What GGUF calls their pre-tokenizers.
GGUF_PRE = {"llama3": "llama-bpe", "qwen": "qwen2", "o200k": "gpt-4o", "deepseek": "deepseek-v3"}


def words(control):
    """Texts with added tokens in the places where their flags matter."""
    for name in control:
        yield from (name, f"a{name}b", f"a {name} b", f"  {name}  ", f"\n{name}\n\n{name}x",
                    name[:-1], name.upper(), f"{name}{name}", f"x_{name}1", f"\u0301{name}\u0301")
    yield from ("national nation, nation's internation", "a<tool call>b <tool  call>",
                "<think>e\u0301</tool_call>", "a\u2581b \u2581\u2581 c", "\n\n\n<table>",
                "<0x41><0xE9>", "  <i>", "the unreachable unreachable", "\u017f's 'S '\u017f 're'",
                "ffi \ufb03 \u2460 \u212b",
                "  Strip THIS \u2019tis  ", "a;b;;c", "1,2.,3", "ab'cd''e")


def entry(made, text):
    ids = made.encode(text, add_special_tokens=False).ids
    shown = made.decode(ids, skip_special_tokens=True)
    return row(text, ids, shown)


def row(text, ids, shown):
    return {"text": base64.b64encode(text.encode()).decode(), "ids": ids,
            "shown": base64.b64encode(shown.encode()).decode()}


def write_golden(file, lists):
    parts = []
    for name, rows in lists.items():
        lines = ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows)
        parts.append(f'"{name}": [\n{lines}\n]')
    file.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def sample(randoms=40):
    everything = texts.plain(0, 1)
    return random.Random(7).sample(everything, 110) + list(texts.random_strings(3, randoms, 40))


def write_kind(folder, out, name):
    source = json.loads(KINDS[name](out).to_str())
    if name not in PAIRS:
        source["model"]["merges"] = [" ".join(m) for m in source["model"]["merges"]]
    text = json.dumps(source, ensure_ascii=False, separators=(",", ":"))
    (folder / f"{name}.tokenizer.json").write_text(text + "\n")
    made = Tokenizer.from_str(text)
    if name in GGUF_PRE:
        write_gguf(folder / f"{name}.gguf", source, GGUF_PRE[name])
    if name in CONFIGS:
        (folder / f"{name}.config.json").write_text(json.dumps(CONFIGS[name]) + "\n")
    control = [t["content"] for t in source["added_tokens"]]
    plain = list(dict.fromkeys([*sample(), *words(control)]))
    with_special = [entry(made, t) for t in words(control)]
    made.encode_special_tokens = True
    lists = {"plain": [entry(made, t) for t in plain], "special": with_special}
    write_golden(folder / f"{name}.golden.json", lists)
    return {"name": name, "tokens": made.get_vocab_size(), **{k: len(v) for k, v in lists.items()}}


def write_gguf(file, source, pre):
    """The tokenizer as a GGUF file tells it."""
    kind = gguf.TokenType
    tokens = {i: (t, kind.NORMAL) for t, i in source["model"]["vocab"].items()}
    for t in source["added_tokens"]:
        special = kind.CONTROL if t["special"] else kind.USER_DEFINED
        tokens[t["id"]] = (t["content"], special)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([tokens[i][0] for i in range(len(tokens))])
    writer.add_token_types([tokens[i][1] for i in range(len(tokens))])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m)
                             for m in source["model"]["merges"]])
    writer.add_bos_token_id(len(tokens) - 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def write_spm(folder, out):
    """Trained, written as GGUF, and asked, by the sentencepiece library."""
    with tempfile.TemporaryDirectory() as temporary:
        source = f"{temporary}/source.txt"
        with open(source, "w") as f:
            f.write("\n".join([texts.ENGLISH, texts.LANGUAGES, (out / "corpus.txt").read_text()]))
        sentencepiece.SentencePieceTrainer.train(
            input=source, model_prefix=f"{temporary}/spm", vocab_size=900, model_type="bpe",
            byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity",
            remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
            split_digits=True, user_defined_symbols=["<tool>", "\n\n"], minloglevel=2,
            control_symbols=["<|im_end|>"], num_threads=1)
        made = sentencepiece.SentencePieceProcessor(model_file=f"{temporary}/spm.model")
    writer = gguf.GGUFWriter(folder / "spm.gguf", "llama")
    kind, ids = gguf.TokenType, range(made.get_piece_size())

    def type_of(i):
        if made.is_unknown(i):
            return kind.UNKNOWN
        if made.is_byte(i):
            return kind.BYTE
        if made.is_control(i):
            return kind.CONTROL
        return kind.USER_DEFINED if made.id_to_piece(i) in ("<tool>", "\n\n") else kind.NORMAL

    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([made.id_to_piece(i) for i in ids])
    writer.add_token_scores([made.get_score(i) for i in ids])
    writer.add_token_types([type_of(i) for i in ids])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    # The library puts a blank only in front of the whole text, mlxd also behind added tokens (as
    # llama.cpp does): texts without those. NUL ends a text there.
    plain = [t for t in sample(80) if "\0" not in t and "\n\n" not in t and "<tool>" not in t]
    plain += ["a" * 300, " " * 100, "ab" * 100, "the " * 50, "\u4e2d" * 50, "  a   b    c"]
    rows = [row(t, made.encode(t), made.decode(made.encode(t))) for t in plain]
    write_golden(folder / "spm.golden.json", {"plain": rows})
    return {"name": "spm", "tokens": made.get_piece_size(), "plain": len(rows)}


def run(_, out):
    folder = out / "tokenizers"
    folder.mkdir(exist_ok=True)
    index = [write_kind(folder, out, name) for name in KINDS] + [write_spm(folder, out)]
    for i in index:
        print(i)
    return index
