"""test_inspect.py - `mlxd inspect` of directories: what it says is what would be computed with."""

import json
import os
import struct
import subprocess

import harness
import pytest

MAKE = os.path.join(harness.ROOT, "scripts", "make-checkpoint")
SHAPE = ("--family qwen2 --type BF16 --layers 2 --hidden 64 --ffn 96 --heads 4 --kv-heads 2 "
         "--head-dim 16 --vocab 512 --ctx 256").split()


@pytest.fixture
def folder(tmp_path):
    subprocess.run([MAKE, *SHAPE, tmp_path / "tiny"], check=True, capture_output=True)
    return tmp_path / "tiny"


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def inspect(mlxd, folder):
    done = harness.run(mlxd, "inspect", folder, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_numbers_that_are_used(mlxd, folder):
    """A window that is not used is none; the context of a family that does not say it is known."""
    change(folder, "config.json", sliding_window=77, use_sliding_window=False)
    facts = inspect(mlxd, folder)
    assert facts["runs"], facts
    assert (facts["heads"], facts["kv_heads"], facts["context"]) == (4, 2, 256)
    assert not facts.get("window")


def test_texts_of_ends(mlxd, folder):
    """config.json has numbers, tokenizer_config.json one text: it goes with its own number."""
    change(folder, "config.json", eos_token_id=[1, 2])
    ends = [t for t in inspect(mlxd, folder)["special_tokens"] if t["role"] == "eos"]
    assert [(t["id"], t["text"]) for t in ends] == [(1, "<|im_start|>"), (2, "<|im_end|>")]


def test_a_tensor_that_would_be_left_out(mlxd, folder):
    """Loading refuses it, so inspect and plan do."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    n, = struct.unpack("<Q", data[:8])
    head = json.loads(data[8:8 + n])
    head["model.layers.1.mlp.shared.weight"] = {**head["model.norm.weight"]}
    del head["model.norm.weight"]
    data = data[8 + n:]
    head["model.norm.weight"] = {"dtype": "BF16", "shape": [64],
                                 "data_offsets": [len(data), len(data) + 128]}
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data + bytes(128))
    facts = inspect(mlxd, folder)
    assert not facts["runs"] and "blk.1.mlp.shared.weight is not supported" in json.dumps(facts)
    done = harness.run(mlxd, "plan", folder)
    assert done.returncode != 0 and "blk.1.mlp.shared.weight is not supported" in done.stderr
