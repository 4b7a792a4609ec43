"""test_shards.py - workers without a model file get their layers from the coordinator; real model.

The answer must be the one that a single process gives, with the same logits bit for bit. What goes
over the network is counted: the head of the file and the worker's own layers, and nothing of it
twice, whoever is killed in the middle. A slow network is a proxy here that passes on so many bytes
a second to a worker, on each connection; TLS does not care.
"""

import contextlib
import glob
import os
import signal
import socket
import threading
import time

import pytest

import harness
from gguf_file import GgufFile

QUESTION = "What is gravity?"
GREEDY = {"temperature": 0, "max_tokens": 24, "mlxd": {"logits_digest": True}}
LAYERS = (10, 10, 10)
DEVICES = ("mini2", "master")


class Throttle:
    """Listens, and connects each who comes with `port`; passes on `rate` bytes a second to it."""

    def __init__(self, port, rate):
        self.target, self.rate, self.open = port, rate, True
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while self.open:
            try:
                client, _ = self.server.accept()
                worker = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                if self.open:
                    client.close()
                continue
            threading.Thread(target=self.copy, args=(client, worker, self.rate),
                             daemon=True).start()
            threading.Thread(target=self.copy, args=(worker, client, None), daemon=True).start()

    @staticmethod
    def copy(source, sink, rate):
        began, passed = time.monotonic(), 0
        try:
            while data := source.recv(16384):
                sink.sendall(data)
                passed += len(data)
                if rate:  # no more than so much since the last pause
                    ahead = passed / rate - (time.monotonic() - began)
                    if ahead > 0:
                        time.sleep(ahead)
                    elif ahead < -0.1:
                        began, passed = time.monotonic(), 0
        except OSError:
            pass
        for s in (source, sink):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.open = False
        self.server.close()


class Shards(harness.Cluster):
    """A cluster whose workers have no model file. `rate`: bytes a second to mini2."""

    def __init__(self, world, folder, rate=None, args=(), same=False):
        super().__init__(world, layers=LAYERS, args=("--ctx", 2048, *args))
        self.folder = str(folder)
        self.throttle = None
        for w in self.workers:
            del w.args[1:3]  # -m FILE
            w.args += ["--shards", self.path("all" if same else w.device)]
        if rate:
            self.throttle = Throttle(self.workers[0].grpc, rate)
            at = self.coordinator.args.index(f"mini2=127.0.0.1:{self.workers[0].grpc}")
            self.coordinator.args[at] = f"mini2=127.0.0.1:{self.throttle.port}"

    def path(self, device):
        return os.path.join(self.folder, f"shards-{device}")

    def start(self):
        for n in reversed(self.nodes):
            n.start()

    def stop(self):
        for n in self.nodes:
            assert n.stop() == 0, n.device

    def __exit__(self, kind, error, trace):
        if self.throttle:
            self.throttle.close()
        super().__exit__(kind, error, trace)


@contextlib.contextmanager
def unready(c):
    """The cluster, started, but not waited for."""
    problems = []
    try:
        c.start()
        yield c
        problems = [p for p in [n.close() for n in c.nodes] if p]
    finally:
        c.__exit__(Exception, None, None)
    assert not problems


def answer(rest):
    a = rest.chat(QUESTION, **GREEDY)
    return a["choices"][0]["message"]["content"], a["mlxd"]["logits_sha256"]


@pytest.fixture(scope="module")
def one_process(mlxd, model):
    a = harness.answer(mlxd, model, QUESTION, "--temp", 0, "-n", 24)
    return a["text"], a["logits_sha256"]


@pytest.fixture(scope="module")
def needed(model):
    """Bytes that each worker needs: the head, and its layers."""
    g = GgufFile(model)
    head = min(t.offset for t in g.tensors.values())
    layers = [sum(t.bytes for name, t in g.tensors.items() if name.startswith(f"blk.{i}."))
              for i in range(sum(LAYERS))]
    return {"mini2": head + sum(layers[10:20]), "master": head + sum(layers[20:30]), "head": head}


