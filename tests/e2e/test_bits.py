"""test_bits.py - the same request gives the same bytes however it is computed.

The digest (logits_sha256) covers every f32 of the raw model output that a token was drawn from, so
equal digests mean equal bits in all logits, not only equal tokens. What varies: instruction set,
threads, chunks of the prefill, stages in one process, processes that talk mutual TLS, and what
else is computed in the same steps.
"""

import glob
import os
import threading

import pytest

import harness

with open(os.path.join(harness.GOLDEN, "corpus.txt"), encoding="utf-8") as f:
    TEXT = f.read()[:700]  # more than two KV pages of 64 positions

# Sampling as options of `mlxd run` and as fields of a request.
GREEDY = (("--temp", 0), {"temperature": 0})
SEEDED = (("--temp", 0.9, "--top-p", 0.95, "--top-k", 200, "--repetition-penalty", 1.1,
           "--seed", 20261123),
          {"temperature": 0.9, "top_p": 0.95, "top_k": 200, "repetition_penalty": 1.1,
           "seed": 20261123})
MODES = [pytest.param(GREEDY, id="greedy"), pytest.param(SEEDED, id="seeded")]
TOKENS = 24

# (arguments of `mlxd run`, environment)
WAYS = {
    "threads 1": (("--threads", 1), {}),
    "threads 2": (("--threads", 2), {}),
    "chunk 1": (("--prefill-chunk", 1), {}),
    "chunk 7": (("--prefill-chunk", 7), {}),
    "chunk 64": (("--prefill-chunk", 64), {}),
    "stages 10,10,10": (("--layers-per-stage", "10,10,10"), {}),
    "stages 1,28,1": (("--layers-per-stage", "1,28,1"), {}),
    "30 stages": (("--layers-per-stage", ",".join(["1"] * 30)), {}),
    "30 stages, chunk 7, threads 1": (
        ("--layers-per-stage", ",".join(["1"] * 30), "--prefill-chunk", 7, "--threads", 1), {}),
    "scalar": (("--prefill-chunk", 64), {"MLXD_CPU": "scalar"}),
}


def result(answer):
    """What must not differ."""
    return {k: answer[k] for k in ("text", "prompt_tokens", "tokens", "finish_reason",
                                   "logits_sha256")}


