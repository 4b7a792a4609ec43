"""hub_server.py - a hub on this machine: what `mlxd pull` and huggingface_hub ask of the real one.

    with Hub() as hub:
        hub.add("org/name", {"config.json": b"{}", "model.safetensors": data})
        env = hub.env(cache)              HF_ENDPOINT and a cache of its own
        hub.faults.append(Fault("blob", drop_after(1000)))

It lists files in pages with a Link header, answers HEAD and GET of files with the hub's headers,
redirects large files to a storage on another host (the same machine under another name), and knows
Range. Every request is written down, with its headers and how many bytes were sent, so that a test
can say what must not happen, too. A Fault replaces the answers of the kind of request it is for:
"revision", "tree", "resolve" (the hub's own files and redirects) or "blob" (the storage).
"""

import hashlib
import http.server
import json
import re
import socket
import struct
import threading
import urllib.parse

LFS_FROM = 4096  # bytes; smaller files are in git
PAGE = 3         # entries of one page of a listing, so that there are several
TOKEN = "hf_testtoken0123456789"


class File:
    def __init__(self, data, lfs=None):
        self.data = data
        self.lfs = len(data) >= LFS_FROM if lfs is None else lfs
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.sha1 = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self):
        return self.sha256 if self.lfs else self.sha1

    def entry(self, path):
        entry = {"type": "file", "oid": self.sha1, "size": len(self.data), "path": path}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": 134}
        return entry


class Repo:
    """One commit of a repository."""

    def __init__(self, files, gated=False):
        self.files = {path: f if isinstance(f, File) else File(f) for path, f in files.items()}
        self.gated = gated
        text = "".join(f"{p} {f.etag}\n" for p, f in sorted(self.files.items()))
        self.commit = hashlib.sha1(text.encode()).hexdigest()

    def entries(self):
        folders = {p.rsplit("/", 1)[0] for p in self.files if "/" in p}
        return [{"type": "directory", "oid": "0" * 40, "size": 0, "path": p} for p in folders] + \
            [f.entry(p) for p, f in sorted(self.files.items())]


class Request:
    """What was asked and what was sent."""

    def __init__(self, kind, handler):
        self.kind, self.method, self.path = kind, handler.command, handler.path
        self.headers = {k.lower(): v for k, v in handler.headers.items()}
        self.status, self.sent = None, 0

    def __repr__(self):
        return f"{self.kind} {self.method} {self.path} {self.headers.get('range', '')} -> " \
               f"{self.status}, {self.sent} bytes"


class Fault:
    """Answers `times` requests of a kind (whose path contains `path`) with `act(handler, answer)`
    after passing over `after` of them; `answer` is (status, headers, body) of the right answer."""

    def __init__(self, kind, act, path="", times=1, after=0, method="GET"):
        self.kind, self.act, self.path = kind, act, path
        self.times, self.after, self.method = times, after, method

    def takes(self, request):
        if self.kind != request.kind or self.path not in request.path or self.times == 0 or \
                self.method != request.method:
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.times -= 1
        return True


# ---- faults ----

def reset(handler):
    """Ends the connection the hard way."""
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def drop_after(count, hard=False):
    """The connection ends after `count` bytes of the body."""
    def act(handler, answer):
        status, headers, body = answer
        handler.begin(status, {**headers, "Content-Length": str(len(body))})
        handler.send(body[:count])
        handler.close_connection = True
        if hard:
            reset(handler)
    return act


def drop_in_header(handler, answer):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    handler.close_connection = True


def drop_at_once(handler, answer):
    reset(handler)


def wrong_length(delta):
    """Content-Length is off, the connection then ends."""
    def act(handler, answer):
        status, headers, body = answer
        handler.begin(status, {**headers, "Content-Length": str(len(body) + delta)})
        handler.send(body[:len(body) + min(delta, 0)])
        handler.close_connection = True
    return act


def no_length(handler, answer):
    """The body ends where the connection does."""
    status, headers, body = answer
    handler.begin(status, {**headers, "Connection": "close"})
    handler.send(body)
    handler.close_connection = True


def flip(at):
    """One wrong bit."""
    def act(handler, answer):
        status, headers, body = answer
        body = bytearray(body)
        body[at] ^= 1
        handler.answer(status, headers, bytes(body))
    return act


def status(code, body=b"", **headers):
    def act(handler, answer):
        handler.answer(code, {k.replace("_", "-"): v for k, v in headers.items()}, body)
    return act


def redirect(url):
    def act(handler, answer):
        target = url(handler) if callable(url) else url
        handler.answer(302, {"Location": target}, b"")
    return act


def ignore_range(handler, answer):
    """200 and everything, whatever was asked."""
    handler.answer(200, {}, handler.file.data)


def wrong_range(handler, answer):
    """206 with another part than was asked for."""
    data = handler.file.data
    handler.answer(206, {"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"}, data)


def content(data):
    """Other bytes than the listing says."""
    def act(handler, answer):
        handler.answer(200, {}, data)
    return act


def stall(count, event):
    """Sends `count` bytes, then waits for `event`, then sends the rest."""
    def act(handler, answer):
        code, headers, body = answer
        handler.begin(code, {**headers, "Content-Length": str(len(body))})
        handler.send(body[:count])
        event.wait(120)
        try:
            handler.send(body[count:])
        except OSError:
            handler.close_connection = True
    return act