def fetched(rest, device):
    """What a node says went to the device."""
    name = f'mlx_shard_bytes_total{{device="{device}"}} '
    for line in rest.get("/metrics").body.decode().splitlines():
        if line.startswith(name):
            return int(line[len(name):])
    return None


def downloading(c):
    """mini2's progress (0..1) in the coordinator's eyes, once it downloads more than the head."""
    try:
        status = c.rest.get("/cluster-status").json()
    except OSError:
        return None
    device = status["devices"].get("mini2", {})
    reason = device.get("reason", "")
    if not reason.startswith("downloading layers 10..19: ") or not reason.endswith(" of 22.2 MB"):
        return None
    return device["load_done"]


def kept_on_disk(folder):
    """Bytes that the list of ranges says are there."""
    total = 0
    for path in glob.glob(os.path.join(folder, "*", "ranges")):
        with open(path) as f:
            for line in f.read().splitlines()[1:-1]:
                _, begin, end = map(int, line.split())
                total += end - begin
    return total


# ---- what is sent ----

def test_each_byte_goes_to_its_worker_once(world, tmp_path, one_process, needed):
    with Shards(world, tmp_path) as c:
        assert answer(c.rest) == one_process
        for w in c.workers:
            assert fetched(w.rest, w.device) == needed[w.device]
            assert fetched(c.rest, w.device) == needed[w.device]
            assert kept_on_disk(c.path(w.device)) == needed[w.device]
            copies = glob.glob(os.path.join(c.path(w.device), "*", "model", "*"))
            assert [os.path.getsize(p) for p in copies] == [os.path.getsize(world.model)]
            assert [os.stat(p).st_mode & 0o777 for p in copies] == [0o600]
            assert os.stat(copies[0]).st_blocks * 512 < needed[w.device] * 1.1
        assert fetched(c.rest, "mini1") is None
        # a worker that was restarted has everything on its disk
        c.workers[0].stop()
        c.workers[0].start()
        harness.until(lambda: c.rest.get("/ready", key=None).status == 503, "mini2 is missed")
        c.coordinator.wait_ready()
        assert answer(c.rest) == one_process
        assert fetched(c.workers[0].rest, "mini2") == 0
        # and so it is when everybody was
        c.stop()
        c.start()
        c.coordinator.wait_ready()
        assert answer(c.rest) == one_process
        for w in c.workers:
            assert fetched(w.rest, w.device) == 0
            assert fetched(c.rest, w.device) == 0


