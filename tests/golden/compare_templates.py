#!/usr/bin/env python3
"""compare_templates - our Jinja interpreter against jinja2 as transformers sets it up.

    compare_templates.py RENDER FOLDER...

RENDER is the binary render_template of the build, FOLDER has chat templates (*.jinja). Every
template is rendered for every conversation of conversations.json by both; the texts must be the
same, or both must fail, with the same message when the template raised it. Prints a line per
difference and a summary; exits 1 when there is one. Needs transformers and jinja2.

Then ours renders every template with a mark (U+E000) in every text of the conversation, and fails
when a mark turns up in what counts as the template's own text.

A template that changes a list (append, pop ...) is refused by transformers' sandbox; these two
work here, so such a case is counted apart and not compared.
"""

import collections
import datetime
import json
import pathlib
import subprocess
import sys
import tempfile

import jinja2
import transformers.utils.chat_template_utils as hf

NOW = 1735787045  # 2025-01-02 03:04:05 UTC

HERE = pathlib.Path(__file__).parent


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)


hf.datetime = Clock


def contexts():
    """Name and variables of every conversation with every set of further variables."""
    data = json.loads((HERE / "conversations.json").read_text())
    base = {"tools": None, "documents": None, "add_generation_prompt": False, "_now": NOW}
    for chat_name, chat in data["chats"].items():
        messages = hf._alias_reasoning_fields(chat)
        for extra_name, extra in data["extras"].items():
            yield f"{chat_name} / {extra_name}", {
                "messages": messages, **data["tokens"], **base, **extra}


def expected(source, context):
    """("text", text), ("raised", message), ("fails", text) or ("refused", text: by the sandbox)."""
    try:
        template = hf._compile_jinja_template(source)
        context = {k: v for k, v in context.items() if k != "_now"}
        return "text", template.render(**hf._plain_template_data(context))
    except jinja2.exceptions.SecurityError as e:
        return "refused", str(e)
    except jinja2.exceptions.TemplateError as e:
        # raise_exception raises this very class; jinja2 itself only subclasses.
        return ("raised" if type(e) is jinja2.exceptions.TemplateError else "fails"), str(e)
    except Exception as e:
        return "fails", f"{type(e).__name__}: {e}"


def ours(render, path, cases):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(cases, f)
        f.flush()
        run = subprocess.run([render, path, f.name], capture_output=True, check=True)
    return [json.loads(line) for line in run.stdout.decode().split("\n") if line]


def same(want, got):
    if want[0] == "text":
        return got.get("text") == want[1]
    if want[0] == "raised":
        text = "".join(c if " " <= c != "\x7f" else "?" for c in want[1])
        return got.get("error") == "invalid" and got["why"] == text[:len(got["why"])]
    return "error" in got and got["error"] != "invalid"


def marked(value, key=""):
    """`value` with a mark in all texts but those that decide what a template does."""
    if isinstance(value, dict):
        return {k: marked(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [marked(v, key) for v in value]
    return value + "\ue000" if isinstance(value, str) and key not in ("role", "type") else value


def main(render, folders):
    names, cases = zip(*contexts())
    count = collections.Counter()
    for path in sorted(p for folder in folders for p in pathlib.Path(folder).glob("*.jinja")):
        source = path.read_bytes().decode()
        bad = 0
        for name, case, got in zip(names, cases, ours(render, path, cases), strict=True):
            want = expected(source, case)
            if want[0] == "refused":
                how = "works" if "text" in got else "fails"
                count[f"refused by the sandbox, {how} here"] += 1
                continue
            good = same(want, got)
            count[f"{want[0]}, {'same' if good else 'DIFFERENT'}"] += 1
            if not good:
                bad += 1
                if bad <= 3:
                    print(f"{path.name}: {name}\n  want {want}\n  got  {got}")
        marks = [{k: marked(v) if k in ("messages", "tools", "documents") else v
                  for k, v in case.items()} for case in cases]
        for got in ours(render, path, marks):
            count["marks of trust, " + ("text" if "text" in got else "no text")] += 1
        count["templates"] += 1
        count["templates with differences"] += bad > 0
    for key in sorted(count):
        print(f"{count[key]:6} {key}")
    return 1 if any("DIFF" in key for key in count) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