# ---- the server ----

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 120

    def log_message(self, *_):
        pass

    def begin(self, code, headers):
        self.request_log.status = code
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, data):
        for at in range(0, len(data), 65536):
            self.wfile.write(data[at:at + 65536])
            self.request_log.sent += len(data[at:at + 65536])
        self.wfile.flush()

    def answer(self, code, headers, body):
        self.begin(code, {**headers, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.send(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub = self.server.hub
        kind, reply = self.route(hub)
        self.request_log = Request(kind, self)
        with hub.lock:
            hub.log.append(self.request_log)
            fault = next((f for f in hub.faults if f.takes(self.request_log)), None)
        try:
            if fault:
                fault.act(self, reply)
            else:
                self.answer(*reply)
        except OSError:
            self.close_connection = True

    def route(self, hub):
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        if self.server.is_storage:
            return "blob", self.blob(hub, path)
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/(.+)", path)
        if match:
            repo, kind, revision = match.groups()
            return kind, self.api(hub, repo, kind, revision, urllib.parse.parse_qs(url.query))
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if match:
            return "resolve", self.resolve(hub, *match.groups())
        return "other", error(404, "RepoNotFound")

    def find(self, hub, name, revision):
        """(repository, None) or (None, the answer instead)."""
        if name in hub.moved:
            target = self.path.replace(name, hub.moved[name])
            return None, (307, {"Location": target}, b"")
        commits = hub.repos.get(name)
        if not commits:
            return None, error(401, "RepoNotFound")
        repo = hub.refs[name].get(revision) or commits.get(revision)
        if not repo:
            return None, error(404, "RevisionNotFound")
        token = self.headers.get("Authorization")
        if token and token != f"Bearer {TOKEN}":
            return None, error(401, "")
        return repo, None

    def api(self, hub, name, kind, revision, query):
        repo, instead = self.find(hub, name, revision)
        if instead:
            return instead
        if kind == "revision":
            siblings = [{"rfilename": p} for p in sorted(repo.files)]
            return as_json({"id": name, "modelId": name, "sha": repo.commit, "private": False,
                            "gated": "auto" if repo.gated else False, "tags": [],
                            "downloads": 0, "likes": 0, "siblings": siblings})
        start = int(query.get("cursor", ["0"])[0])
        entries = repo.entries()
        headers = {}
        if start + hub.page < len(entries):
            headers["Link"] = f'<{hub.url}/api/models/{name}/tree/{revision}?recursive=true&' \
                              f'cursor={start + hub.page}>; rel="next"'
        return as_json(entries[start:start + hub.page], headers)

    def resolve(self, hub, name, revision, path):
        repo, instead = self.find(hub, name, revision)
        if instead:
            return instead
        if repo.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return error(401, "GatedRepo")
        file = repo.files.get(path)
        if not file:
            return error(404, "EntryNotFound")
        self.file = file
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{file.etag}"',
                   "Accept-Ranges": "bytes"}
        if not file.lfs:
            return self.part(file.data, headers)
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data)),
                    "Location": f"{hub.storage_url}/{file.sha256}?Signature=SECRETSIGNATURE"}
        return 302, headers, b"Found. Redirecting"

    def blob(self, hub, path):
        for commits in hub.repos.values():
            for repo in commits.values():
                for file in repo.files.values():
                    if file.lfs and path == f"/{file.sha256}":
                        self.file = file
                        return self.part(file.data, {"ETag": '"storage-etag"',
                                                     "Accept-Ranges": "bytes"})
        return error(404, "")

    def part(self, data, headers):
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not match:
            return 200, headers, data
        first = int(match.group(1))
        last = min(int(match.group(2) or len(data) - 1), len(data) - 1)
        if first >= len(data):
            return 416, {"Content-Range": f"bytes */{len(data)}"}, b""
        return 206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"}, \
            data[first:last + 1]


def as_json(value, headers=None):
    return 200, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode()


def error(code, name):
    headers = {"X-Error-Code": name, "X-Error-Message": f"test: {name}"} if name else {}
    return code, headers, json.dumps({"error": name}).encode()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub, is_storage):
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub, self.is_storage = hub, is_storage

    def handle_error(self, request, client_address):
        pass  # a client that has gone


class Hub:
    """`tls`: an ssl.SSLContext for both servers, or None."""

    def __init__(self, tls=None):
        self.repos, self.refs, self.moved = {}, {}, {}
        self.faults, self.log = [], []
        self.page = PAGE
        self.lock = threading.Lock()
        self.servers = [Server(self, False), Server(self, True)]
        scheme = "https" if tls else "http"
        for server in self.servers if tls else []:
            server.socket = tls.wrap_socket(server.socket, server_side=True,
                                            do_handshake_on_connect=False)
        self.url = f"{scheme}://127.0.0.1:{self.servers[0].server_port}"
        # Another host as far as a client can see.
        self.storage_url = f"{scheme}://localhost:{self.servers[1].server_port}"

    def __enter__(self):
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def add(self, name, files, revision="main", gated=False):
        """A commit of a repository, which `revision` then points to."""
        repo = Repo(files, gated)
        self.repos.setdefault(name, {})[repo.commit] = repo
        self.refs.setdefault(name, {})[revision] = repo
        return repo

    def env(self, cache, **extra):
        """What makes a client use this hub. Proxies would be asked for 127.0.0.1, too."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_CACHE": str(cache),
                "HF_HOME": str(cache) + "-home",
                "HF_HUB_DOWNLOAD_TIMEOUT": "5", "HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "",
                "HF_HUB_OFFLINE": "", "no_proxy": "*", **extra}

    def requests(self, kind, path=""):
        with self.lock:
            return [r for r in self.log if r.kind == kind and path in r.path]

    def sent(self, kind, path=""):
        """Bytes of bodies of files."""
        return sum(r.sent for r in self.requests(kind, path))