def test_damage_on_disk_is_found_and_mended(world, tmp_path, one_process):
    tensor = GgufFile(world.model).tensors["blk.14.ffn_down.weight"]
    with Shards(world, tmp_path) as c:
        c.stop()
        path, = glob.glob(os.path.join(c.path("mini2"), "*", "model", "*"))
        with open(path, "r+b") as f:
            f.seek(tensor.offset + tensor.bytes // 3)
            byte = f.read(1)[0]
            f.seek(-1, os.SEEK_CUR)
            f.write(bytes([byte ^ 0x10]))
        c.start()
        c.coordinator.wait_ready()
        assert answer(c.rest) == one_process
        assert fetched(c.workers[0].rest, "mini2") == tensor.bytes
        assert "blk.14.ffn_down.weight is damaged" in c.workers[0].read_log()
        assert fetched(c.workers[1].rest, "master") == 0


# ---- a slow network ----

def test_nobody_is_disturbed_by_a_download(world, tmp_path, one_process, needed):
    """Beats go on on both links, everybody says what is going on, and the other worker is ready
    long before."""
    with unready(Shards(world, tmp_path, rate=8_000_000, args=("--worker-timeout", 1000))) as c:
        harness.until(lambda: downloading(c), "mini2 downloads")
        reason = c.rest.get("/ready").json()["reason"]
        assert reason.startswith("mini2 is loading: downloading layers 10..19: "), reason
        worker = c.workers[0].rest.get("/ready").json()
        assert worker["ready"] and worker["degraded"]
        assert worker["reason"].startswith("downloading layers 10..19: ")
        harness.until(lambda: c.rest.get("/cluster-status").json()["devices"]["master"]["status"]
                      == "online", "master is online")
        assert downloading(c) is not None
        ages = []
        while downloading(c) is not None:
            for line in c.rest.get("/metrics").body.decode().splitlines():
                if line.startswith("mlx_worker_heartbeat_age_seconds"):
                    ages.append(float(line.split()[-1]))
            time.sleep(0.05)
        c.coordinator.wait_ready()
        print(f"beats were at most {max(ages):.2f} s old in {len(ages)} samples")
        assert max(ages) < 1
        assert "no beat" not in c.coordinator.read_log()
        assert answer(c.rest) == one_process
        assert fetched(c.rest, "mini2") == needed["mini2"]


@pytest.mark.parametrize("victim", ["mini2", "mini1"])
def test_killed_in_the_middle(world, tmp_path, one_process, needed, victim):
    """kill -9 of the worker, or of the coordinator: what was on disk is not sent again."""
    with unready(Shards(world, tmp_path, rate=6_000_000)) as c:
        harness.until(lambda: (downloading(c) or 0) > 0.5, "half of it has come")
        node = c.coordinator if victim == "mini1" else c.workers[0]
        node.kill()
        if victim == "mini1":
            harness.until(lambda: c.workers[0].rest.get("/ready").json().get("reason")
                          == "no coordinator is connected", "mini2 has noticed")
            # What was on its way is still stored.
            harness.until(lambda: "the coordinator has left" in c.workers[0].read_log()
                          and kept_on_disk(c.path("mini2"))
                          == fetched(c.workers[0].rest, "mini2"), "what has come is on disk")
        there = kept_on_disk(c.path("mini2"))
        before = fetched(c.workers[0].rest, "mini2") if victim == "mini1" else 0
        assert needed["head"] < there < needed["mini2"]
        node.start()
        c.coordinator.wait_ready()
        assert answer(c.rest) == one_process
        assert fetched(c.workers[0].rest, "mini2") - before == needed["mini2"] - there
        print(f"{there} of {needed['mini2']} bytes were on disk when {victim} was killed")
        if victim == "mini1":
            assert there == before  # nothing that came was lost


def test_a_worker_is_stopped_in_the_middle(world, tmp_path, needed):
    """SIGTERM: at once, and everything that came is kept."""
    with unready(Shards(world, tmp_path, rate=6_000_000)) as c:
        harness.until(lambda: (downloading(c) or 0) > 0.3, "some of it has come")
        c.workers[0].signal(signal.SIGTERM)
        assert c.workers[0].wait() == 0
        assert needed["head"] < kept_on_disk(c.path("mini2")) < needed["mini2"]


# ---- refusals ----

def refusal(c, text):
    harness.until(lambda: text in (reason_of(c) or ""), f"the reason says: {text}")
    return reason_of(c)


def reason_of(c):
    assert c.coordinator.running(), c.coordinator.read_log()
    try:
        return c.rest.get("/cluster-status").json()["reason"]
    except OSError:
        return None


def test_two_workers_with_one_folder(world, tmp_path):
    with unready(Shards(world, tmp_path, same=True)) as c:
        reason = refusal(c, "another process uses it")
        assert "--shards" in reason


def test_no_room(world, tmp_path, mlxd):
    """A folder that cannot be made is said at the start; one that must not grow, at the load."""
    done = harness.run(mlxd, "worker", "--insecure", "--no-auth", "--shards", "/proc/none")
    assert done.returncode != 0 and "/proc/none" in done.stderr
    done = harness.run(mlxd, "serve", "--insecure", "--no-auth")
    assert done.returncode == 64 and "no model" in done.stderr
