"""Conversations on a terminal: `mlxd run MODEL` at a pseudo-terminal, with the real model."""

import json
import os
import signal
import termios

import pytest

from harness import run
from terminal import CTRL_C, CTRL_D, UP, Terminal

SHORT = ("--temp", 0, "-n", 12, "-c", 1024)


@pytest.fixture
def state(tmp_path):
    """A home of its own, so that no test meets the history of another."""
    return {"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}


def chat(mlxd, model, state, *args, **options):
    t = Terminal([mlxd, "run", model, *(args or SHORT)], state, **options)
    t.expect("/help lists the commands")
    t.expect(">>> ")
    return t


def history(state):
    with open(os.path.join(state["XDG_STATE_HOME"], "mlxd", "history"), encoding="utf-8") as f:
        return f.read()


def end(t):
    t.type(CTRL_D)
    assert t.end() == 0


def messages(t, path):
    t.ask(f"/save {path}")
    with open(path, encoding="utf-8") as f:
        return json.load(f)["messages"]


# ---- turns ----

def test_a_conversation_is_remembered_and_cached(mlxd, model, state, tmp_path):
    with chat(mlxd, model, state, *SHORT, "-v") as t:
        first = t.ask("What is gravity?")
        assert "ravity" in first and ", 0 of them cached" in first
        second = t.ask("Who found it?")
        # All that the first turn had computed is there: its prompt and all but the last token.
        assert ", 0 of them cached" not in second
        kept = messages(t, tmp_path / "talk.json")
        end(t)
    assert [m["role"] for m in kept] == ["user", "assistant"] * 2
    assert kept[0]["content"] == "What is gravity?"
    # The same conversation in one go, without a cache, gives the same answer.
    with chat(mlxd, model, state) as t:
        with open(tmp_path / "part.json", "w", encoding="utf-8") as f:
            json.dump({"messages": kept[:2]}, f)
        t.ask(f"/load {tmp_path / 'part.json'}")
        t.ask("Who found it?")
        assert messages(t, tmp_path / "again.json") == kept
        end(t)


def test_regenerate_clear_and_system(mlxd, model, state, tmp_path):
    path = tmp_path / "talk.json"
    with chat(mlxd, model, state, *SHORT, "--system", "You are a pirate.") as t:
        assert "there is no message to answer" in t.ask("/regenerate")
        t.ask("Who are you?")
        before = messages(t, path)
        t.ask("/regenerate")
        assert messages(t, path) == before  # greedy: the same
        t.ask("/set temperature 2")
        t.ask("/set seed 1")
        t.ask("/regenerate")
        hot = messages(t, path)
        assert len(hot) == 3 and hot[:2] == before[:2] and hot[2] != before[2]
        assert "You are a pirate." in t.ask("/system")
        t.ask("/clear")
        assert messages(t, path) == [{"role": "system", "content": "You are a pirate."}]
        t.ask("/system Be brief.")
        t.ask("Hello")
        assert messages(t, path)[0] == {"role": "system", "content": "Be brief."}
        t.ask('/system ""')
        assert messages(t, path)[0]["role"] == "user"
        end(t)


def test_ctrl_c_stops_the_answer_and_not_the_program(mlxd, model, state, tmp_path):
    with chat(mlxd, model, state, "--temp", 0, "--ignore-eos") as t:
        t.type("Tell me a very long story.\r")
        t.expect("\n")
        t.expect(" ")  # it has begun
        t.type(CTRL_C)
        t.expect("(stopped)")
        t.expect(">>> ")
        kept = messages(t, tmp_path / "talk.json")
        assert len(kept) == 2 and kept[1]["content"]
        # The conversation goes on.
        t.type("Go on.\r")
        t.expect("\n")
        t.expect(" ")
        t.type(CTRL_C)
        t.expect("(stopped)")
        t.expect(">>> ")
        end(t)


def test_the_oldest_turns_are_left_out(mlxd, model, state, tmp_path):
    with chat(mlxd, model, state, "--temp", 0, "-n", 16, "-c", 256,
              "--system", "You are a counting machine.") as t:
        told = ""
        for i in range(6):
            told += t.ask(f"Message {i}: " + "one two three four five six seven eight " * 4)
        assert "the context of 256 tokens is full: the oldest" in told
        kept = messages(t, tmp_path / "talk.json")
        assert kept[0] == {"role": "system", "content": "You are a counting machine."}
        assert kept[1]["role"] == "user" and kept[-2]["content"].startswith("Message 5")
        assert len(kept) < 13
        # One that can never fit is refused, and the conversation stays as it is.
        assert "The message is too long" in t.ask("word " * 300)
        assert messages(t, tmp_path / "talk.json")[-2:] == kept[-2:]
        end(t)


# ---- the keyboard ----

def test_editing_and_history(mlxd, model, state, tmp_path):
    with chat(mlxd, model, state) as t:
        # A character is one character, however many bytes it has.
        t.type("Grüße €x".encode() + b"\x7f\x7f" + "!\r".encode())
        t.expect("\n")
        t.expect(">>> ")
        assert messages(t, tmp_path / "talk.json")[0]["content"] == "Grüße !"
        end(t)
    assert "Grüße\\040!" in history(state)
    where = os.path.join(state["XDG_STATE_HOME"], "mlxd")
    assert os.stat(os.path.join(where, "history")).st_mode & 0o777 == 0o600
    assert os.stat(where).st_mode & 0o777 == 0o700
    with chat(mlxd, model, state) as t:  # another day
        t.type(UP + UP + b"!\r")
        t.expect("\n")
        t.expect(">>> ")
        assert messages(t, tmp_path / "talk.json")[0]["content"] == "Grüße !!"
        end(t)


def test_several_lines(mlxd, model, state, tmp_path):
    with chat(mlxd, model, state) as t:
        t.type("one \\\r")
        t.expect("... ")
        t.type("two\r")
        t.expect(">>> ")
        t.type('"""\r')
        t.expect("... ")
        t.type("  three\r")
        t.expect("... ")
        t.type('four \\\r')
        t.expect("... ")
        t.type('"""\r')
        t.expect(">>> ")
        # Pasted: nothing is sent before Enter, whatever line ends are in it.
        t.type(b"\x1b[200~five\rsix\n\x1b[Zseven\x1b[201~ eight\r")
        t.expect("seven eight")
        t.expect(">>> ")
        said = [m["content"] for m in messages(t, tmp_path / "talk.json") if m["role"] == "user"]
        assert said == ["one \ntwo", "  three\nfour \\", "five\nsix\n\x1b[Zseven eight"]
        # As one entry of the history, too.
        t.type(UP + UP + b"\r")
        t.expect("seven eight")
        t.expect(">>> ")
        said = [m["content"] for m in messages(t, tmp_path / "talk.json") if m["role"] == "user"]
        assert said[-1] == said[-2] and len(said) == 4
        end(t)


def test_ctrl_c_at_the_prompt(mlxd, model, state, tmp_path):
    with chat(mlxd, model, state) as t:
        t.type("not this")
        t.expect("not this")
        t.type(CTRL_C)  # drops the line
        t.expect(">>> ")
        t.type("one \\\r")
        t.expect("... ")
        t.type(CTRL_C)  # all of it
        t.expect(">>> ")
        t.type(CTRL_C)
        t.expect("Ctrl-C again")
        t.expect(">>> ")
        t.ask("/show")  # something else came between
        t.type(CTRL_C)
        t.expect("Ctrl-C again")
        t.expect(">>> ")
        assert messages(t, tmp_path / "talk.json") == []
        t.type(CTRL_C)
        t.expect(">>> ")
        t.type(CTRL_C)
        assert t.end() == 0


@pytest.mark.parametrize("how", ["/exit\r", "/quit\r", b"\x04"])
def test_ends(mlxd, model, state, how):
    with chat(mlxd, model, state) as t:
        t.type(how)
        assert t.end() == 0


def test_sigterm_and_a_lost_terminal(mlxd, model, state):
    with chat(mlxd, model, state) as t:
        t.process.send_signal(signal.SIGTERM)
        assert t.end() == 130
    with chat(mlxd, model, state, "--temp", 0, "--ignore-eos") as t:
        t.type("Tell me a very long story.\r")
        t.expect("\n")
        t.expect(" ")
        t.process.send_signal(signal.SIGTERM)
        assert t.end() == 130


@pytest.mark.parametrize("term", ["dumb", "", "no-such-terminal"])
def test_poor_terminals(mlxd, model, state, term, tmp_path):
    with chat(mlxd, model, {**state, "TERM": term}) as t:
        t.ask("Hello")
        assert messages(t, tmp_path / "talk.json")[0]["content"] == "Hello"
        end(t)


def test_a_terminal_that_changes_its_size(mlxd, model, state, tmp_path):
    with chat(mlxd, model, state, columns=40) as t:
        words = "a long message that fills more than one line of so narrow a terminal"
        t.type(words)
        t.expect("narrow")
        termios.tcsetwinsize(t.fd, (50, 120))
        t.process.send_signal(signal.SIGWINCH)
        t.type("!\r")
        t.expect("!")
        t.expect(">>> ")
        assert messages(t, tmp_path / "talk.json")[0]["content"] == words + "!"
        end(t)


# ---- commands ----

def test_commands_that_do_not_work(mlxd, model, state, tmp_path):
    (tmp_path / "bad.json").write_text('{"messages":[{"role":"robot","content":"x"}]}')
    (tmp_path / "late.json").write_text('{"messages":[{"role":"user","content":"x"},'
                                        '{"role":"system","content":"y"}]}')
    with chat(mlxd, model, state) as t:
        for line, answer in (
                ("/nonsense", "/nonsense is no command; /help lists them"),
                ("/set", "repetition_penalty"),
                ("/set temperature", "needs a name and a value"),
                ("/set temperature hot", 'temperature: expected a number, got "hot"'),
                ("/set temperature 3", "temperature: expected 0 to 2, got 3"),
                ("/set top_k -4", 'top_k: expected a number, got "-4"'),
                ("/set colour red", "colour: no such setting"),
                ("/save", "/save needs the name of a file"),
                ("/save /nowhere/x", "/nowhere/x: cannot be written"),
                ("/load /nowhere/x", "/nowhere/x: cannot be read"),
                (f"/load {tmp_path}/bad.json", "messages[0]: role: expected"),
                (f"/load {tmp_path}/late.json", "messages[1]: a system message must be the first"),
                ("/think", "template has no switch for thinking"),
                ("/nothink", "template has no switch for thinking"),
                ("/help", "/regenerate")):
            assert answer in t.ask(line)
        t.ask("/set temperature 0.25")
        t.ask("/set top_k 7")
        t.ask("/set seed 11")
        t.ask("/set max_tokens 5")
        shown = t.ask("/show")
        for part in ("temperature          0.25", "top_k                7",
                     "seed                 11", "max_tokens           5", "of 1024 tokens",
                     os.path.basename(model)):
            assert part in shown
        assert "(cut off at 5 tokens" in t.ask("Count to a hundred.")
        end(t)


# ---- what is shown ----

THOUGHT = {"messages": [{"role": "user", "content": "x"},
                        {"role": "assistant", "content": "Four.\x1b[2J\u009b\x07",
                         "reasoning_content": "Two and\x1b]0;title\x07 two."}]}


def test_thinking_is_dimmed_and_control_characters_are_shown(mlxd, model, state, tmp_path):
    path = tmp_path / "thought.json"
    path.write_text(json.dumps(THOUGHT))
    with chat(mlxd, model, state) as t:
        shown = t.ask(f"/load {path}")
        assert "\x1b[2mTwo and^[]0;title^G two.\x1b[0m\n\nFour.^[[2J<U+009B>^G\n" in shown
        end(t)
    with chat(mlxd, model, {**state, "NO_COLOR": "1"}) as t:
        shown = t.ask(f"/load {path}")
        assert "Thinking...\nTwo and^[]0;title^G two.\n...done thinking.\n\nFour." in shown
        assert "\x1b[2m" not in shown
        end(t)


def test_an_answer_that_thinks(mlxd, model, state):
    """A text that begins inside the reasoning, and never ends it: dimmed, and not in a pipe."""
    args = [mlxd, "run", model, "--raw", "--reasoning-format", "think", "--temp", 0, "-n", 8, "-q",
            "-c", 512, "-p", "Let me think.\n<think>\n"]
    with Terminal(args, state) as t:
        assert t.end() == 0
        assert b"\x1b[2m" in t.text and t.text.rstrip().endswith(b"\x1b[0m")
    done = run(mlxd, *args[1:])
    assert done.returncode == 0 and done.stdout == "\n"
    answer = json.loads(run(mlxd, *args[1:], "--json").stdout)
    assert answer["text"] == "" and answer["reasoning"]
    plain = json.loads(run(mlxd, *args[1:4], *args[6:], "--json").stdout)
    assert plain["tokens"] == answer["tokens"] and "reasoning" not in plain


# ---- no conversation ----

def test_without_a_terminal_standard_input_is_the_prompt(mlxd, model):
    done = run(mlxd, "run", model, *SHORT, "-q", stdin="What is gravity?")
    assert done.returncode == 0 and "ravity" in done.stdout
    done = run(mlxd, "run", model, *SHORT, stdin="")
    assert done.returncode == 64 and "no prompt: standard input is empty" in done.stderr


def test_only_half_a_terminal(mlxd, model, state):
    """A keyboard, but no screen: nobody would see what to answer."""
    with Terminal(["sh", "-c", '"$0" run "$1" | cat', mlxd, model], state) as t:
        t.expect("no prompt: give -p TEXT")
    with Terminal([mlxd, "run", model, "--json"], state) as t:
        t.expect("no prompt: give -p TEXT")
        assert t.end() == 64
    done = run(mlxd, "run", model, "another")
    assert done.returncode == 64 and 'unexpected argument "another"' in done.stderr
    done = run(mlxd, "run")
    assert done.returncode == 64 and "no model" in done.stderr
