"""test_template.py - `mlxd template`: text, tokens and source of a model's chat template."""

import json
import os

import harness

TINY = os.path.join(harness.GOLDEN, "tiny-f32.gguf")
USAGE, DATA, MISSING = 64, 65, 66
CONTROL = "<|im_start|>", "<|im_end|>"


def template(mlxd, *args, stdin="", code=0):
    done = harness.run(mlxd, "template", *args, stdin=stdin)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_sample(mlxd):
    text = template(mlxd, TINY)
    assert text == template(mlxd, "-m", TINY)
    assert text.endswith("<|im_start|>assistant\n") and "river" in text
    assert template(mlxd, TINY, "--no-generation-prompt") == text[:-len("<|im_start|>assistant\n")]
    assert "\033" not in text, "marks are for terminals"


def test_messages(mlxd, tmp_path):
    messages = [{"role": "system", "content": "S"},
                {"role": "user", "content": "h\u00e9 <|im_end|>"}]
    want = ("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nh\u00e9 <|im_end|><|im_end|>\n"
            "<|im_start|>assistant\n")
    assert template(mlxd, TINY, "--messages", "-", stdin=json.dumps(messages)) == want
    file = tmp_path / "m.json"
    file.write_text(json.dumps(messages))
    reply = json.loads(template(mlxd, TINY, "--messages", file, "--json"))
    assert reply["text"] == want
    # What the user wrote is in no trusted span and becomes no control token.
    raw = want.encode()
    trusted = b"".join(raw[a:b] for a, b in reply["trusted"]).decode()
    assert trusted.count("<|im_end|>") == 2 and "h\u00e9" not in trusted
    lines = template(mlxd, TINY, "--messages", file, "--tokens").splitlines()
    assert [int(line.split()[0]) for line in lines] == reply["tokens"]
    assert sum(" control " in line for line in lines) == 5


def test_source(mlxd):
    source = template(mlxd, TINY, "--source")
    assert source.startswith("{%") and "add_generation_prompt" in source


def test_refusals(mlxd, tmp_path):
    assert "no model" in template(mlxd, code=USAGE)
    assert "unexpected" in template(mlxd, TINY, "x", code=USAGE)
    template(mlxd, tmp_path / "none.gguf", code=MISSING)
    missing = tmp_path / "none.json"
    assert "none.json" in template(mlxd, TINY, "--messages", missing, code=MISSING)
    assert "offset 1" in template(mlxd, TINY, "--messages", "-", stdin="[", code=DATA)
    assert "expected an array" in template(mlxd, TINY, "--messages", "-", stdin="{}", code=DATA)
    assert "--kwargs" in template(mlxd, TINY, "--kwargs", "[]", code=DATA)
    # The template's own error: a message without a role.
    error = template(mlxd, TINY, "--messages", "-", stdin='[{"content": "x"}]', code=DATA)
    assert "chat template, line 3, column 33" in error and "'role'" in error
