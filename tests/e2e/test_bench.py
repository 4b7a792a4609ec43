"""test_bench.py - `mlxd bench`: which tests it runs, the forms of its results, what it refuses.

How fast anything is, no test can say.
"""

import csv
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import harness

TINY = os.path.join(harness.GOLDEN, "tiny-q4_0.gguf")
FLOAT = os.path.join(harness.GOLDEN, "tiny-f16.gguf")
USAGE, DATA, MISSING, NO_MEMORY, CONFIG, INTERRUPTED = 64, 65, 66, 71, 78, 130
# What llama-bench calls so, and what is ours.
THEIRS = {"build_commit", "cpu_info", "model_filename", "model_type", "model_size",
          "model_n_params", "n_batch", "n_threads", "n_prompt", "n_gen", "n_depth", "test_time",
          "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts"}
OURS = {"batch", "isa", "read_gbs", "int8_gops", "share_of_read", "share_of_int8", "weight_bytes",
        "kv_bytes", "load_ms", "rss_peak"}


def bench(mlxd, model, *args, **options):
    done = harness.run(mlxd, "bench", "-m", model, *args, **options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "progress is for terminals"
    return done.stdout


def bench_json(mlxd, model, *args, **options):
    rows = json.loads(bench(mlxd, model, *args, "--json", **options))
    assert isinstance(rows, list)
    return rows


def kinds_of(rows):
    return [(r["n_threads"], r["n_depth"], r["n_prompt"], r["n_gen"], r["batch"]) for r in rows]


def check_row(row, repetitions):
    """The numbers of a row agree with each other."""
    assert set(row) == THEIRS | OURS
    tokens = row["n_prompt"] or row["n_gen"] * row["batch"]
    ns, ts = row["samples_ns"], row["samples_ts"]
    assert len(ns) == len(ts) == repetitions and min(ns) > 0
    for a, b in zip(ns, ts):
        assert math.isclose(b, tokens * 1e9 / a, rel_tol=1e-9)
    assert abs(row["avg_ns"] - sum(ns) / len(ns)) <= 1
    assert math.isclose(row["avg_ts"], sum(ts) / len(ts), rel_tol=1e-9)
    if repetitions == 1:
        assert row["stddev_ns"] == 0 and row["stddev_ts"] == 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row["test_time"])
    assert row["read_gbs"] > 0 and row["int8_gops"] > 0 and row["load_ms"] > 0
    # One of the two limits is that of the test.
    used = "share_of_read" if row["n_gen"] else "share_of_int8"
    assert row[used] > 0
    assert row["share_of_int8" if row["n_gen"] else "share_of_read"] is None


def test_real_model(mlxd, model):
    """A row for each combination, in order; a prompt has no batch."""
    rows = bench_json(mlxd, model, "-p", "8,3", "-n", "2", "-b", "1,3", "-d", "0,70", "-t", "1,2",
                      "-r", "2", "--prefill-chunk", "5")
    expected = []
    for threads in (1, 2):
        for depth in (0, 70):
            expected += [(threads, depth, 8, 0, 1), (threads, depth, 3, 0, 1),
                         (threads, depth, 0, 2, 1), (threads, depth, 0, 2, 3)]
    assert kinds_of(rows) == expected
    size = os.path.getsize(model)
    for row in rows:
        check_row(row, 2)
        assert row["model_filename"] == model and row["n_batch"] == 5
        assert 0.9 * size < row["model_size"] < size
        assert row["weight_bytes"] > 0.5 * row["model_size"]
        assert row["rss_peak"] > row["weight_bytes"] + row["kv_bytes"] / 2
        assert row["rss_peak"] < row["weight_bytes"] + 500e6, "the probe's region must not count"
    assert rows[3]["kv_bytes"] == 3 * rows[2]["kv_bytes"]
    assert rows[6]["kv_bytes"] == 2 * rows[2]["kv_bytes"]


def test_defaults(mlxd):
    rows = bench_json(mlxd, FLOAT, "-r", "1")
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    assert kinds_of(rows) == [(min(cpus, 256), 0, 512, 0, 1), (min(cpus, 256), 0, 0, 128, 1)]
    assert rows[0]["n_batch"] == 512
    # Float weights are not multiplied as bytes.
    assert rows[0]["share_of_int8"] is None and rows[1]["share_of_read"] > 0


def test_one_kind_only(mlxd):
    assert kinds_of(bench_json(mlxd, TINY, "-p", "0", "-n", "3", "-r", "1", "-t", "1",
                               "--no-warmup")) == [(1, 0, 0, 3, 1)]
    rows = bench_json(mlxd, TINY, "-p", "3", "-p", "4", "-n", "0", "-r", "1", "-t", "1",
                      "--cpu", "scalar")
    assert kinds_of(rows) == [(1, 0, 3, 0, 1), (1, 0, 4, 0, 1)]
    assert {r["isa"] for r in rows} == {"scalar"}
    for row in rows:
        check_row(row, 1)


