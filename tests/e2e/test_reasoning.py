"""test_reasoning.py - what a model thinks, apart from what it says: over REST with the OpenAI SDK,
and on the terminal. The model is shown how to think by the conversation itself.
"""

import json
import shutil
import struct

import openai
import pytest

import harness
from terminal import CTRL_D, Terminal

THOUGHT, SAID = "6 plus 1 is 7.", "The answer is 7."
QUESTION = {"role": "user", "content": "What is 6 plus 1?"}


def lessons():
    """A conversation in which every answer began with a thought."""
    for n in range(1, 6):
        yield {"role": "user", "content": f"What is {n} plus 1?"}
        yield {"role": "assistant", "content": f"<think>\n{n} plus 1 is {n + 1}.\n</think>\n\n"
                                               f"The answer is {n + 1}."}


@pytest.fixture(scope="module")
def thinker(world):
    with harness.Cluster(world, workers=(),
                         args=("--ctx", 1024, "--reasoning-format", "think")) as c:
        yield c


@pytest.fixture(scope="module")
def client(thinker):
    with openai.OpenAI(base_url=thinker.rest.url + "/v1", api_key=harness.KEY,
                       timeout=harness.HANG_S, max_retries=0) as c:
        yield c


def ask(client, **fields):
    return client.chat.completions.create(model="", messages=[*lessons(), QUESTION], temperature=0,
                                          max_tokens=60, **fields)


def test_an_answer(client):
    a = ask(client)
    assert a.choices[0].message.content == SAID
    assert a.choices[0].message.reasoning_content == THOUGHT
    assert a.choices[0].finish_reason == "stop"
    details = a.usage.completion_tokens_details
    assert 0 < details.reasoning_tokens < a.usage.completion_tokens


def test_a_stream(client):
    chunks = list(ask(client, stream=True))
    deltas = [c.choices[0].delta for c in chunks]
    thoughts = [getattr(d, "reasoning_content", None) for d in deltas]
    assert "".join(t or "" for t in thoughts) == THOUGHT
    assert "".join(d.content or "" for d in deltas) == SAID
    assert sum(t is not None for t in thoughts) > 3  # it comes as it is thought
    assert not any(t is not None and d.content for t, d in zip(thoughts, deltas))


def test_as_the_model_wrote_it(client):
    a = ask(client, extra_body={"reasoning_format": "none"})
    assert a.choices[0].message.content == f"<think>\n{THOUGHT}\n</think>\n\n{SAID}"
    assert not hasattr(a.choices[0].message, "reasoning_content")
    assert a.usage.completion_tokens_details.reasoning_tokens == 0


def test_stop_strings_look_at_the_content(client):
    a = ask(client, stop=["7"])
    assert a.choices[0].message.reasoning_content == THOUGHT
    assert a.choices[0].message.content == "The answer is "
    assert a.choices[0].finish_reason == "stop"


def test_thoughts_may_come_back(client):
    """What an SDK got it may send: the next turn does not fail on it."""
    first = ask(client).choices[0].message
    again = client.chat.completions.create(
        model="", max_tokens=8, temperature=0,
        messages=[*lessons(), QUESTION, first.model_dump(), {"role": "user", "content": "Why?"}])
    assert again.choices[0].finish_reason in ("stop", "length")


def test_the_defaults_are_told(thinker):
    model = thinker.rest.get("/v1/models").json()["data"][0]
    assert model["meta"]["reasoning_format"] == "think"
    assert model["default_generation_settings"] == {
        "temperature": 0.7, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1,
        "max_tokens": 512}


def test_a_format_that_is_none(mlxd, model):
    done = harness.run(mlxd, "run", model, "-p", "x", "--reasoning-format", "loud")
    assert done.returncode == 78
    assert 'reasoning format "loud": expected auto, none, think' in done.stderr


# ---- a template with a switch, as Qwen3 has it ----

SWITCH = """{%- for m in messages -%}
{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor -%}{{ '<|im_start|>assistant\\n<think>\\n' }}
{%- if enable_thinking is defined and not enable_thinking -%}{{ '\\n</think>\\n\\n' }}{%- endif -%}
""".encode()


@pytest.fixture(scope="module")
def switched(model, tmp_path_factory):
    """The real model with another chat template of the same length in its place."""
    path = tmp_path_factory.mktemp("switched") / "model.gguf"
    shutil.copyfile(model, path)
    with open(path, "r+b") as f:
        head = f.read(4 << 20)
        key = b"tokenizer.chat_template" + struct.pack("<I", 8)
        at = head.index(key) + len(key)
        [length] = struct.unpack("<Q", head[at:at + 8])
        assert length >= len(SWITCH) + 4
        f.seek(at + 8)
        f.write(SWITCH + b"{#" + b" " * (length - len(SWITCH) - 4) + b"#}")
    return str(path)


def test_the_template_begins_the_thought(world, switched):
    """What it writes behind the question decides where the answer begins; no flag is needed."""
    with harness.Cluster(world, workers=(), args=("--ctx", 512), model=switched) as c:
        meta = c.rest.get("/v1/models").json()["data"][0]["meta"]
        assert meta["reasoning_format"] == "think"
        fields = {"messages": [QUESTION], "temperature": 0, "max_tokens": 12}
        message = c.rest.post("/v1/chat/completions", fields).json()["choices"][0]["message"]
        assert message["content"] == "" and message["reasoning_content"]
        message = c.rest.post("/v1/chat/completions", {**fields, "enable_thinking": False}).json()
        message = message["choices"][0]["message"]
        assert message["content"] and "reasoning_content" not in message


def test_think_and_nothink(mlxd, switched, tmp_path):
    with Terminal([mlxd, "run", switched, "--temp", 0, "-c", 512, "-n", 12],
                  {"XDG_STATE_HOME": str(tmp_path)}) as t:
        t.expect(">>> ")
        assert "thinking             as the template has it" in t.ask("/show")
        assert "\x1b[2m" in t.ask(QUESTION["content"])
        assert "(it answers at once)" in t.ask("/nothink")
        t.ask("/clear")
        assert "\x1b[2m" not in t.ask(QUESTION["content"])
        assert "thinking             off" in t.ask("/show")
        t.ask("/think")
        t.ask("/clear")
        assert "\x1b[2m" in t.ask(QUESTION["content"])
        t.type(CTRL_D)
        assert t.end() == 0


def test_on_a_terminal(mlxd, model, tmp_path):
    path = tmp_path / "lessons.json"
    path.write_text(json.dumps({"messages": list(lessons())}))
    state = {"XDG_STATE_HOME": str(tmp_path)}
    with Terminal([mlxd, "run", model, "--temp", 0, "-c", 1024, "--reasoning-format", "think"],
                  state) as t:
        t.expect(">>> ")
        t.ask(f"/load {path}")
        shown = t.ask(QUESTION["content"])
        assert f"\x1b[2m{THOUGHT}\x1b[0m\n\n{SAID}\n" in shown
        t.ask(f"/save {path}")
        assert json.loads(path.read_text())["messages"][-1] == {
            "role": "assistant", "content": SAID, "reasoning_content": THOUGHT}
        t.type(CTRL_D)
        assert t.end() == 0
