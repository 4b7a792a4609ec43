"""test_checkpoints.py - folders of safetensors are served like any model.

scripts/make-checkpoint writes them with random weights: the layers, names, tokenizer files and MLX
quantization of a real Qwen3 1.7B (its widths too, with FULL_SIZE=1), and a mixture of experts.
Whoever computes which layers, and wherever a worker has them from, the logits must have the bits of
one process.
"""

import json
import os
import subprocess

import pytest

import harness

SMALL = ("--hidden", "128", "--ffn", "256", "--heads", "4", "--kv-heads", "2", "--head-dim", "32",
         "--vocab", "2048")
QUESTION = "What is gravity?"
TOKENS = 16
GREEDY = {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True,
          "mlxd": {"logits_digest": True}}


def make(folder, name, *args):
    path = os.path.join(folder, name)
    shape = () if os.environ.get("FULL_SIZE") else SMALL
    subprocess.run([os.path.join(harness.ROOT, "scripts", "make-checkpoint"), *args, *shape, path],
                   check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    return make(tmp_path_factory.mktemp("models"), "qwen3", "--shard-mib", "1")


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    return make(tmp_path_factory.mktemp("models"), "experts", "--family", "qwen3_moe", "--type",
                "4bit", "--layers", "5", "--experts", "8", "--experts-used", "2")


def local(mlxd, path, *args):
    a = harness.answer(mlxd, path, QUESTION, "--temp", 0, "-n", TOKENS, "--ignore-eos", *args)
    return a["text"], a["logits_sha256"]


def served(cluster):
    a = cluster.rest.chat(QUESTION, **GREEDY)
    return a["choices"][0]["message"]["content"], a["mlxd"]["logits_sha256"]


def test_three_processes_have_the_bits_of_one(mlxd, world, qwen3, tmp_path):
    """Layers 0-9, 10-18 and 19-27; the last worker has no files of its own."""
    reference = local(mlxd, qwen3)
    assert local(mlxd, qwen3, "--layers-per-stage", "10,9,9", "--prefill-chunk", 3) == reference
    c = harness.Cluster(world, layers=(10, 9, 9), args=("--ctx", 1024), model=qwen3)
    last = c.worker("master")
    del last.args[1:3]  # -m FOLDER
    last.args += ["--shards", str(tmp_path / "shards")]
    with c:
        assert served(c) == reference
        status = c.rest.get("/cluster-status").json()
        assert [len(d["layers"]) for d in status["devices"].values()] == [10, 9, 9]


def test_experts(mlxd, world, experts):
    reference = local(mlxd, experts)
    assert local(mlxd, experts, "--prefill-chunk", 1, "--threads", 1) == reference
    with harness.Cluster(world, layers=(2, 1, 2), args=("--ctx", 1024), model=experts) as c:
        assert served(c) == reference


def test_every_command_takes_a_folder(mlxd, qwen3):
    done = harness.run(mlxd, "inspect", qwen3, "--json")
    facts = json.loads(done.stdout)
    assert facts["architecture"] == "qwen3" and facts["layers"] == 28 and facts["runs"], facts
    for args in (("bench", qwen3, "-p", "8", "-n", "4", "-r", "1", "--json"),
                 ("plan", qwen3, "--json"), ("template", qwen3)):
        done = harness.run(mlxd, *args)
        assert done.returncode == 0, done.stderr
        assert done.stdout


@pytest.mark.parametrize("spoil,text", [
    ("config.json", "config.json"),
    ("tokenizer.json", "tokenizer.json"),
    ("shard", "model-00001-of-"),
])
def test_what_is_missing_is_named(mlxd, qwen3, tmp_path, spoil, text):
    for name in os.listdir(qwen3):
        gone = name == spoil or (spoil == "shard" and name.startswith("model-00001-of-"))
        if not gone:
            os.link(os.path.join(qwen3, name), tmp_path / name)
    done = harness.run(mlxd, "run", "-m", str(tmp_path), "-p", "x")
    assert done.returncode != 0
    assert text in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