def test_environment_and_file(mlxd, tmp_path):
    config = tmp_path / "mlxd.yaml"
    config.write_text(f"model:\n  path: {TINY}\ncompute:\n  threads: [2, 1]\n")
    args = ("bench", "-p", "2", "-n", "0", "-r", "1", "--json", "--config", str(config))
    assert [r["n_threads"] for r in json.loads(harness.run(mlxd, *args).stdout)] == [2, 1]
    config.write_text(f"model:\n  path: {TINY}\ncompute:\n  threads: 2\n")
    assert [r["n_threads"] for r in json.loads(harness.run(mlxd, *args).stdout)] == [2]
    done = harness.run(mlxd, *args, env={**os.environ, "MLXD_THREADS": "1"})
    assert [r["n_threads"] for r in json.loads(done.stdout)] == [1]


def test_table(mlxd):
    out = bench(mlxd, TINY, "-p", "4", "-n", "2", "-b", "2", "-d", "64", "-t", "1", "-r", "1")
    lines = out.splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")]
             for line in lines if line.startswith("|")]
    assert len(table) == 4 and len({len(row) for row in table}) == 1
    assert all(set(cell) <= set("-:") for cell in table[1])
    column = {name: i for i, name in enumerate(table[0])}
    assert [row[column["test"]] for row in table[2:]] == ["pp4 @ d64", "tg2 @ d64 b2"]
    for row, kind in zip(table[2:], ("int8", "read")):
        assert re.fullmatch(r"\d+\.\d\d \u00b1 +\d+\.\d\d", row[column["t/s"]])
        assert re.fullmatch(rf"\d+ % {kind}", row[column["of limit"]])
        assert float(row[column["read GB/s"]]) > 0 and float(row[column["int8 GOP/s"]]) > 0
        assert row[column["threads"]] == "1"
    assert re.search(r"weights in memory .* resident at most .* loaded in .* build ", lines[-1])


def test_csv(mlxd):
    args = ("-p", "4", "-n", "2", "-t", "1", "-r", "1")
    rows = list(csv.DictReader(io.StringIO(bench(mlxd, TINY, *args, "--csv"))))
    assert [(r["n_prompt"], r["n_gen"]) for r in rows] == [("4", "0"), ("0", "2")]
    assert set(rows[0]) == (THEIRS | OURS) - {"samples_ns", "samples_ts"}
    assert rows[0]["model_filename"] == TINY and float(rows[0]["avg_ts"]) > 0
    assert rows[0]["share_of_read"] == "" and float(rows[1]["share_of_read"]) > 0


@pytest.mark.parametrize("args, code, text", [
    (["-m", TINY, "-p", "0", "-n", "0"], USAGE, "nothing to measure"),
    ([], USAGE, "no model"),
    (["-m", "/no/such.gguf"], MISSING, "/no/such.gguf: cannot open"),
    (["-m", __file__], DATA, "expected \"GGUF\""),
    (["-m", TINY, "-p", "513"], DATA, "depth 0 and 513 tokens are beyond the model's context of"),
    (["-m", TINY, "-p", "0", "-d", "500", "-n", "13"], DATA, "depth 500 and 13 tokens"),
    (["-m", TINY, "-b", "257"], USAGE, "--batch: expected a whole number from 1 to 256"),
    (["-m", TINY, "-b", "0"], USAGE, "--batch: expected a whole number from 1"),
    (["-m", TINY, "-p", "4,x"], USAGE, "--n-prompt: expected a whole number from 0 to 16777216"),
    (["-m", TINY, "-p", "4,,5"], USAGE, "--n-prompt: expected a whole number"),
    (["-m", TINY, "-n", "-1"], USAGE, "--n-gen: expected a whole number"),
    (["-m", TINY, "-t", "257"], USAGE, "--threads: expected a whole number from 0 to 256"),
    (["-m", TINY, "-r", "0"], USAGE, "--repetitions: expected a whole number from 1"),
    (["-m", TINY, "-p", ",".join("1" * 17)], USAGE, "--n-prompt: more than 16 numbers"),
    (["-m", TINY, "--json", "--csv"], USAGE, "--json and --csv"),
    (["-m", TINY, "--cpu", "sse9"], DATA, "unknown instruction set \"sse9\""),
    (["-m", TINY, "words"], USAGE, "unexpected argument \"words\""),
])
def test_refusals(mlxd, args, code, text):
    done = harness.run(mlxd, "bench", *args)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("mlxd: ")]
    assert len(lines) == 1 and text in lines[0], done.stderr


def test_memory(mlxd, model):
    """Both numbers are told before anything is loaded."""
    if os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") > 45e9:
        pytest.skip("this machine has the memory")
    done = harness.run(mlxd, "bench", "-m", model, "-p", "0", "-n", "1", "-b", "256", "-d", "8191")
    assert done.returncode == NO_MEMORY
    assert re.search(r"\d+ MiB of weights and \d+ MiB of KV cache are needed", done.stderr)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt(mlxd, model, number):
    """What was measured before is still told, as a whole list."""
    command = [mlxd, "bench", "-m", model, "-p", "200", "-n", "0", "-r", "1000", "-t", "1",
               "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as child:
        time.sleep(3)
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    assert child.returncode == INTERRUPTED and err == ""
    assert out == "" or json.loads(out) == []  # "": it was still loading
