"""test_refusals.py - bad input from clients, files, configuration and the command line.

Whatever it is, the answer is one clear error that names the thing: never a crash, never a hang,
never silence; and what was running before still runs.
"""

import concurrent.futures
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import tempfile

import pytest

import harness
from gguf_file import GgufFile

TINY = os.path.join(harness.GOLDEN, "tiny-f32.gguf")
USAGE, DATA, MISSING, UNAVAILABLE, IO, PERMISSION, CONFIG = 64, 65, 66, 69, 74, 77, 78
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def node(world):
    """A coordinator without workers, with the smallest model."""
    with harness.Cluster(world, workers=(), model=TINY) as c:
        yield c.coordinator


@pytest.fixture(autouse=True)
def still_serving(request):
    """After each test that used it, the node answers as before."""
    yield
    if "node" in request.fixturenames:
        n = request.getfixturevalue("node")
        assert n.rest.chat("Hello", max_tokens=2)["choices"]


def refuse(mlxd, *args, code, text, **options):
    """Runs a command that must end with this exit code and say `text` in one line of its own."""
    done = harness.run(mlxd, *args, **options)
    assert done.returncode == code, (args, done.returncode, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("mlxd: ")]
    assert len(lines) == 1, done.stderr
    for t in [text] if isinstance(text, str) else text:
        assert t in lines[0], lines[0]
    return done


# ---- REST: who, where, how ----

def test_keys(world):
    """On a node of its own: wrong keys are counted per address."""
    with harness.Cluster(world, workers=(), model=TINY) as c:
        rest = c.rest
        for path in ("/v1/models", "/metrics", "/device-info", "/cluster-status", "/version",
                     "/distributed-stats", "/nothing/here"):
            reply = rest.get(path, key=None)
            assert reply.error() == (401, "invalid_api_key", None), path
            assert reply.headers["www-authenticate"] == "Bearer"
        for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/register"):
            assert rest.post(path, {}, key=None).status == 401
        for path in ("/health", "/ready", "/"):
            assert rest.get(path, key=None).status == 200
        assert rest.get(f"/v1/models?key={harness.KEY}", key=None).status == 401
        for key in (harness.KEY + "x", harness.KEY[:-1], harness.KEY.upper(), "x", "test"):
            reply = rest.get("/v1/models", key=key)
            assert reply.error() == (403, "invalid_api_key", None)
            assert reply.json()["error"]["message"] == "Invalid API Key"
        codes = [rest.get("/v1/models", key="wrong-key-0123456789").status for _ in range(25)]
        assert codes == [403] * codes.count(403) + [429] * codes.count(429) and codes[-1] == 429
        assert "retry-after" in rest.get("/v1/models", key="wrong-key-0123456789").headers
        assert rest.get("/v1/models").status == 200  # one with the right key is not locked out
        assert harness.KEY not in c.coordinator.read_log()


def test_routes_and_methods(node):
    rest = node.rest
    for path in ("/nothing", "//v1/models", "/v1/../v1/models", "/V1/models", "/v1/models/",
                 "/%76%31/models", "/v1/models%00", "/v1/chat/completions/x"):
        assert rest.get(path).error()[:2] == (404, "not_found"), path
    for method, path, allow in (("DELETE", "/v1/models", "GET"), ("POST", "/health", "GET"),
                                ("GET", "/v1/chat/completions", "POST")):
        reply = rest.request(method, path)
        assert reply.error()[:2] == (405, "method_not_allowed") and allow in reply.headers["allow"]
    assert rest.request("FROB", "/health").status == 405
    reply = rest.request("GET", "/v1/models", headers={"Host": "evil.example"})
    assert reply.error()[:2] == (421, "unknown_host")


