"""harness.py - processes of mlxd, clusters of them, and HTTP, for all end-to-end tests.

    world = World(folder, mlxd, model)       certificates of a cluster, and a REST key
    with Cluster(world, workers=("mini2", "master")) as c:      three processes over mutual TLS
        c.rest.chat("Hello", temperature=0)

A process that a test started is ended by its pid when its Cluster is left. It must then end with
status 0 (unless the test killed it) and its log must show no failed assertion and no sanitizer's
report. Nothing here sleeps for a fixed time: `until` asks again until the answer is right, and
gives up only after a limit that means that something hangs.
"""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GOLDEN = os.path.join(ROOT, "tests", "golden")
KEY = "sk-test-0123456789abcdef"
HANG_S = 60  # nothing that is tested here takes nearly as long
CRASH = re.compile(r"assertion failed|Sanitizer|runtime error:|stack smashing|double free|"
                   r"buffer overflow detected")

# Every process that was started and not yet forgotten; conftest.py keeps their logs on failure.
STARTED = []


def until(question, what, limit_s=HANG_S):
    """Asks until the answer is true, and returns it."""
    end = time.monotonic() + limit_s
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.01)


def environment(extra=None):
    """Ours without what would configure mlxd."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLXD_", "DEVICE_", "DEMO_"))}
    env.update(extra or {})
    return env


# ---- ports ----

_next_port = 20000 + os.getpid() % 5000


def free_ports(count):
    """Ports that nobody listens on, below the range from which the system takes its own."""
    global _next_port
    found = []
    while len(found) < count:
        _next_port = _next_port + 1 if _next_port < 31000 else 20000
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", _next_port))
                found.append(_next_port)
            except OSError:
                pass
    return found


# ---- commands that end by themselves ----

def run(mlxd, *args, env=None, stdin="", timeout=HANG_S, **options):
    """Runs mlxd to its end; whatever it says, it must not crash."""
    done = subprocess.run([mlxd, *map(str, args)], env=environment(env), input=stdin,
                          capture_output=True, text=True, errors="replace", timeout=timeout,
                          **options)
    assert done.returncode >= 0, f"{args}: killed by signal {-done.returncode}: {done.stderr}"
    assert not CRASH.search(done.stderr), f"{args}: {done.stderr}"
    return done


def answer(mlxd, model, prompt, *args, env=None):
    """What `mlxd run --json` says."""
    done = run(mlxd, "run", "-m", model, "-p", prompt, "--json", *args, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- processes that serve ----

class Node:
    """One `mlxd serve` or `mlxd worker`, with a log file. `model` "": none; None: the world's."""

    def __init__(self, world, command, device, *args, model=None):
        self.world, self.device = world, device
        self.port, self.grpc, self.health = free_ports(3)
        self.log = os.path.join(world.folder, f"{device}-{self.port}.log")
        self.rest = Rest(self.port)
        files = [] if model == "" else ["-m", model or world.model]
        self.args = [command, *files, "--certs", world.certs,
                     "--device", device, "--port", self.port, "--grpc-port", self.grpc,
                     "--health-port", self.health, "--api-key-file", world.key_file, *args]
        self.process = None
        self.told = False  # to end; telling it twice would end it the hard way
        self.killed = False

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([self.world.mlxd, *map(str, self.args)], stdout=log,
                                            stderr=log, stdin=subprocess.DEVNULL,
                                            cwd=self.world.folder, env=environment())
        self.told = self.killed = False
        if self not in STARTED:
            STARTED.append(self)
        return self

    @property
    def pid(self):
        return self.process.pid

    def running(self):
        return self.process is not None and self.process.poll() is None

    def read_log(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def wait_ready(self):
        def ready():
            assert self.running(), f"{self.device} has ended: {self.read_log()}"
            try:
                return self.rest.get("/ready", key=None).status == 200
            except OSError:
                return False
        until(ready, f"{self.device} is ready")
        return self

    def kill(self):
        """kill -9"""
        self.process.kill()
        self.process.wait()
        self.killed = True

    def signal(self, number):
        self.told = self.told or number in (signal.SIGTERM, signal.SIGINT)
        os.kill(self.pid, number)

    def stop(self):
        """SIGTERM; returns the exit status."""
        if self.running() and not self.told:
            self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self):
        try:
            return self.process.wait(HANG_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.device} does not end") from None

    def close(self):
        """Ends it if need be; says what was wrong with it."""
        if self.process is None:
            return None
        if self.running():
            self.signal(signal.SIGCONT)  # in case a test has stopped it
            code = self.stop()
        else:
            code = self.process.returncode
        crash = CRASH.search(self.read_log())
        if crash:
            return f"{self.device} crashed: {crash.group()}"
        if code != 0 and not self.killed:
            return f"{self.device} ended with {code}"
        return None

    def sessions(self):
        return self.rest.get("/distributed-stats").json()["sessions"]


