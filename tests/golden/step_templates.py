"""Step `templates`: templates.json, small templates as jinja2 renders them.

    {"context": {...}, "cases": [{"template", "text" | "raised" | "fails"}, ...]}

The context and the templates in this file are written by hand; the step fills in what comes of
each: "text", or "raised" with the message of raise_exception, or "fails" with the name of any other
error. jinja2 is set up as transformers does it. Whole templates of public models are not kept here:
compare_templates.py runs over a folder of them.
"""

import json

import compare_templates


def outcome(source, context):
    kind, text = compare_templates.expected(source, json.loads(json.dumps(context)))
    if kind in ("text", "raised"):
        return {kind: text}
    return {"fails": text.split(":")[0][:40]}  # texts of Python's own errors are not ours


def run(_model, out):
    file = out / "templates.json"
    data = json.loads(file.read_text())
    cases = [{"template": c["template"], **outcome(c["template"], data["context"])}
             for c in data["cases"]]
    lines = ",\n".join(json.dumps(c, ensure_ascii=True) for c in cases)
    context = json.dumps(data["context"])
    file.write_text(f'{{"context": {context},\n"cases": [\n{lines}\n]}}\n')
    return {"file": file.name, "cases": len(cases)}