def test_bodies(node):
    rest, path = node.rest, "/v1/chat/completions"
    for headers, want in (({"Content-Type": "text/plain"}, (415, "unsupported_media_type")),
                          ({"Content-Encoding": "gzip"}, (415, "unsupported_encoding"))):
        assert rest.post(path, "{}", headers=headers).error()[:2] == want
    big = b'{"messages": "' + b"A" * (17 << 20) + b'"}'
    head = (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {harness.KEY}\r\n"
            "Content-Type: application/json\r\n")
    # Announced: refused before it is sent. Not announced: when there is too much of it.
    assert b" 413 " in raw(node, f"{head}Content-Length: {len(big)}\r\n\r\n".encode())
    reply = rest.request("POST", path, iter([big]), headers={"Content-Type": "application/json"})
    assert reply.error()[:2] == (413, "body_too_large")
    for lines, status in (("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
                          ("Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
                          ("Content-Length: -1\r\n\r\n", 400),
                          ("Content-Length: 2\r\nTransfer-Encoding: gzip\r\n\r\n{}", 400),
                          ("X-A: b\r\n" * 150 + "Content-Length: 2\r\n\r\n{}", 431),
                          ("X-A: " + "b" * 100000 + "\r\nContent-Length: 2\r\n\r\n{}", 431),
                          ("\r\n", 411)):
        assert f" {status} ".encode() in raw(node, (head + lines).encode()), lines[:60]
    assert b" 400 " in raw(node, b"GET /v1/models HTTP/1.1\r\n\r\n")  # no Host


def raw(node, data):
    """First line of the answer to bytes."""
    with socket.create_connection(("127.0.0.1", node.port), harness.HANG_S) as s:
        s.sendall(data)
        try:
            return s.recv(4096).split(b"\r\n")[0]
        except ConnectionResetError:
            return b""


def chat(node, **fields):
    return node.rest.post("/v1/chat/completions", {"messages": HELLO, **fields})


def test_json(node):
    for body, code in (
            ("", "invalid_json"), ("{", "invalid_json"), ("{}x", "invalid_json"),
            ('{"a":1,"a":2}', "invalid_json"), ("{'a':1}", "invalid_json"),
            ('{"temperature":NaN}', "invalid_json"), ('{"temperature":1e999}', "invalid_json"),
            ('{"a":"\\ud800"}', "invalid_json"), ('{"a":"\\u0000"}', "invalid_json"),
            (b'{"a":"\xff"}', "invalid_json"), ('{"a":01}', "invalid_json"),
            ('{"a":[1,]}', "invalid_json"), ("\ufeff{}".encode(), "invalid_json"),
            ("[" * 10000, "json_too_deep"), ("[]", "invalid_type"), ("null", "invalid_type"),
            ('"text"', "invalid_type"), ("{}", "missing_required_parameter")):
        reply = node.rest.post("/v1/chat/completions", body)
        assert reply.error()[:2] == (400, code), (body[:40], reply.body)


NUMBERS = ("temperature", "top_p", "min_p", "top_k", "max_tokens", "max_completion_tokens", "n",
           "seed", "frequency_penalty", "presence_penalty", "repetition_penalty", "top_logprobs")


@pytest.mark.parametrize("field", NUMBERS)
def test_absurd_numbers(node, field):
    for value in ("5", [], {}, True, 1e308, -1e308, 1e20):
        reply = chat(node, **{field: value, "logprobs": True})
        assert reply.error()[0] == 400 and reply.error()[2] == field, (value, reply.body)
    assert chat(node, **{field: None, "max_completion_tokens": 1}
                if field != "max_completion_tokens" else {field: None}).status == 200


def test_absurd_values(node):
    for fields, param in (
            ({"messages": []}, "messages"), ({"messages": "Hello"}, "messages"),
            ({"messages": HELLO * 5000}, "messages"), ({"messages": [1]}, "messages[0]"),
            ({"messages": [{"role": "root", "content": "x"}]}, "messages[0].role"),
            ({"messages": [{"role": "user"}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}]},
             "messages[0].content[0].type"),
            ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
            ({"stop": ""}, "stop"), ({"stop": [1]}, "stop"), ({"stop": ["x"] * 100000}, "stop"),
            ({"stop": "x" * 5000}, "stop"), ({"logit_bias": {"-1": 1}}, "logit_bias"),
            ({"logit_bias": {"999999": 1}}, "logit_bias"),
            ({"logit_bias": {"1": 200}}, "logit_bias"),
            ({"logit_bias": {str(i): 1 for i in range(5000)}}, "logit_bias"),
            ({"logit_bias": [1]}, "logit_bias"), ({"stream": "yes"}, "stream"),
            ({"stream_options": 5}, "stream_options"), ({"n": 10 ** 9}, "n"), ({"n": 0}, "n"),
            ({"best_of": 5}, "best_of"), ({"chat_template": "{{ x }}"}, "chat_template"),
            ({"grammar": "root ::= x"}, "grammar"), ({"max_tokens": 0}, "max_tokens"),
            ({"max_tokens": 1.5}, "max_tokens"), ({"top_logprobs": 21, "logprobs": True},
                                                  "top_logprobs"),
            ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
            ({"model": 7}, "model")):
        reply = chat(node, **fields)
        assert reply.error()[0] == 400 and reply.error()[2] == param, (fields, reply.body)
    assert chat(node, model="other").error() == (404, "model_not_found", "model")
    # the engine saw none of these
    assert node.rest.get("/distributed-stats").json()["failed_requests"] == 0


def test_prompts_that_are_too_long(node):
    family = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
    for text in [c * (1 << 20) for c in ("A", "\n", "9", " ")] + [family * 50000]:
        reply = chat(node, messages=[{"role": "user", "content": text}])
        assert reply.error()[:2] == (400, "context_length_exceeded"), reply.body


def test_slow_and_silent_clients(node):
    """Connections that say nothing, or half of it, do not keep others from being served."""
    silent = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(200)]
    for i, s in enumerate(silent):
        if i % 2:
            s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le")
    assert chat(node, max_tokens=1).status == 200
    for s in silent:
        s.close()


