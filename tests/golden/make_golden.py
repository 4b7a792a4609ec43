#!/usr/bin/env python3
"""Makes the golden files of this folder with Hugging Face transformers; see README.md.

    python3 make_golden.py --model SmolLM2-135M-Instruct.Q4_1.gguf [--only tiny,tokens,...]

The outcome depends on nothing but the model file and the package versions recorded in index.json
(f32 results may differ in the last bits on another CPU). Each step rewrites its own files and its
own entry of index.json:

    tiny     tiny-*.gguf, tiny-*.tokens.json, tiny-*.logits.bin, tiny-*.design.bin
    tokens   tokenizer.json.gz, tiny-gpt2.tokenizer.json
    chat     chat.json
    greedy   greedy.json
    corpus   corpus.tokens.json, corpus.top128.bin
    families families/: checkpoints of every family, their logits, an index of their own
"""

import argparse
import importlib
import json
import pathlib
import sys

sys.dont_write_bytecode = True
STEPS = {
    "tiny": "step_tiny",
    "tokens": "step_tokens",
    "chat": "step_chat",
    "greedy": "step_greedy",
    "corpus": "step_corpus",
    "families": "step_families",
}


def versions():
    import gguf, jinja2, numpy, tokenizers, torch, transformers  # noqa: E401
    from importlib.metadata import version

    names = {m.__name__: m for m in (numpy, tokenizers, torch, transformers, jinja2)}
    found = {name: m.__version__ for name, m in names.items()}
    return {"python": sys.version.split()[0], "gguf": version(gguf.__name__), **found}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ap.add_argument("--model", type=pathlib.Path, required=True, help="the demo model's GGUF file")
    ap.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    ap.add_argument("--only", default=",".join(STEPS), help="steps, separated by commas")
    args = ap.parse_args()

    index_path = args.out / "index.json"
    index = json.loads(index_path.read_text()) if index_path.exists() else {}
    index["versions"] = versions()
    for step in args.only.split(","):
        print(f"== {step}", flush=True)
        index[step] = importlib.import_module(STEPS[step]).run(args.model, args.out)
        index_path.write_text(dump(index) + "\n")


def dump(value, indent=0):
    """JSON that people can read: lists of numbers on one line."""
    pad = " " * indent
    if isinstance(value, dict) and value:
        rows = (f"{pad}  {json.dumps(k)}: {dump(v, indent + 2)}" for k, v in value.items())
        return "{\n" + ",\n".join(rows) + f"\n{pad}}}"
    if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        rows = (f"{pad}  {dump(v, indent + 2)}" for v in value)
        return "[\n" + ",\n".join(rows) + f"\n{pad}]"
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    main()
