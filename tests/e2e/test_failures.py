"""test_failures.py - what clients see when processes die, stop, or are told to end.

Each test has its own cluster. A stream that is cut must say so (an error event, then [DONE]) and
never just go silent; what cannot be served must be refused at once, with the reason; and when the
lost process is back the same question has the same answer as before.
"""

import json
import os
import shutil
import signal
import threading
import time

import pytest

import harness
from gguf_file import GgufFile

QUESTION = "What is gravity?"
GREEDY = {"temperature": 0, "max_tokens": 24, "mlxd": {"logits_digest": True}}
ENDLESS = {"temperature": 0, "max_tokens": 1900, "ignore_eos": True}
LAYERS = (10, 10, 10)


@pytest.fixture
def own(world):
    """A cluster that the test may break."""
    with harness.Cluster(world, layers=LAYERS, args=("--ctx", 2048)) as c:
        yield c


def answer(cluster):
    a = cluster.rest.chat(QUESTION, **GREEDY)
    return a["choices"], a["mlxd"]


def read_until_it_flows(events):
    """Some text has come: prefill is over, the answer is in full swing."""
    for _ in range(5):
        text, event = next(events)
        assert event and "choices" in event, text


def expect_clean_error(events, code):
    """The rest of a stream that is cut: text maybe, one error in OpenAI's shape, [DONE], the end
    of the body."""
    rest = [(text, event) for text, event in events]
    assert rest[-1][0] == "[DONE]"
    error = rest[-2][1]["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code and error["type"] == "server_error" and error["message"]
    assert all("choices" in event for _, event in rest[:-2])
    assert not any(event["choices"][0]["finish_reason"] for _, event in rest[:-2])
    return error["message"]


def expect_unserviceable(rest, device):
    """Reason and advice while a worker is missing."""
    refused = harness.until(lambda: not_ready(rest), "it says that it is not ready")
    assert device in refused["reason"]
    health = rest.get("/health", key=None)
    assert health.status == 503
    assert health.json()["status"] == "unhealthy" and health.json()["degraded"] is True
    status = rest.get("/cluster-status").json()
    assert status["degraded"] is True and device in status["reason"]
    assert status["devices"][device]["status"] != "online"
    for stream in (False, True):
        reply = rest.post("/v1/chat/completions", {
            "messages": [{"role": "user", "content": QUESTION}], "stream": stream})
        assert reply.error()[:2] == (503, "worker_lost")
        assert int(reply.headers["retry-after"]) >= 1
        assert device in reply.json()["error"]["message"]
    assert rest.get("/v1/models").status == 200


def not_ready(rest):
    reply = rest.get("/ready")
    return reply.json() if reply.status == 503 else None


def gauge(rest, name, device):
    for line in rest.get("/metrics").body.decode().splitlines():
        if line.startswith(f'{name}{{device="{device}"}}'):
            return float(line.split()[-1])
    return None


# ---- a worker is lost ----

def test_a_killed_worker(own):
    before = answer(own)
    victim = own.worker("mini2")
    with own.rest.stream(QUESTION, **ENDLESS) as s, own.rest.stream(QUESTION, **ENDLESS) as other:
        events, others = iter(s), iter(other)
        read_until_it_flows(events)
        read_until_it_flows(others)
        victim.kill()
        assert "mini2" in expect_clean_error(events, "worker_lost")
        assert "mini2" in expect_clean_error(others, "worker_lost")
    expect_unserviceable(own.rest, "mini2")
    assert gauge(own.rest, "mlx_worker_up", "mini2") == 0
    assert gauge(own.rest, "mlx_worker_up", "master") == 1
    assert own.worker("master").sessions() == 0
    victim.start()
    own.coordinator.wait_ready()
    assert answer(own) == before
    assert own.rest.get("/health", key=None).json()["degraded"] is False
    assert own.worker("master").pid == own.nodes[2].pid and own.worker("master").running()


def test_a_request_that_is_not_streamed_gets_the_error_as_its_answer(own):
    body = {"messages": [{"role": "user", "content": QUESTION}], **ENDLESS}
    replies = []
    t = threading.Thread(target=lambda: replies.append(
        own.rest.post("/v1/chat/completions", body)))
    t.start()
    harness.until(lambda: own.worker("master").sessions() == 1, "the request is running")
    own.worker("master").kill()
    t.join(harness.HANG_S)
    assert replies[0].error() == (500, "worker_lost", None)
    assert replies[0].headers["x-should-retry"] == "true"
    own.worker("master").start()
    own.coordinator.wait_ready()


def test_a_worker_that_hangs_is_noticed_and_taken_back(world):
    with harness.Cluster(world, layers=LAYERS,
                         args=("--ctx", 2048, "--worker-timeout", 1000)) as own:
        before = answer(own)
        victim = own.worker("master")
        with own.rest.stream(QUESTION, **ENDLESS) as s:
            events = iter(s)
            read_until_it_flows(events)
            victim.signal(signal.SIGSTOP)
            began = time.monotonic()
            assert "master" in expect_clean_error(events, "worker_lost")
            print(f"error event {time.monotonic() - began:.2f} s after SIGSTOP (timeout 1 s)")
        expect_unserviceable(own.rest, "master")
        victim.signal(signal.SIGCONT)
        own.coordinator.wait_ready()
        assert answer(own) == before


def test_both_workers_are_lost_and_return(own):
    before = answer(own)
    for w in own.workers:
        w.kill()
    harness.until(lambda: not_ready(own.rest), "it says that it is not ready")
    for w in reversed(own.workers):
        w.start()
    own.coordinator.wait_ready()
    assert answer(own) == before


def test_the_coordinator_is_lost_and_returns(own):
    """Workers free what it had them hold, and serve the next one."""
    before = answer(own)
    with own.rest.stream(QUESTION, **ENDLESS) as s:
        events = iter(s)
        read_until_it_flows(events)
        own.coordinator.kill()
        with pytest.raises((OSError, harness.http.client.IncompleteRead)):
            for _ in events:
                pass
            raise ConnectionError("a chunked body that just stops")
    for w in own.workers:
        harness.until(lambda w=w: w.sessions() == 0, f"{w.device} has freed the session")
        assert w.running()
    own.coordinator.start()
    own.coordinator.wait_ready()
    assert answer(own) == before


# ---- clients ----

def leave_after(own, count, fields):
    with own.rest.stream(QUESTION, **fields) as s:
        events = iter(s)
        for _ in range(count):
            next(events)
        harness.until(lambda: all(n.sessions() == 1 for n in own.nodes), "all hold the session")
    left = time.monotonic()
    for n in own.workers:
        harness.until(lambda n=n: n.sessions() == 0, f"{n.device} has freed the session")
    freed = time.monotonic() - left
    assert gauge(own.workers[0].rest, "mlx_device_sessions", "mini2") == 0
    assert gauge(own.workers[0].rest, "mlx_kv_cache_pages_used", "mini2") == 0
    return freed


def test_a_client_that_leaves_frees_its_session_everywhere(own):
    times = [leave_after(own, 6, ENDLESS) for _ in range(5)]
    print("freed on both workers after", ", ".join(f"{1e3 * t:.0f} ms" for t in times),
          "(goal 100 ms)")
    assert max(times) < 2
    harness.until(lambda: own.rest.get("/distributed-stats").json()["running_requests"] == 0,
                  "nothing is running")
    stats = own.rest.get("/distributed-stats").json()
    assert stats["cancelled_requests"] == 5 and stats["failed_requests"] == 0


def test_a_client_that_leaves_in_the_prefill(world):
    """Before the first byte of the answer, while nothing is being sent to it."""
    with harness.Cluster(world, layers=LAYERS,
                         args=("--ctx", 4096, "--prefill-chunk", 1)) as own:
        body = json.dumps({"messages": [{"role": "user", "content": "word " * 3000}],
                           "stream": True})
        connection = harness.http.client.HTTPConnection("127.0.0.1", own.rest.port)
        connection.request("POST", "/v1/chat/completions", body,
                           {"Authorization": f"Bearer {harness.KEY}",
                            "Content-Type": "application/json"})
        harness.until(lambda: all(n.sessions() == 1 for n in own.nodes), "all hold the session")
        connection.close()
        left = time.monotonic()
        for n in own.nodes:
            harness.until(lambda n=n: n.sessions() == 0, f"{n.device} has freed the session")
        print(f"freed {1e3 * (time.monotonic() - left):.0f} ms after the client left")


def test_a_client_that_does_not_read_hurts_nobody(own):
    with own.rest.stream(QUESTION, **ENDLESS):  # never reads more than the headers
        assert own.rest.chat(QUESTION, **GREEDY)["choices"]


# ---- told to end ----

def test_sigterm_ends_each_process_with_0(own):
    for n in own.nodes:
        assert n.stop() == 0, n.device
    assert "stopping" in own.coordinator.read_log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load(own, number):
    """Running streams end, or are cut after a while with an event that says why."""
    with own.rest.stream(QUESTION, **ENDLESS) as s:
        events = iter(s)
        read_until_it_flows(events)
        own.coordinator.signal(number)
        rest = list(events)
        assert rest[-1][0] == "[DONE]"
        last = rest[-2][1]
        assert last["error"]["code"] == "shutting_down" if "error" in last \
            else last["choices"][0]["finish_reason"]
    assert own.coordinator.wait() == 0
    for w in own.workers:
        assert w.stop() == 0


def test_sigterm_to_a_worker_under_load(own):
    with own.rest.stream(QUESTION, **ENDLESS) as s:
        events = iter(s)
        read_until_it_flows(events)
        own.worker("mini2").signal(signal.SIGTERM)
        expect_clean_error(events, "worker_lost")
    assert own.worker("mini2").wait() == 0
    expect_unserviceable(own.rest, "mini2")


def test_sigterm_while_loading(world):
    """At any moment of the start, status 0 and no crash; ten moments are tried."""
    for i in range(10):
        n = harness.Node(world, "serve", "mini1").start()
        try:
            time.sleep(i * 0.04)  # the moment is what is varied, nothing is waited for
            n.signal(signal.SIGTERM)
            code = n.wait()
            # Before the handler stands, the signal ends the process the ordinary way.
            assert code in (0, -signal.SIGTERM), (i, code)
            n.killed = True
        finally:
            problem = n.close()
            assert not problem, problem


# ---- files that differ ----

def test_a_worker_with_other_weights_is_refused_by_name(world, tmp_path):
    path = str(tmp_path / "flipped.gguf")
    shutil.copy(world.model, path)
    name = "blk.14.ffn_down.weight"
    tensor = GgufFile(world.model).tensors[name]
    with open(path, "r+b") as f:
        f.seek(tensor.offset + tensor.bytes // 2)
        byte = f.read(1)[0]
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte ^ 0x10]))
    c = harness.Cluster(world, layers=LAYERS)
    c.worker("mini2").args[2] = path  # the value of -m
    try:
        for n in reversed(c.nodes):
            n.start()
        reason = harness.until(lambda: refusal_of(c.coordinator, name),
                               "the coordinator names the tensor")
        assert "mini2" in reason
        assert not_ready(c.rest)
        # with a good file it is taken
        c.worker("mini2").stop()
        c.worker("mini2").args[2] = world.model
        c.worker("mini2").start()
        c.coordinator.wait_ready()
        assert c.rest.chat(QUESTION, **GREEDY)["choices"]
    finally:
        problems = [p for p in [n.close() for n in c.nodes] if p]
    assert not problems


def refusal_of(node, name):
    """The reason that /cluster-status shows, once it names the tensor."""
    assert node.running(), node.read_log()
    try:
        reason = node.rest.get("/cluster-status").json()["reason"]
    except OSError:
        return None
    return reason if reason and name in reason else None


def test_a_worker_with_another_model_is_refused(world):
    c = harness.Cluster(world)
    c.worker("mini2").args[2] = os.path.join(harness.GOLDEN, "tiny-f32.gguf")
    try:
        for n in reversed(c.nodes):
            n.start()
        harness.until(lambda: refusal_of(c.coordinator, "mini2"), "mini2 is named")
        assert not_ready(c.rest)
    finally:
        problems = [p for p in [n.close() for n in c.nodes] if p]
    assert not problems
