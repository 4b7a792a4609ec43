"""test_hub.py - pull, ls and rm against a hub on this machine, and the cache that is shared with
huggingface_hub. What goes wrong on the way is in test_hub_faults.py."""

import json
import os
import random
import signal
import subprocess
import sys
import threading

import pytest

import harness
import hub_server
from hub_server import Fault, Hub

MiB = 1 << 20


def noise(size, seed=0):
    """Bytes that look the same nowhere."""
    return random.Random(seed).randbytes(size)


def safetensors_repo():
    shards = {f"model-0000{i}-of-00002.safetensors": noise(2 * MiB + i, i) for i in (1, 2)}
    index = {"weight_map": {f"t{i}": name for i, name in enumerate(shards)}}
    return {"config.json": b'{"model_type": "llama"}', "README.md": b"read me",
            "tokenizer.json": b"{}" * 3000,
            "model.safetensors.index.json": json.dumps(index).encode(),
            "pytorch_model.bin": noise(MiB, 9), "original/consolidated.safetensors": noise(9000, 8),
            **shards}


GGUF_REPO = {"m-Q4_K_M.gguf": noise(5000, 1), "m-Q8_0-00001-of-00002.gguf": noise(3 * MiB, 2),
             "m-Q8_0-00002-of-00002.gguf": noise(MiB, 3), "mmproj-F16.gguf": noise(5000, 4)}


@pytest.fixture
def hub():
    with Hub() as h:
        yield h


