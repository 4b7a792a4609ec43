"""test_demo.py - scripts/demo, as a newcomer runs it: three processes, an answer, the times.

It runs in a folder of its own, with the binary under test and other ports, so that a demo that
someone has running beside the tests is left alone.
"""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest

import harness

NODES = ("mini1", "mini2", "master")


class Demo:
    def __init__(self, folder, mlxd, model):
        self.folder = os.path.realpath(folder)
        for name in ("demo", "demo-client"):
            os.makedirs(self.folder + "/scripts", exist_ok=True)
            shutil.copy(os.path.join(harness.ROOT, "scripts", name), self.folder + "/scripts")
        os.makedirs(self.folder + "/build")
        shutil.copy(mlxd, self.folder + "/build/mlxd")
        self.port = free_base()
        self.env = harness.environment({"DEMO_PORT": str(self.port), "DEMO_MODEL": model})

    def run(self, *args, **env):
        done = subprocess.run([self.folder + "/scripts/demo", *args], env={**self.env, **env},
                              capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              timeout=harness.HANG_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def file(self, name):
        with open(f"{self.folder}/build/demo/{name}", encoding="utf-8") as f:
            return f.read().strip()

    def pids(self):
        """Those of the processes that run."""
        found = []
        for node in NODES:
            if os.path.exists(f"{self.folder}/build/demo/{node}.pid"):
                found.append(int(self.file(node + ".pid")))
        return [p for p in found if is_running(p)]


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def free_base():
    """A port p such that p, p+1, p+2 and what the demo derives from them are free."""
    offsets = [1000 * k + i for k in (0, 1) for i in range(3)] + [1100 + i for i in range(3)]
    for _ in range(100):
        [base] = harness.free_ports(1)
        if all(is_free(base + o) for o in offsets):
            return base
    raise AssertionError("no free ports")


def is_free(port):
    with harness.socket.socket() as s:
        s.setsockopt(harness.socket.SOL_SOCKET, harness.socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


@pytest.fixture(scope="module")
def demo(tmp_path_factory, mlxd, model):
    if not os.path.isdir("/proc/self"):
        pytest.skip("the demo's own processes are recognised through /proc")
    d = Demo(tmp_path_factory.mktemp("demo"), mlxd, model)
    yield d
    for pid in d.pids():
        os.kill(pid, signal.SIGKILL)


def answer_of(output):
    """What stands between the question and the plan."""
    text = re.search(r"^> .*?\n\n(.*?)\n\nPlan$", output, re.M | re.S)
    assert text, output
    return text[1]


def test_it_answers_and_stops(demo):
    out = demo.run()
    assert len(answer_of(out)) > 40 and out.startswith("\n> What is gravity?")
    for node in NODES:
        assert re.search(rf"^  {node} +(coordinator|worker) +(layers +\d+\.\. ?\d+|no layers)",
                         out, re.M), out
    assert re.search(r"first token after \d+ ms", out)
    assert re.search(r"answer \d+ tokens, [\d.]+ tokens/s", out)
    assert len(re.findall(r"compute +[\d.]+ ms +wire and queue +[\d.]+ ms", out)) >= 2
    assert re.search(r"^Logits SHA-256 [0-9a-f]{64}$", out, re.M)
    assert "DEMO_KEEP=1 make demo" in out
    assert demo.pids() == []
    for node in NODES:
        assert not harness.CRASH.search(demo.file(node + ".log"))


def test_kept_running_until_it_is_stopped(demo, mlxd, model):
    """Base URL, key and pids are printed and right; the digest is that of one process."""
    out = demo.run(DEMO_KEEP="1", DEMO_PROMPT="What is the sea?")
    pids = demo.pids()
    assert len(set(pids)) == 3
    for node, pid in zip(NODES, pids, strict=True):
        assert re.search(rf"^  {node} +pid {pid} ", out, re.M), out
    url = re.search(r"^  base URL +http://127.0.0.1:(\d+)/v1$", out, re.M)
    key = re.search(r"^  API key +(\S+)$", out, re.M)[1]
    assert int(url[1]) == demo.port and key in demo.file("api-key")
    assert os.stat(f"{demo.folder}/build/demo/api-key").st_mode & 0o77 == 0
    rest = harness.Rest(demo.port)
    reply = rest.get("/v1/models", key=key)
    assert reply.status == 200 and json.loads(reply.body)["data"]

    alone = harness.answer(mlxd, model, "What is the sea?", "-n", 160, "--temp", 0)
    assert answer_of(out) == alone["text"].rstrip("\n")
    assert alone["logits_sha256"] in out

    again = demo.run(DEMO_KEEP="1", DEMO_PROMPT="What is the sea?")
    assert demo.pids() == pids  # the same processes
    assert answer_of(again) == answer_of(out)

    demo.run("stop")
    assert not any(is_running(p) for p in pids) and demo.pids() == []
    demo.run("stop")  # once more does no harm
