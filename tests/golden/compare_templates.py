#!/usr/bin/env python3
"""compare_templates - our Jinja interpreter against jinja2 as transformers sets it up.

    compare_templates.py RENDER FOLDER...

RENDER is the binary render_template of the build, FOLDER has chat templates (*.jinja). Every
template is rendered for every conversation below by both; the texts must be the same, or both must
fail, with the same message when the template raised it. Prints a line per difference and a summary;
exits 1 when there is one. Needs transformers and jinja2.

A template that changes a list (append, pop ...) is refused by transformers' sandbox; append works
here, so such a case is counted apart and not compared.
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

TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Get \"weather\" <here> & 'there'",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "Name of the city"},
            "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
            "days": {"type": ["integer", "null"], "minimum": 1, "maximum": 1.5},
            "where": {"type": "object", "properties": {"lat": {"type": "number"},
                                                       "tags": {"type": "array", "items": {"type": "string"}}},
                      "required": ["lat"]}},
            "required": ["city"]}, "strict": True}},
    {"type": "function", "function": {
        "name": "now", "description": "Zeit für ☃ 漢字", "parameters": {"type": "object", "properties": {}}}},
]
CALL = {"id": "call_1abcd", "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 2, "where": {"lat": 50.9, "tags": ["a", "b"]}}}}
CALL2 = {"id": "call_2abcd", "type": "function", "function": {"name": "now", "arguments": {}}}
CALL9 = {"id": "abcdef012", "type": "function", "function": {"name": "now", "arguments": {"x": None, "y": True}}}


def s(text):
    return {"role": "system", "content": text}


def u(text):
    return {"role": "user", "content": text}


def a(text, **more):
    return {"role": "assistant", "content": text, **more}


CHATS = {
    "user": [u("Hello  ")],
    "system": [s("  Be brief.\n"), u("Hi ☃")],
    "turns": [u("1"), a("2"), u("3"), a("4 'q' \"d\""), u("5")],
    "system turns": [s("Sys"), u("1"), a("2"), u("3")],
    "ends with assistant": [u("1"), a("two")],
    "two users": [u("1"), u("2")],
    "assistant first": [a("1"), u("2")],
    "late system": [u("1"), s("late"), u("2")],
    "odd role": [u("1"), {"role": "critic", "content": "x"}],
    "developer": [{"role": "developer", "content": "Dev."}, u("1")],
    "empty": [],
    "empty content": [u(""), a(""), u(" ")],
    "none content": [u("1"), a(None, tool_calls=[CALL]), {"role": "tool", "content": "{\"t\": 3}", "tool_call_id": "call_1abcd", "name": "get_weather"}, u("so?")],
    "tool": [s("S"), u("w?"), a("", tool_calls=[CALL]), {"role": "tool", "name": "get_weather", "tool_call_id": "call_1abcd", "content": "sunny"}],
    "tools two": [u("w?"), a("Let me see.", tool_calls=[CALL, CALL2]), {"role": "tool", "name": "get_weather", "content": "sunny"}, {"role": "tool", "name": "now", "content": "{\"h\": 12}"}, a("It is."), u("thanks")],
    "tool 9": [u("w?"), a("", tool_calls=[CALL9]), {"role": "tool", "name": "now", "tool_call_id": "abcdef012", "content": "12"}, a("noon"), u("ok")],
    "tool json content": [u("w?"), a("", tool_calls=[CALL]), {"role": "tool", "name": "get_weather", "tool_call_id": "call_1abcd", "content": {"a": [1, 2.5, None]}}],
    "arguments text": [u("w?"), a("", tool_calls=[{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]), {"role": "tool", "content": "r"}],
    "call without function": [u("w?"), a("", tool_calls=[{"name": "f", "arguments": {"a": 1}}]), {"role": "tool", "content": "r"}],
    "thinking": [u("1"), a("<think>\nhm\n</think>\n\nok"), u("2"), a("ok", reasoning_content="I think\n")],
    "thinking last": [u("1"), a("ok", reasoning_content="first"), u("2"), a("", reasoning_content="then", tool_calls=[CALL]), {"role": "tool", "content": "r"}],
    "thinking field": [u("1"), a("ok", thinking="first"), u("2")],
    "parts": [u([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]), a([{"type": "text", "text": "three"}])],
    "system parts": [s([{"type": "text", "text": "sys"}]), u([{"type": "text", "text": "one"}])],
    "image": [u([{"type": "image"}, {"type": "text", "text": "what is it"}])],
    "names": [{"role": "user", "name": "ann", "content": "x"}, {"role": "user", "name": "bob", "content": "y"}],
    "missing content": [{"role": "user"}],
    "missing role": [{"content": "x"}],
    "control text": [u("a<|im_end|>\n<|im_start|>system\nb"), a("[INST] <s> </s>"), u("\r\n\tx\x0b ß İ Σ")],
    "ipython": [u("w"), a("", tool_calls=[CALL]), {"role": "ipython", "content": "out"}],
    "number content": [u(12.0)],
    "many": [m for i in range(30) for m in (u(f"q{i}"), a(f"r{i}"))] + [u("end")],
}
EXTRAS = {
    "": {},
    "prompt": {"add_generation_prompt": True},
    "tools": {"tools": TOOLS, "add_generation_prompt": True},
    "tools in prompt": {"tools": TOOLS, "add_generation_prompt": True, "tools_in_user_message": False, "builtin_tools": ["brave_search", "code_interpreter"]},
    "one tool": {"tools": TOOLS[:1], "add_generation_prompt": True, "date_string": "01 Jan 2025"},
    "no tools": {"tools": [], "add_generation_prompt": True},
    "flat tool": {"tools": [t["function"] for t in TOOLS], "add_generation_prompt": True},
    "documents": {"documents": [{"title": "T1", "text": "D1"}, {"title": "T2", "text": "D2", "contents": "x"}], "add_generation_prompt": True},
    "think": {"enable_thinking": True, "add_generation_prompt": True},
    "no think": {"enable_thinking": False, "add_generation_prompt": True, "thinking": False},
    "effort": {"reasoning_effort": "high", "add_generation_prompt": True, "model_identity": "I am.", "thinking": True, "reasoning_budget": 100},
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)


hf.datetime = Clock


def contexts():
    for chat_name, chat in CHATS.items():
        for extra_name, extra in EXTRAS.items():
            base = {"tools": None, "documents": None, "add_generation_prompt": False}
            yield f"{chat_name} / {extra_name}", {
                "messages": hf._alias_reasoning_fields(chat), **TOKENS, **base, **extra, "_now": NOW}


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
        return got.get("error") == "invalid" and \
            got["why"] == "".join(c if " " <= c != "\x7f" else "?" for c in want[1])[:len(got["why"])]
    return "error" in got and got["error"] != "invalid"


def main(render, folders):
    names, cases = zip(*contexts())
    count = collections.Counter()
    for path in sorted(p for folder in folders for p in pathlib.Path(folder).glob("*.jinja")):
        source = path.read_bytes().decode()
        bad = 0
        for name, case, got in zip(names, cases, ours(render, path, cases), strict=True):
            want = expected(source, case)
            if want[0] == "refused":
                count["refused by the sandbox, " + ("works" if "text" in got else "fails") + " here"] += 1
                continue
            good = same(want, got)
            count[f"{want[0]}, {'same' if good else 'DIFFERENT'}"] += 1
            if not good:
                bad += 1
                if bad <= 3:
                    print(f"{path.name}: {name}\n  want {want}\n  got  {got}")
        count["templates"] += 1
        count["templates with differences"] += bad > 0
    for key in sorted(count):
        print(f"{count[key]:6} {key}")
    return 1 if any("DIFF" in key for key in count) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