class Cache:
    """A cache of its own, and mlxd with it."""

    def __init__(self, mlxd, hub, folder):
        self.mlxd, self.hub = mlxd, hub
        self.path = str(folder / "hub")
        self.env = hub.env(self.path)

    def run(self, *args, **env):
        return harness.run(self.mlxd, *args, env={**self.env, **env})

    def pull(self, *args, **env):
        """The path that it prints."""
        done = self.run("pull", *args, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def events(self, *args, **env):
        done = self.run("pull", "--json", *args, **env)
        return done, [json.loads(line) for line in done.stdout.splitlines()]

    def start(self, *args, **env):
        return subprocess.Popen([self.mlxd, "pull", *args], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True,
                                env=harness.environment({**self.env, **env}))

    def models(self):
        done = self.run("ls", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def files(self):
        """Paths in all snapshots, and their contents, links followed."""
        found = {}
        for folder, _, names in os.walk(self.path):
            for name in names:
                path = os.path.join(folder, name)
                if "/snapshots/" in path:
                    with open(path, "rb") as f:
                        found[path.split("/snapshots/")[1].split("/", 1)[1]] = f.read()
        return found

    def blobs(self, repo="org/name"):
        folder = os.path.join(self.path, "models--" + repo.replace("/", "--"), "blobs")
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


@pytest.fixture
def cache(mlxd, hub, tmp_path):
    return Cache(mlxd, hub, tmp_path)


# ---- what is fetched ----

def test_safetensors(cache, hub):
    files = safetensors_repo()
    repo = hub.add("org/name", files)
    path = cache.pull("org/name")
    assert path.endswith(f"/models--org--name/snapshots/{repo.commit}")
    wanted = {k: v for k, v in files.items()
              if k not in ("README.md", "pytorch_model.bin", "original/consolidated.safetensors")}
    assert cache.files() == wanted
    with open(os.path.join(cache.path, "models--org--name/refs/main"), encoding="ascii") as f:
        assert f.read() == repo.commit
    link = os.readlink(os.path.join(path, "config.json"))
    assert link == f"../../blobs/{repo.files['config.json'].sha1}"
    # Nothing is fetched twice.
    sent = hub.sent("blob") + hub.sent("resolve")
    assert cache.pull("org/name") == path
    assert hub.sent("blob") + hub.sent("resolve") == sent


def test_gguf(cache, hub):
    hub.add("org/name", GGUF_REPO)
    assert cache.pull("org/name").endswith("/m-Q4_K_M.gguf")
    assert set(cache.files()) == {"m-Q4_K_M.gguf"}
    assert cache.pull("org/name:q8_0").endswith("/m-Q8_0-00001-of-00002.gguf")
    assert set(cache.files()) == set(GGUF_REPO) - {"mmproj-F16.gguf"}
    done = cache.run("pull", "org/name:Q5_0")
    assert done.returncode == 66 and "Q4_K_M" in done.stderr and "mmproj" not in done.stderr
    assert cache.pull("org/name/mmproj-F16.gguf").endswith("/mmproj-F16.gguf")


def test_pasted_address_and_patterns(cache, hub):
    hub.add("org/name", GGUF_REPO)
    assert cache.pull(f"{hub.url}/org/name/blob/main/m-Q4_K_M.gguf").endswith("/m-Q4_K_M.gguf")
    cache.pull("org/name", "--file", "*-of-00002.gguf")
    assert "m-Q8_0-00002-of-00002.gguf" in cache.files()
    done = cache.run("pull", "org/name", "--file", "*.bin")
    assert done.returncode == 66 and "*.bin" in done.stderr


def test_paths_are_escaped(cache, hub):
    name = "q#a ?b%/m \u00e4+.Q8_0.gguf"
    hub.add("org/name", {name: noise(9000)})
    cache.pull("org/name:Q8_0")
    assert cache.files() == {name: noise(9000)}


def test_revisions(cache, hub):
    old = hub.add("org/name", {"m-Q8_0.gguf": noise(9000, 1)})
    hub.add("org/name", {"m-Q8_0.gguf": noise(9000, 2)}, revision="refs/pr/1")
    assert old.commit in cache.pull("org/name")
    assert cache.pull("org/name@refs/pr/1") != cache.pull(f"org/name@{old.commit}")
    new = hub.add("org/name", {"m-Q8_0.gguf": noise(9000, 1), "m-Q4_0.gguf": noise(7000)})
    before = hub.sent("blob")
    assert new.commit in cache.pull("org/name:Q8_0")
    assert hub.sent("blob") == before  # the same content in another commit
    names = {(m["name"], m["refs"]) for m in cache.models()["models"]}
    assert names == {("org/name:Q8_0", ""), ("org/name:Q8_0", "main"),
                     ("org/name:Q8_0", "refs/pr/1")}
    done = cache.run("pull", "org/name@nothing")
    assert done.returncode == 66 and 'no revision "nothing"' in done.stderr


def test_moved_repository(cache, hub):
    hub.add("org/name", GGUF_REPO)
    hub.moved["old/name"] = "org/name"
    assert cache.pull("old/name").endswith("/m-Q4_K_M.gguf")


def test_empty_files_and_many_pages(cache, hub):
    files = {f"x/{i:04}.txt": b"%d" % i for i in range(500)}
    files |= {"config.json": b"", "model.safetensors": b"", "tokenizer.json": noise(9000)}
    hub.add("org/name", files)
    hub.page = 7
    cache.pull("org/name")
    assert cache.files()["model.safetensors"] == b""
    assert len(hub.requests("tree")) > 70
    cache.pull("org/name", "--file", "x/*", "--connections", "16")
    assert len(cache.files()) == 503


# ---- with huggingface_hub ----

def python(cache, code, **env):
    """Runs code with huggingface_hub as h."""
    pytest.importorskip("huggingface_hub")
    done = subprocess.run([sys.executable, "-c", "import huggingface_hub as h, json\n" + code],
                          env=harness.environment({**cache.env, **env}), capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SCAN = """
i = h.scan_cache_dir()
print(json.dumps([[r.repo_id, sorted([v.commit_hash, sorted(v.refs),
      sorted(f.file_name for f in v.files)] for v in r.revisions)] for r in i.repos]
      + [str(w) for w in i.warnings]))
"""


def test_python_reads_ours(cache, hub):
    repo = hub.add("org/name", safetensors_repo())
    path = cache.pull("org/name")
    found = python(cache, "print(h.snapshot_download('org/name', local_files_only=True))")
    assert found == path
    scanned = json.loads(python(cache, SCAN))
    assert scanned == [["org/name", [[repo.commit, ["main"], sorted(cache.files())]]]]
    # It completes what we chose not to fetch, and fetches nothing twice.
    before = hub.sent("blob", repo.files["model-00001-of-00002.safetensors"].sha256)
    python(cache, "h.snapshot_download('org/name')", HF_HUB_DISABLE_XET="1")
    assert hub.sent("blob", repo.files["model-00001-of-00002.safetensors"].sha256) == before
    assert cache.files()["README.md"] == b"read me"


def test_we_read_pythons(cache, hub):
    hub.add("org/name", safetensors_repo())
    hub.add("org/gguf", GGUF_REPO)
    python(cache, "h.snapshot_download('org/name'); h.hf_hub_download('org/gguf', 'm-Q4_K_M.gguf')",
           HF_HUB_DISABLE_XET="1")
    models = cache.models()["models"]
    assert [(m["name"], m["complete"]) for m in models] == \
        [("org/gguf:Q4_K_M", True), ("org/name", True)]
    before = hub.sent("blob") + hub.sent("resolve")
    assert cache.pull("org/gguf").endswith("m-Q4_K_M.gguf")
    cache.pull("org/name")
    assert hub.sent("blob") + hub.sent("resolve") == before


def test_python_scans_after_rm(cache, hub):
    hub.add("org/name", GGUF_REPO)
    cache.pull("org/name:Q8_0")
    new = hub.add("org/name", {**GGUF_REPO, "README.md": b"new"})
    cache.pull("org/name:Q8_0")
    cache.pull("org/name:Q4_K_M")
    done = cache.run("rm", "org/name:Q8_0", "--yes", "--json")
    assert json.loads(done.stdout)["freed"] == 4 * MiB
    scanned = json.loads(python(cache, SCAN))
    assert scanned == [["org/name", [[new.commit, ["main"], ["m-Q4_K_M.gguf"]]]]]


# ---- ls and rm ----

def test_ls_and_rm(cache, hub):
    assert "no models" in cache.run("ls").stdout
    hub.add("org/name", safetensors_repo())
    path = cache.pull("org/name")
    listed = cache.run("ls").stdout
    assert "org/name" in listed and "safetensors" in listed and "(main)" in listed
    os.unlink(os.path.join(path, "model-00002-of-00002.safetensors"))
    model, = cache.models()["models"]
    assert not model["complete"] and "model-00002-of-00002" in model["missing"]
    assert "incomplete" in cache.run("ls").stdout
    done = cache.run("rm", "org/name")  # no terminal, no --yes
    assert done.returncode == 64 and cache.blobs()
    done = cache.run("rm", "org/name", "--yes")
    assert done.returncode == 0 and "freed" in done.stdout
    assert not os.path.exists(os.path.join(cache.path, "models--org--name"))
    done = cache.run("rm", "org/name", "--yes")
    assert done.returncode == 66


def test_rm_refuses_while_pulling(cache, hub):
    go = threading.Event()
    hub.add("org/name", {"m.gguf": noise(MiB)})
    hub.faults.append(Fault("blob", hub_server.stall(1000, go)))
    process = cache.start("org/name")
    harness.until(lambda: hub.requests("blob"), "the download has begun")
    done = cache.run("rm", "org/name", "--yes")
    assert done.returncode == 75 and "pulled" in done.stderr
    go.set()
    assert process.wait(60) == 0
    process.communicate()
    assert cache.run("rm", "org/name", "--yes").returncode == 0


# ---- interruption ----

def test_two_pulls_at_once(cache, hub):
    go = threading.Event()
    hub.add("org/name", GGUF_REPO)
    large = hub_server.File(GGUF_REPO["m-Q8_0-00001-of-00002.gguf"]).sha256
    hub.faults.append(Fault("blob", hub_server.stall(MiB, go), path=large))
    first = cache.start("org/name:Q8_0")
    harness.until(lambda: len(hub.requests("blob")) == 2, "the first one fetches")
    second = cache.start("org/name:Q8_0", "--json")
    events = []
    for line in second.stdout:
        events.append(json.loads(line))
        if events[-1].get("status") == "locked":
            go.set()
    assert second.wait(60) == 0, second.stderr.read()
    assert go.is_set(), events
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert events[-1]["event"] == "done" and events[-1]["fetched"] == 0
    assert hub.sent("blob") == 4 * MiB
    assert cache.files()["m-Q8_0-00001-of-00002.gguf"] == GGUF_REPO["m-Q8_0-00001-of-00002.gguf"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_resumes_in_another_run(cache, hub, how):
    go = threading.Event()
    files = safetensors_repo()
    name = "model-00001-of-00002.safetensors"
    repo = hub.add("org/name", files)
    digest = repo.files[name].sha256
    hub.faults.append(Fault("blob", hub_server.stall(MiB, go), path=digest))
    process = cache.start("org/name")
    partial = f"{cache.path}/models--org--name/blobs/{digest}.mlxd.incomplete"
    harness.until(lambda: os.path.exists(partial) and os.path.getsize(partial) == MiB,
                  "a MiB has come")
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (-9 if how == signal.SIGKILL else 130), err
    go.set()
    assert not cache.files()  # nothing that looks whole
    assert cache.models()["unfinished"][0]["bytes"] >= MiB
    assert cache.run("plan", "org/name").returncode == 66
    done, events = cache.events("org/name")
    assert done.returncode == 0, done.stderr
    last = [e for e in events if e["event"] == "file" and e["path"] == name][-1]
    assert last["status"] == "done" and last["resumed"] == MiB
    again = hub.requests("blob", digest)[1]
    assert again.headers["range"] == f"bytes={MiB}-"
    assert again.sent == len(files[name]) - MiB
    assert cache.files()[name] == files[name]
    assert not [b for b in cache.blobs() if b.endswith(".incomplete")]


# ---- names instead of paths ----

@pytest.fixture(scope="module")
def tiny():
    with open(os.path.join(harness.GOLDEN, "tiny-q4_0.gguf"), "rb") as f:
        return f.read()


def test_run_by_name(cache, hub, tiny):
    hub.add("org/tiny", {"tiny-Q4_0.gguf": tiny, "tiny-Q8_0.gguf": b"x" * 5000})
    args = ("-p", "a", "--raw", "-n", "2", "--json", "--temp", "0")
    done = cache.run("plan", "org/tiny:Q4_0", "--json")
    assert done.returncode == 66 and "not pulled yet" in done.stderr
    done = cache.run("run", "org/tiny:Q4_0", *args, HF_HUB_OFFLINE="1")
    assert done.returncode == 66 and "offline" in done.stderr
    assert not hub.log
    named = cache.run("run", "org/tiny:Q4_0", *args)  # pulls it
    assert named.returncode == 0, named.stderr
    count = len(hub.log)
    path = os.path.join(harness.GOLDEN, "tiny-q4_0.gguf")
    for again in (("org/tiny", "--ctx", "16"), ("-m", "hf://org/tiny:q4_0"), ("-m", path)):
        done = cache.run("run", *again, *args)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["logits_sha256"] == json.loads(named.stdout)["logits_sha256"]
    assert cache.run("plan", "org/tiny:Q4_0", "--json").returncode == 0
    assert len(hub.log) == count  # all of that without the hub
    os.mkdir(os.path.join(cache.path, "..", "org"))
    with open(os.path.join(cache.path, "..", "org", "tiny"), "wb") as f:
        f.write(b"not a model")
    done = harness.run(cache.mlxd, "run", "org/tiny", *args, env=cache.env,
                       cwd=os.path.join(cache.path, ".."))
    assert done.returncode == 65 and "org/tiny" in done.stderr  # a path that exists wins


def test_inspect(cache, hub, tiny):
    """By path and by name, a model that runs and models that do not."""
    hub.add("org/tiny", {"tiny-Q4_0.gguf": tiny})
    assert cache.run("inspect", "org/tiny").returncode == 66
    cache.pull("org/tiny")
    done = cache.run("inspect", "org/tiny", "--json", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["runs"] and facts["architecture"] == "llama" and facts["format"] == "gguf"
    assert [(t["type"], t["tensors"]) for t in facts["types"]] == [("Q4_0", 36), ("F32", 11)]
    assert sum(facts["layer_bytes"]) + facts["embedding_bytes"] + facts["other_bytes"] == \
        sum(t["bytes"] for t in facts["types"])
    assert (facts["layers"], facts["context"], facts["context_that_fits"]) == (5, 512, 512)
    # 5 layers, keys and values of 2 heads of 16, 2 bytes each
    assert facts["kv_bytes_per_token"] == 5 * 2 * 2 * 16 * 2
    assert {"role": "eos", "id": 2, "text": "<|im_end|>"} in facts["special_tokens"]
    assert facts["chat_template"]["supported"] and not facts["chat_template"]["tools"]
    text = cache.run("inspect", "org/tiny").stdout
    assert "Q4_0" in text and "context of 512 tokens fits" in text
    folder = os.path.join(harness.GOLDEN, "checkpoints", "moe-sharded")
    facts = json.loads(cache.run("inspect", folder, "--json").stdout)
    assert facts["architecture"] == "qwen3_moe" and facts["format"] == "safetensors"
    assert (facts["experts"], facts["experts_used"], facts["kv_heads"]) == (4, 2, 2)
    assert "config.json" in [f["name"] for f in facts["files"]]
    done = cache.run("inspect", os.path.join(harness.GOLDEN, "index.json"))
    assert done.returncode == 65


def test_offline(cache, hub):
    hub.add("org/name", GGUF_REPO)
    cache.pull("org/name")
    count = len(hub.log)
    done = cache.run("pull", "org/name:Q8_0", HF_HUB_OFFLINE="1")
    assert done.returncode == 69 and "HF_HUB_OFFLINE" in done.stderr
    assert len(hub.log) == count
    assert cache.run("ls", HF_HUB_OFFLINE="1").returncode == 0


def test_what_is_no_name(cache):
    for text in ("model", "model.gguf", "org/name/../x", "https://example.org/a/b"):
        done = cache.run("pull", text)
        assert done.returncode == 65 and "no model name" in done.stderr
    assert cache.run("pull").returncode == 64
    assert cache.run("pull", "a/b", "c/d").returncode == 64
    done = cache.run("plan", "nothere.gguf")
    assert done.returncode == 66 and "no such file" in done.stderr


def test_lines_for_people(cache, hub):
    hub.add("org/name", safetensors_repo())
    done = cache.run("pull", "org/name")
    assert "5 files" in done.stderr and "config.json" in done.stderr and "MiB" in done.stderr
    assert "\033" not in done.stderr
    done = cache.run("pull", "org/name", "--quiet")
    assert done.stderr == "" and "/snapshots/" in done.stdout


def test_bars_on_a_terminal(cache, hub):
    go = threading.Event()
    hub.add("org/name", {"m.gguf": noise(MiB)})
    hub.faults.append(Fault("blob", hub_server.stall(MiB // 2, go)))
    master, terminal = os.openpty()
    process = subprocess.Popen([cache.mlxd, "pull", "org/name"], stdout=subprocess.DEVNULL,
                               stderr=terminal, env=harness.environment(cache.env))
    os.close(terminal)
    text = b""

    def half():
        nonlocal text
        text += os.read(master, 65536)
        return b"512.0 KiB / 1.0 MiB" in text
    harness.until(half, "half of it is shown")
    go.set()
    assert process.wait(60) == 0
    assert b"m.gguf" in text and b"[######......]" in text
    os.close(master)