class Cluster:
    """A coordinator mini1 and workers. `layers`: how many each gets, coordinator first."""

    def __init__(self, world, workers=("mini2", "master"), layers=None, args=(), model=None,
                 worker_args=()):
        self.world = world
        self.workers = [Node(world, "worker", d, *worker_args, model=model) for d in workers]
        links = []
        for w in self.workers:
            links += ["--worker", f"{w.device}=127.0.0.1:{w.grpc}"]
        if layers:
            first = 0
            for device, count in zip(["mini1", *workers], layers, strict=True):
                links += ["--layers", f"{device}:{first}-{first + count - 1}"]
                first += count
        self.coordinator = Node(world, "serve", "mini1", *links, *args, model=model)
        self.nodes = [self.coordinator, *self.workers]
        self.rest = self.coordinator.rest

    def __enter__(self):
        try:
            for n in reversed(self.nodes):
                n.start()
            self.coordinator.wait_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind, error, trace):
        problems = [p for p in [n.close() for n in self.nodes] if p]
        if kind is None:
            assert not problems, problems

    def worker(self, device):
        return next(w for w in self.workers if w.device == device)


# ---- certificates and keys ----

class World:
    """A folder with what processes need: certs/ of a cluster "test", a REST key."""

    def __init__(self, folder, mlxd, model):
        self.folder, self.mlxd, self.model = str(folder), mlxd, model
        self.certs = os.path.join(self.folder, "certs")
        self.make_certs(self.certs, "mini1:coordinator", "mini2:worker", "master:worker",
                        "operator:operator")
        self.key_file = os.path.join(self.folder, "api-key")
        with open(os.open(self.key_file, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
            f.write(f"test:{KEY}\n")

    def make_certs(self, folder, *nodes, cluster="test"):
        done = run(self.mlxd, "certs", "init", "--certs", folder, "--cluster", cluster)
        assert done.returncode == 0, done.stderr
        for node in nodes:
            device, role = node.split(":")
            done = run(self.mlxd, "certs", "node", "--certs", folder, "--device", device,
                       "--role", role)
            assert done.returncode == 0, done.stderr
        return folder


# ---- HTTP ----

class Reply:
    def __init__(self, response, body):
        self.status, self.body = response.status, body
        self.headers = {k.lower(): v for k, v in response.getheaders()}

    def json(self):
        return json.loads(self.body)

    def error(self):
        """(status, code, param) of an error in OpenAI's shape."""
        e = self.json()["error"]
        assert set(e) == {"message", "type", "param", "code"} and e["message"], e
        return self.status, e["code"], e["param"]


class Stream:
    """Events of a streamed answer, each as (its data's text, the object in it or None)."""

    def __init__(self, connection, response):
        self.connection, self.response = connection, response
        self.status = response.status
        self.headers = {k.lower(): v for k, v in response.getheaders()}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Leaves, whatever the server still wants to say."""
        if self.connection.sock:
            self.connection.sock.shutdown(socket.SHUT_RDWR)
        self.response.close()
        self.connection.close()

    def __iter__(self):
        for line in self.response:
            if line.startswith(b"data: "):
                text = line[6:].rstrip(b"\r\n").decode()
                yield text, None if text == "[DONE]" else json.loads(text)


class Rest:
    """Client of one node. Every call makes its own connection."""

    def __init__(self, port):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def open(self, method, path, body=None, key=KEY, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG_S)
        fields = {"Authorization": f"Bearer {key}"} if key else {}
        if body is not None:
            fields["Content-Type"] = "application/json"
        fields.update(headers or {})
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        connection.request(method, path, body, fields)
        return connection, connection.getresponse()

    def request(self, method, path, body=None, key=KEY, headers=None):
        connection, response = self.open(method, path, body, key, headers)
        try:
            return Reply(response, response.read())
        finally:
            connection.close()

    def get(self, path, key=KEY):
        return self.request("GET", path, key=key)

    def post(self, path, body, key=KEY, headers=None):
        return self.request("POST", path, body, key, headers)

    def chat(self, prompt, **fields):
        """The answer's object."""
        reply = self.post("/v1/chat/completions",
                          {"messages": [{"role": "user", "content": prompt}], **fields})
        assert reply.status == 200, reply.body
        return reply.json()

    def stream(self, prompt, **fields):
        body = {"messages": [{"role": "user", "content": prompt}], "stream": True, **fields}
        return Stream(*self.open("POST", "/v1/chat/completions", body))


def keep_logs(folder):
    """Copies the logs of all processes that are known; returns [(device, log's end)]."""
    os.makedirs(folder, exist_ok=True)
    ends = []
    for n in STARTED:
        if os.path.exists(n.log):
            shutil.copy(n.log, folder)
            ends.append((f"{n.device} (pid {n.pid})", "".join(
                n.read_log().splitlines(keepends=True)[-30:])))
    return ends