@pytest.fixture(scope="module")
def reference(mlxd, model):
    """The answer in each mode: one process, one stage, the whole prompt in one step."""
    def ask(mode):
        a = harness.answer(mlxd, model, TEXT, "--raw", "-n", TOKENS, "--ignore-eos", *mode[0],
                           "--prefill-chunk", 512)
        assert len(a["prompt_tokens"]) > 128 and len(a["tokens"]) == TOKENS
        return result(a)
    return {id(mode): ask(mode) for mode in (GREEDY, SEEDED)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
def test_one_process(mlxd, model, reference, mode, way):
    args, env = WAYS[way]
    a = harness.answer(mlxd, model, TEXT, "--raw", "-n", TOKENS, "--ignore-eos", *mode[0], *args,
                       env=env)
    assert result(a) == reference[id(mode)]
    if "MLXD_CPU" in env:
        assert a["isa"] == env["MLXD_CPU"]
    if "--threads" in args:
        assert a["threads"] == args[args.index("--threads") + 1]
    if "--layers-per-stage" in args:
        split = args[args.index("--layers-per-stage") + 1]
        assert a["stages"] == [int(n) for n in split.split(",")]


def test_the_digest_tells_prompts_and_lengths_apart(mlxd, model, reference):
    """A digest that never differs would make all other tests here pass."""
    digests = {r["logits_sha256"] for r in reference.values()}
    for prompt, n in ((TEXT, TOKENS - 1), (TEXT[:-1], TOKENS)):
        a = harness.answer(mlxd, model, prompt, "--raw", "-n", n, "--ignore-eos", "--temp", 0)
        digests.add(a["logits_sha256"])
    assert len(digests) == 4


# ---- over REST ----

def complete(rest, tokens, fields, n=TOKENS):
    """The same request as `mlxd run --raw`, in the same shape (token ids cannot be compared)."""
    reply = rest.post("/v1/completions", {
        "prompt": tokens, "max_tokens": n, "ignore_eos": True, **fields,
        "mlxd": {"logits_digest": True}})
    assert reply.status == 200, reply.body
    answer = reply.json()
    choice = answer["choices"][0]
    assert answer["usage"]["completion_tokens"] == n
    return {"text": choice["text"], "finish_reason": choice["finish_reason"],
            "logits_sha256": answer["mlxd"]["logits_sha256"]}


def without_tokens(r):
    return {k: r[k] for k in ("text", "finish_reason", "logits_sha256")}


class Crowd:
    """Other requests that are always running while the block is: streamed and not, short and
    long, so that rows of several sessions and prefill chunks share the steps."""

    def __init__(self, rest, size):
        self.rest, self.size = rest, size
        self.stop = threading.Event()
        self.errors, self.answered = [], []
        self.threads = [threading.Thread(target=self.work, args=(i,)) for i in range(size)]

    def work(self, i):
        seed = 1000 * i
        while not self.stop.is_set():
            seed += 1
            fields = {"temperature": 1, "seed": seed, "max_tokens": 5 + 9 * (seed % 4)}
            prompt = TEXT[:40 + 90 * ((i + seed) % 6)]
            try:
                if i % 2:
                    with self.rest.stream(prompt, **fields) as s:
                        ends = [text for text, _ in s]
                        assert s.status == 200 and ends[-1] == "[DONE]"
                else:
                    self.rest.chat(prompt, **fields)
            except (AssertionError, OSError) as e:
                self.errors.append(repr(e))
                return
            self.answered.append(i)

    def __enter__(self):
        for t in self.threads:
            t.start()
        harness.until(lambda: self.running() > 1 or self.errors, "others are running")
        return self

    def running(self):
        return self.rest.get("/distributed-stats").json()["running_requests"]

    def __exit__(self, *_):
        self.stop.set()
        for t in self.threads:
            t.join()
        assert not self.errors
        assert set(self.answered) == set(range(self.size))


# Workers, layers per process, further arguments of the coordinator. The planned split is the
# machine's affair, so splits are also prescribed.
CLUSTERS = [
    pytest.param((), None, (), id="1 process"),
    pytest.param(("mini2",), (15, 15), (), id="2 processes"),
    pytest.param(("mini2", "master"), (10, 10, 10), (), id="3 processes"),
    pytest.param(("mini2", "master"), (1, 28, 1), ("--prefill-chunk", 7),
                 id="3 processes 1,28,1 chunk 7"),
]


@pytest.mark.parametrize("workers, layers, args", CLUSTERS)
def test_processes_over_mutual_tls(world, reference, workers, layers, args):
    with harness.Cluster(world, workers, layers, args=("--ctx", 1024, "--parallel", 6, *args)) as c:
        if layers:
            devices = c.rest.get("/cluster-status").json()["devices"]
            assert [len(d["layers"]) for d in devices.values()] == list(layers)
        wanted = {id(m): without_tokens(reference[id(m)]) for m in (GREEDY, SEEDED)}
        for mode in (GREEDY, SEEDED):
            tokens = reference[id(mode)]["prompt_tokens"]
            assert complete(c.rest, tokens, mode[1]) == wanted[id(mode)]
        with Crowd(c.rest, 4):
            for mode in (GREEDY, SEEDED):
                tokens = reference[id(mode)]["prompt_tokens"]
                assert complete(c.rest, tokens, mode[1]) == wanted[id(mode)]
        for n in c.nodes:
            harness.until(lambda n=n: n.sessions() == 0, f"{n.device} has freed all sessions")


def test_chat_is_the_same_streamed_and_not(mlxd, model, cluster):
    prompt = "What is gravity? Answer in one sentence."
    alone = harness.answer(mlxd, model, prompt, "-n", 32, "--temp", 0)
    fields = {"max_tokens": 32, "temperature": 0, "mlxd": {"logits_digest": True}}
    whole = cluster.rest.chat(prompt, **fields)
    assert whole["choices"][0]["message"]["content"] == alone["text"]
    assert whole["mlxd"]["logits_sha256"] == alone["logits_sha256"]
    assert whole["usage"]["prompt_tokens"] == len(alone["prompt_tokens"])
    with cluster.rest.stream(prompt, **fields) as s:
        events = [e for _, e in s if e]
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events)
    assert text == alone["text"]
    assert events[-1]["mlxd"]["logits_sha256"] == alone["logits_sha256"]


# ---- every weight format, on the tiny checkpoints ----

TINY = sorted(glob.glob(os.path.join(harness.GOLDEN, "tiny-*.gguf")))
PROMPT = "the hello world in 1234 and 007, it's on the café..  about the rest of it: " * 2


def tiny_answer(mlxd, path, *args, env=None):
    return harness.answer(mlxd, path, PROMPT, "--raw", "-n", 20, "--ignore-eos", *args, env=env)


@pytest.mark.parametrize("path", TINY, ids=[os.path.basename(p)[:-5] for p in TINY])
def test_tiny_models(mlxd, path):
    for mode in (GREEDY, SEEDED):
        want = tiny_answer(mlxd, path, *mode[0], "--threads", 1, "--prefill-chunk", 512)
        layers = sum(want["stages"])
        assert len(want["prompt_tokens"]) > 64
        for isa in ("scalar", "avx2"):
            for chunk in (1, 7, 64, 512):
                for stages in (str(layers), ",".join(["1"] * layers)):
                    got = tiny_answer(mlxd, path, *mode[0], "--prefill-chunk", chunk,
                                      "--threads", 2, "--layers-per-stage", stages,
                                      env={"MLXD_CPU": isa})
                    assert result(got) == result(want), (isa, chunk, stages)


@pytest.mark.parametrize("name", ["tiny-f32", "tiny-q4_1"])
def test_tiny_models_on_three_processes(mlxd, world, name):
    path = os.path.join(harness.GOLDEN, name + ".gguf")
    with harness.Cluster(world, layers=(1, 2, 2), model=path) as c:
        for mode in (GREEDY, SEEDED):
            want = tiny_answer(mlxd, path, *mode[0])
            assert complete(c.rest, want["prompt_tokens"], mode[1], 20) == without_tokens(want)