# ---- model files ----

def run_model(mlxd, path):
    done = harness.run(mlxd, "run", "-m", path, "--raw", "-p", "hello", "-n", 2, "--temp", 0,
                       "--threads", 1, "--ctx", 64)
    if done.returncode:
        lines = done.stderr.splitlines()
        assert done.returncode in (DATA, MISSING), (done.returncode, done.stderr)
        assert len(lines) == 1 and lines[0].startswith("mlxd: "), done.stderr
        assert os.path.basename(path) in lines[0], lines[0]
    return done.returncode


def run_models(mlxd, folder, variants):
    """Status of each of the files whose contents are given, two at a time."""
    def one(item):
        path = str(folder / f"model-{item[0]}.gguf")
        with open(path, "wb") as f:
            f.write(item[1])
        try:
            return run_model(mlxd, path)
        finally:
            os.unlink(path)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, enumerate(variants)))


def flip(data, bit):
    return data[:bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1:]


def test_truncated_model_files(mlxd, tmp_path):
    whole, r = GgufFile(TINY), random.Random(20261123)
    size = len(whole.data)
    edges = [whole.infos_start, whole.data_start, size]
    edges += [t.offset for t in list(whole.tensors.values())[::6]]
    cuts = {*range(0, 40, 3), 24, *(e + d for e in edges for d in (-1, 0, 1)),
            *(r.randrange(size) for _ in range(90))}
    cuts = sorted(c for c in cuts if c < size)
    codes = run_models(mlxd, tmp_path, [whole.data[:c] for c in cuts])
    assert [c for c, code in zip(cuts, codes, strict=True) if code != DATA] == []
    assert run_models(mlxd, tmp_path, [whole.data]) == [0]


def test_the_real_model_truncated(mlxd, model, tmp_path):
    path, size = str(tmp_path / "cut.gguf"), os.path.getsize(model)
    shutil.copy(model, path)
    for cut in (size - 1, size - 32, size // 2, 2_000_000, 1_700_000, 1_000_000, 100_000, 4096,
                100, 24, 4):
        os.truncate(path, cut)
        assert run_model(mlxd, path) == DATA, f"cut at {cut}"


def test_flipped_bits_in_header_and_metadata(mlxd, tmp_path):
    """Refused by name, or read as another valid file."""
    whole, seed = GgufFile(TINY), random.randrange(1 << 32)
    print("seed", seed)
    r = random.Random(seed)
    parts = [(0, 24, 60), (24, whole.infos_start, 110), (whole.infos_start, whole.data_start, 110)]
    bits = [r.randrange(8 * a, 8 * b) for a, b, count in parts for _ in range(count)]
    codes = run_models(mlxd, tmp_path, [flip(whole.data, b) for b in bits])
    print(f"{len(codes)} flips: {codes.count(0)} valid, {codes.count(DATA)} refused")
    assert codes.count(DATA) > 100


def test_hostile_sizes(mlxd, tmp_path):
    """Every count and length of the header at the ends of its range."""
    whole = GgufFile(TINY)
    name = struct.unpack_from("<Q", whole.data, whole.infos_start)[0]
    dims = whole.infos_start + 8 + name
    variants = []
    for offset, form in ((4, "<I"), (8, "<Q"), (16, "<Q"), (24, "<Q"), (whole.infos_start, "<Q"),
                         (dims, "<I"), (dims + 4, "<Q")):
        top = 2 ** (8 * struct.calcsize(form))
        for value in (0, 99, top // 2 - 1, top // 2, top // 2 + 1, top - 1, top // 4 + 1):
            data = bytearray(whole.data)
            struct.pack_into(form, data, offset, value)
            variants.append(bytes(data))
    assert set(run_models(mlxd, tmp_path, variants)) == {DATA}


def test_things_that_are_no_model_file(mlxd, tmp_path):
    fifo, empty, text = (str(tmp_path / n) for n in ("fifo", "empty", "text"))
    os.mkfifo(fifo)
    with open(empty, "wb"), open(text, "w", encoding="ascii") as f:
        f.write("this is no model\n" * 100)
    run = ("run", "-p", "x", "-m")
    for path, code, what in (("/no/such.gguf", MISSING, "No such file"),
                             (str(tmp_path), MISSING, "no model in this directory"),
                             (fifo, DATA, "not a regular file"),
                             ("/dev/zero", DATA, "not a regular file"),
                             (empty, DATA, "empty"), (text, DATA, "GGUF")):
        refuse(mlxd, *run, path, code=code, text=(path, what))
    for command in ("serve", "worker", "plan"):
        assert harness.run(mlxd, command, "-m", "/no/such.gguf", "--no-auth", "--insecure",
                           ).returncode in ((MISSING,) if command != "plan" else (USAGE,))
    refuse(mlxd, "plan", "-m", "/no/such.gguf", code=MISSING, text="/no/such.gguf")


def test_an_unreadable_model_file(mlxd):
    """As another user when we are root, whom no mode keeps out."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        program, path = (shutil.copy(p, folder) for p in (mlxd, TINY))
        os.chmod(path, 0)
        options = {"user": 65534} if os.geteuid() == 0 else {}
        refuse(program, "run", "-m", path, "-p", "x", code=PERMISSION, text=path, **options)


# ---- the command line ----

RUN = ("run", "-m", TINY, "-p", "hello")


@pytest.mark.parametrize("args, text", [
    ((), ()), (("frobnicate",), "frobnicate"), (("run", "--frob"), "--frob"),
    (("run", "-z"), "-z"), (("run", "-m"), "-m"), ((*RUN, "-m", TINY), "twice"),
    ((*RUN, "--threads", "-1"), "--threads"), ((*RUN, "--threads", "9" * 30), "--threads"),
    ((*RUN, "--threads", ""), "--threads"), ((*RUN, "--threads", "two"), "--threads"),
    ((*RUN, "--temp", "3"), "--temp"), ((*RUN, "--temp", "nan"), "--temp"),
    ((*RUN, "--top-p", "x"), "--top-p"), ((*RUN, "-n", "0"), "--max-tokens"),
    ((*RUN, "--seed", "x"), "--seed"), ((*RUN, "extra"), "extra"), (("run", "-p", "x"), "-m FILE"),
    ((*RUN, "--raw=maybe"), "--raw"), ((*RUN, "--layers-per-stage", "3,3"), "6 layers"),
    ((*RUN, "--layers-per-stage", "0,5"), "--layers-per-stage"),
    ((*RUN, "--layers-per-stage", ","), "--layers-per-stage"),
    ((*RUN, "%n%n%s"), "%n%n%s"), ((*RUN, "x" * 100000), "xxx"), (("serve",), ()),
    (("plan",), "no model"), (("certs",), "init, node or show"), (("certs", "frob"), "frob"),
    (("certs", "node"), "--device"), (("healthcheck", "x"), "x"), (("version", "x"), "x"),
])
def test_usage(mlxd, args, text):
    if args == ("serve",):
        args, text = ("serve", "--port", "65536"), "--port"
    if not args:
        done = harness.run(mlxd)
        assert done.returncode == USAGE and "Usage:" in done.stderr and not done.stdout
        return
    assert not refuse(mlxd, *args, code=USAGE, text=text).stdout


@pytest.mark.parametrize("command", ["run", "serve", "worker", "plan", "certs", "healthcheck",
                                     "version"])
def test_help(mlxd, command):
    done = harness.run(mlxd, command, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"Usage: mlxd {command}")
    assert "--help" in done.stdout and not done.stderr
    assert command in harness.run(mlxd, "--help").stdout
    assert all(len(line) <= 120 for line in done.stdout.splitlines())


def test_version(mlxd):
    for args in (("version",), ("--version",)):
        done = harness.run(mlxd, *args)
        assert done.returncode == 0 and done.stdout.startswith("mlxd ")
    assert json.loads(harness.run(mlxd, "version", "--json").stdout)["version"] in done.stdout


def test_where_output_cannot_go(mlxd):
    """A closed or full standard output is an error, not a success without a result."""
    for args in ((*RUN, "--json"), RUN, ("plan", "-m", TINY), ("version",)):
        command = [mlxd, *args]
        for shell in ('"$@" >&-', '"$@" >/dev/full'):
            done = subprocess.run(["sh", "-c", shell, "sh", *command], capture_output=True,
                                  text=True, env=harness.environment(), timeout=harness.HANG_S,
                                  stdin=subprocess.DEVNULL)
            assert done.returncode == IO, (args, shell, done)
            assert "standard output" in done.stderr
    # a reader that leaves
    child = subprocess.Popen([mlxd, *RUN, "-n", "3000", "--ignore-eos"], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, env=harness.environment())
    child.stdout.read(1)
    child.stdout.close()
    stderr = child.stderr.read()
    assert child.wait(harness.HANG_S) == IO and b"standard output" in stderr
    child.stderr.close()
    # all three closed: nothing to see, but a status
    done = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", mlxd, *RUN], check=False,
                          env=harness.environment(), timeout=harness.HANG_S)
    assert done.returncode == IO


def test_odd_surroundings(mlxd, tmp_path):
    want = harness.answer(mlxd, TINY, "hello", "-n", 4, "--temp", 0)["text"]
    for env in ({"LC_ALL": "tr_TR.UTF-8"}, {"LC_ALL": "xx", "LANG": ""}, {"TZ": "Mars/Olympus"},
                {"HOME": "/nonexistent"}, {"MLXD_THREADS": ""}):
        assert harness.answer(mlxd, TINY, "hello", "-n", 4, "--temp", 0, env=env)["text"] == want
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(["sh", "-c", 'rmdir "$PWD"; "$@"', "sh", mlxd, *RUN, "-n", "4"],
                          cwd=gone, capture_output=True, env=harness.environment(), check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([mlxd.encode(), b"run", b"-m", TINY.encode(), b"-p", b"\xff\xfe hello"],
                          capture_output=True, env=harness.environment(), check=False)
    assert done.returncode in (0, DATA, USAGE) and (done.stdout or done.stderr)


# ---- configuration ----

def threads(mlxd, folder, *args, env=None):
    done = harness.run(mlxd, *RUN, "-n", 1, "--json", *args, env=env, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["threads"]


def test_flag_environment_file_default(mlxd, tmp_path):
    """In that order; the default is all processors."""
    default = threads(mlxd, tmp_path)
    (tmp_path / "mlxd.yaml").write_text(f"compute:\n  threads: {default + 1}\n")
    (tmp_path / "other.yaml").write_text(f"compute: {{threads: {default + 2}}}\n")
    other = {"MLXD_CONFIG": str(tmp_path / "other.yaml")}
    assert threads(mlxd, tmp_path) == default + 1
    assert threads(mlxd, tmp_path, env=other) == default + 2
    assert threads(mlxd, tmp_path, "--config", "other.yaml") == default + 2
    env = {"MLXD_THREADS": str(default + 3)}
    assert threads(mlxd, tmp_path, env=env) == default + 3
    assert threads(mlxd, tmp_path, env={**env, **other}) == default + 3
    assert threads(mlxd, tmp_path, "--threads", default + 4, env=env) == default + 4
    (tmp_path / "mlxd.yaml").write_text("")
    assert threads(mlxd, tmp_path) == default


@pytest.mark.parametrize("text, line, what", [
    ("compute:\n  thread: 1\n", 2, 'did you mean "compute.threads"?'),
    ("compute:\n  frobnicate: 1\n", 2, 'unknown key "compute.frobnicate"'),
    ("model:\n  path: a\n  path: b\n", 3, "duplicate key"),
    ("compute:\n  threads: many\n", 2, "threads"), ("compute:\n  threads: -1\n", 2, "threads"),
    ("compute:\n  threads: [1]\n", 2, "threads"), ("compute: 5\n", 1, "mapping"),
    ("[1, 2\n", 2, ""), ("a: &x [*x]\n", 1, ""), ("- a\n", 1, ""), ("\tcompute: {}\n", 1, ""),
])
def test_configuration_files(mlxd, tmp_path, text, line, what):
    (tmp_path / "mlxd.yaml").write_text(text)
    refuse(mlxd, *RUN, code=CONFIG, text=(f"mlxd.yaml:{line}", what), cwd=tmp_path)


def test_settings_that_cannot_be(mlxd, world, tmp_path):
    refuse(mlxd, *RUN, "--config", "none.yaml", code=CONFIG, text="none.yaml")
    refuse(mlxd, *RUN, code=CONFIG, text="MLXD_THREADS", env={"MLXD_THREADS": "many"})
    refuse(mlxd, *RUN, code=DATA, text=("zzz", "avx2"), env={"MLXD_CPU": "zzz"})
    node = ("-m", TINY, "--certs", world.certs)
    keys = ("--api-key-file", world.key_file)
    refuse(mlxd, "serve", *node, code=CONFIG, text="--api-key-file")
    refuse(mlxd, "serve", *node, *keys, "--no-auth", code=CONFIG, text="contradict")
    refuse(mlxd, "serve", *node, *keys, code=CONFIG, text="worker", env={"DEVICE_ROLE": "worker"})
    for worker in ("mini2", "mini2=", "=1:2", "mini2=host", "Mini_2=127.0.0.1:1",
                   "mini1=127.0.0.1:1", "a=127.0.0.1:1,a=127.0.0.1:2"):
        assert harness.run(mlxd, "serve", *node, *keys, "--worker", worker).returncode == CONFIG, \
            worker
    readable = str(tmp_path / "keys")
    shutil.copy(world.key_file, readable)
    os.chmod(readable, 0o644)
    refuse(mlxd, "serve", *node, "--api-key-file", readable, code=PERMISSION, text=readable)
    for content in ("", "short\n", "a b c d e f g h i j k l\n", "# only a comment\n"):
        with open(os.open(str(tmp_path / "bad"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600),
                  "w") as f:
            f.write(content)
        refuse(mlxd, "serve", *node, "--api-key-file", str(tmp_path / "bad"), code=CONFIG,
               text=str(tmp_path / "bad"))


def test_certificates_that_do_not_fit(mlxd, world, tmp_path):
    keys = ("-m", TINY, "--api-key-file", world.key_file)
    refuse(mlxd, "serve", *keys, "--certs", str(tmp_path), code=MISSING, text="mlxd certs init")
    refuse(mlxd, "serve", *keys, "--certs", world.certs, "--device", "mini2", code=PERMISSION,
           text=("mini2.crt", "worker"))
    refuse(mlxd, "worker", *keys, "--certs", world.certs, "--device", "mini1", code=PERMISSION,
           text=("mini1.crt", "coordinator"))
    mixed = shutil.copytree(world.certs, tmp_path / "mixed")
    shutil.copy(mixed / "mini2.key", mixed / "mini1.key")
    done = harness.run(mlxd, "serve", *keys, "--certs", str(mixed))
    assert done.returncode in (DATA, CONFIG, PERMISSION) and "mini1.key" in done.stderr
    (mixed / "mini1.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n")
    done = harness.run(mlxd, "serve", *keys, "--certs", str(mixed))
    assert done.returncode in (DATA, CONFIG) and "mini1.crt" in done.stderr
    # a private key is not overwritten by accident
    done = harness.run(mlxd, "certs", "init", "--certs", world.certs)
    assert done.returncode == 73 and "--force" in done.stderr
    assert os.stat(world.certs + "/ca.key").st_mode & 0o77 == 0


# ---- addresses ----

def test_plaintext_and_no_keys_stay_on_loopback(mlxd, world):
    [port] = harness.free_ports(1)
    base = ("-m", TINY, "--host", "0.0.0.0", "--port", port, "--certs", world.certs)
    for command in ("serve", "worker"):
        refuse(mlxd, command, *base, "--no-auth", code=PERMISSION, text=("0.0.0.0", "keys"))
        refuse(mlxd, command, *base, "--insecure", "--api-key-file", world.key_file,
               code=PERMISSION, text=("0.0.0.0", "TLS"))


def test_insecure_works_on_loopback_when_asked(world):
    with harness.Cluster(world, layers=(1, 2, 2), model=TINY, args=("--insecure",),
                         worker_args=("--insecure",)) as c:
        assert c.rest.chat("Hello", max_tokens=2)["choices"]


def test_ports_in_use(mlxd, node, world):
    ports = harness.free_ports(3)
    names = ("--port", "--grpc-port", "--health-port")
    for i, taken in enumerate((node.port, node.grpc, node.health)):
        args = [a for j in range(3) for a in (names[j], taken if j == i else ports[j])]
        for command, device in (("serve", "mini1"), ("worker", "mini2")):
            refuse(mlxd, command, "-m", TINY, "--certs", world.certs, "--device", device,
                   "--api-key-file", world.key_file, *args, code=IO, text=f"127.0.0.1:{taken}")
    refuse(mlxd, "serve", "-m", TINY, "--certs", world.certs, "--api-key-file", world.key_file,
           "--host", "192.0.2.1", "--port", ports[0], code=IO, text="192.0.2.1")


def test_a_second_start_by_mistake_disturbs_nobody(mlxd, cluster):
    """The same command again: it cannot have the ports, and must not take the workers either."""
    with cluster.rest.stream("What is gravity?", temperature=0, max_tokens=200,
                             ignore_eos=True) as s:
        events = iter(s)
        next(events)
        for n in cluster.nodes:
            refuse(mlxd, *n.args, code=IO, text=f"127.0.0.1:{n.grpc}")
        *_, last, done = events
    assert done[0] == "[DONE]" and last[1]["choices"][0]["finish_reason"] == "length"
    assert cluster.rest.get("/health", key=None).json()["degraded"] is False
