"""test_hub_faults.py - pulls over a network and from a hub that are not well: every fault ends with
the right bytes or with a clear error, and never with a cache that looks whole and is not."""

import datetime
import ipaddress
import json
import os
import re
import resource
import shutil
import signal
import ssl
import subprocess
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import harness
import hub_server
from hub_server import LFS_FROM, Fault, Hub
from test_hub import MiB, Cache, noise

LARGE, SMALL = "model.safetensors", "config.json"
SIZE = 300_000
FILES = {SMALL: b'{"model_type": "llama"}' + b" " * 1000, LARGE: noise(SIZE),
         "tokenizer.json": b"{}" * 4000}


@pytest.fixture
def hub():
    with Hub() as h:
        h.add("org/name", FILES)
        yield h


@pytest.fixture
def cache(mlxd, hub, tmp_path):
    c = Cache(mlxd, hub, tmp_path)
    c.env["HF_HUB_DOWNLOAD_TIMEOUT"] = "1"
    return c


def check_whole(cache):
    """All of it is there, and nothing else."""
    assert cache.files() == FILES
    model, = cache.models()["models"]
    assert model["complete"]
    assert not [b for b in cache.blobs() if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", b)]


def check_nothing(cache, done, code, *words):
    """A clear error; no snapshot, no ref; every blob is what its name says."""
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "org/name" in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert "SECRETSIGNATURE" not in done.stderr + done.stdout
    assert cache.models()["models"] == []
    repo = os.path.join(cache.path, "models--org--name")
    assert not os.path.exists(os.path.join(repo, "refs", "main"))
    for blob in cache.blobs():
        if not blob.endswith(".incomplete"):
            with open(os.path.join(repo, "blobs", blob), "rb") as f:
                file = hub_server.File(f.read(), lfs=len(blob) == 64)
            assert file.etag == blob
    assert cache.run("plan", "org/name").returncode == 66


# ---- faults that pass ----

@pytest.mark.parametrize("kind,path,places", [
    ("blob", hub_server.File(FILES[LARGE]).sha256, (0, 1, 1000, SIZE // 2, SIZE - 1)),
    ("resolve", SMALL, (0, 1, 1000)), ("revision", "", (0, 1, 100)), ("tree", "", (0, 1, 100))])
def test_dropped(cache, hub, kind, path, places):
    """At every kind of place; as bytes come again and again, it does not give up."""
    acts = [hub_server.drop_at_once, hub_server.drop_in_header, hub_server.drop_after(0, hard=True),
            hub_server.drop_after(17, hard=True), *map(hub_server.drop_after, places)]
    for act in acts:
        hub.faults.append(Fault(kind, act, path=path))
        cache.pull("org/name")
        assert not [f for f in hub.faults if f.times > 0]
        check_whole(cache)
        assert cache.run("rm", "org/name", "--yes").returncode == 0


@pytest.mark.parametrize("kind", ["blob", "resolve", "tree", "revision"])
def test_status_that_passes(cache, hub, kind):
    for code in (429, 500, 503):
        hub.faults.append(Fault(kind, hub_server.status(code, b"busy")))
    cache.pull("org/name")
    check_whole(cache)


def test_retry_after(cache, hub):
    hub.faults.append(Fault("resolve", hub_server.status(429, Retry_After="2"), path=LARGE))
    start = time.monotonic()
    cache.pull("org/name")
    assert time.monotonic() - start >= 2
    check_whole(cache)


@pytest.mark.parametrize("act", [
    hub_server.wrong_length(-1), hub_server.wrong_length(-SIZE + 1), hub_server.wrong_length(1),
    hub_server.wrong_length(10**9), hub_server.no_length, hub_server.flip(0), hub_server.flip(-1),
    hub_server.content(b""), hub_server.content(b"short"), hub_server.content(noise(SIZE, 5)),
    hub_server.content(noise(SIZE + 1, 5)), hub_server.content(noise(4 * SIZE, 5))])
def test_wrong_once(cache, hub, act):
    hub.faults.append(Fault("blob", act, path=hub_server.File(FILES[LARGE]).sha256))
    cache.pull("org/name")
    check_whole(cache)


@pytest.mark.parametrize("act", [hub_server.ignore_range, hub_server.wrong_range,
                                 hub_server.status(416)])
def test_range_is_not_honoured(cache, hub, act):
    path = hub_server.File(FILES[LARGE]).sha256
    hub.faults += [Fault("blob", hub_server.drop_after(SIZE // 2), path=path),
                   Fault("blob", act, path=path)]
    cache.pull("org/name")
    check_whole(cache)


def test_stalls(cache, hub):
    """A connection on which nothing comes is given up, and the file goes on from there."""
    never = threading.Event()
    digest = hub_server.File(FILES[LARGE]).sha256
    for kind in ("revision", "tree", "blob", "blob"):
        hub.faults.append(Fault(kind, hub_server.stall(100, never),
                                path=digest if kind == "blob" else ""))
    cache.pull("org/name")
    check_whole(cache)
    never.set()
    # The second stall had sent its hundred bytes, too.
    assert hub.requests("blob", digest)[-1].headers["range"] == "bytes=200-"


def test_many_small_steps(cache, hub):
    """As long as bytes come, it goes on."""
    path = hub_server.File(FILES[LARGE]).sha256
    hub.faults.append(Fault("blob", hub_server.drop_after(30_000), path=path, times=9))
    cache.pull("org/name")
    check_whole(cache)
    assert hub.sent("blob", path) == SIZE


def test_changed_between_runs(cache, hub):
    """What an earlier run has left is damaged: found at the end, and fetched again."""
    digest = hub_server.File(FILES[LARGE]).sha256
    blobs = os.path.join(cache.path, "models--org--name", "blobs")
    os.makedirs(blobs)
    for content in (noise(1000, 7), noise(SIZE, 8), noise(SIZE + 1, 9)):
        with open(os.path.join(blobs, digest + ".mlxd.incomplete"), "wb") as f:
            f.write(content)
        cache.pull("org/name")
        check_whole(cache)
        cache.run("rm", "org/name", "--yes")
        os.makedirs(blobs)


def test_commit_moves_on(cache, hub):
    """A push during the pull does not mix two commits."""
    go = threading.Event()
    hub.faults.append(Fault("tree", hub_server.stall(0, go)))
    process = cache.start("org/name")
    harness.until(lambda: hub.requests("tree"), "the list is asked for")
    hub.add("org/name", {SMALL: b"{}", LARGE: noise(SIZE, 77)})
    go.set()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    check_whole(cache)


# ---- faults that stay ----

@pytest.mark.parametrize("kind", ["blob", "resolve", "tree", "revision"])
def test_down_for_good(cache, hub, kind):
    hub.faults.append(Fault(kind, hub_server.drop_at_once, times=-1))
    check_nothing(cache, cache.run("pull", "org/name"), 69, "gave up after 5 tries")
    assert len(hub.requests(kind)) >= 5


def test_nobody_there(cache, hub):
    port, = harness.free_ports(1)
    done = cache.run("pull", "org/name", HF_ENDPOINT=f"http://127.0.0.1:{port}")
    assert done.returncode == 69 and "127.0.0.1" in done.stderr
    done = cache.run("pull", "org/name", HF_ENDPOINT="http://no-such-host.invalid")
    assert done.returncode == 69 and "no-such-host.invalid" in done.stderr


def test_not_tls(cache, hub):
    url = hub.url.replace("http:", "https:")
    done = cache.run("pull", "org/name", HF_ENDPOINT=url)
    assert done.returncode == 69


@pytest.mark.parametrize("code,exit_code,words", [
    (429, 75, ["rate", "HF_TOKEN"]), (503, 69, ["503"]), (500, 69, ["500"]),
    (403, 77, ["terms"]), (404, 66, ["404"]), (400, 76, ["400"])])
def test_status_that_stays(cache, hub, code, exit_code, words):
    hub.faults.append(Fault("resolve", hub_server.status(code), times=-1))
    check_nothing(cache, cache.run("pull", "org/name"), exit_code, *words)


def test_signature_expires(cache, hub):
    """The storage refuses: the next try asks the hub for another address."""
    for code in (403, 404, 410):
        hub.faults.append(Fault("blob", hub_server.status(code)))
    cache.pull("org/name")
    check_whole(cache)
    cache.run("rm", "org/name", "--yes")
    hub.faults.append(Fault("blob", hub_server.status(403), times=-1))
    check_nothing(cache, cache.run("pull", "org/name"), 69, "storage", "403")


def test_retry_after_is_bounded(cache, hub):
    hub.faults.append(Fault("revision", hub_server.status(429, Retry_After="86400"), times=-1))
    check_nothing(cache, cache.run("pull", "org/name"), 75, "86400 s")


@pytest.mark.parametrize("act", [
    hub_server.flip(5), hub_server.content(noise(SIZE, 5)), hub_server.content(b""),
    hub_server.content(noise(SIZE + 1, 5)), hub_server.wrong_length(5)])
def test_wrong_for_good(cache, hub, act):
    path = hub_server.File(FILES[LARGE]).sha256
    hub.faults.append(Fault("blob", act, path=path, times=-1))
    done = cache.run("pull", "org/name")
    assert done.returncode in (65, 69), done.stderr
    check_nothing(cache, done, done.returncode, LARGE)
    hub.faults.clear()
    cache.pull("org/name")
    check_whole(cache)


def test_wrong_small_file(cache, hub):
    hub.faults.append(Fault("resolve", hub_server.flip(3), path=SMALL, times=-1))
    check_nothing(cache, cache.run("pull", "org/name"), 65, SMALL, "digest")


def test_redirects(cache, hub):
    hub.faults.append(Fault("resolve", hub_server.redirect(lambda h: h.path), path=LARGE, times=-1))
    check_nothing(cache, cache.run("pull", "org/name"), 76, "redirects more than")
    hub.faults.clear()
    for target in ("file:///etc/passwd", "ftp://localhost/x", "gopher://x", "http://", "//["):
        hub.faults.append(Fault("resolve", hub_server.redirect(target), path=LARGE, times=-1))
        done = cache.run("pull", "org/name")
        assert done.returncode in (69, 76), done.stderr
        check_nothing(cache, done, done.returncode)
        hub.faults.clear()


# ---- permission ----

def authorized(hub, kind):
    return [r for r in hub.requests(kind) if "authorization" in r.headers]


def test_token_stays_at_the_hub(cache, hub, tmp_path):
    hub.add("org/gated", FILES, gated=True)
    done = cache.run("pull", "org/gated")
    assert done.returncode == 77 and "HF_TOKEN" in done.stderr and "terms" in done.stderr
    assert not authorized(hub, "revision")
    done = cache.run("pull", "org/gated", HF_TOKEN=hub_server.TOKEN)
    assert done.returncode == 0, done.stderr
    assert authorized(hub, "revision") and authorized(hub, "resolve")
    assert hub.requests("blob") and not authorized(hub, "blob")
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text(hub_server.TOKEN + "\n")
    for env in ({"HUGGING_FACE_HUB_TOKEN": hub_server.TOKEN}, {"HF_HOME": str(home)},
                {"HF_TOKEN_PATH": str(home / "token")}):
        cache.run("rm", "org/gated", "--yes")
        done = cache.run("pull", "org/gated", **env)
        assert done.returncode == 0, done.stderr
    cache.run("rm", "org/gated", "--yes")
    done = cache.run("pull", "org/gated", "--log-level", "debug", HF_HOME=str(home),
                     HF_HUB_DISABLE_IMPLICIT_TOKEN="1")
    assert done.returncode == 77
    assert not authorized(hub, "blob")


def test_token_is_not_shown(cache, hub):
    secret = "hf_secret9876543210"
    for env in ({"HF_TOKEN": secret}, {"HF_TOKEN": secret + "\nX-Evil: 1"},
                {"HF_TOKEN": secret + "x" * 600}):
        for args in (("--json",), ("--log-level", "debug"), ("--quiet",)):
            done = cache.run("pull", "org/name", *args, **env)
            assert done.returncode in (77, 78)
            assert secret not in done.stdout + done.stderr
    hub.faults.append(Fault("blob", hub_server.drop_at_once, times=-1))
    done = cache.run("pull", "org/name", HF_TOKEN=hub_server.TOKEN)
    assert done.returncode == 69
    assert hub_server.TOKEN not in done.stdout + done.stderr


def test_redirect_to_another_host_and_back(cache, hub):
    """Only the hub's own origin gets the token, however one comes there."""
    there = hub_server.redirect(f"{hub.storage_url}/steal")
    hub.faults.append(Fault("revision", there, times=1))
    hub.faults.append(Fault("blob", hub_server.redirect(f"{hub.url}/back"), path="/steal"))
    done = cache.run("pull", "org/name", HF_TOKEN=hub_server.TOKEN)
    assert done.returncode == 66  # /back is none of the hub's pages
    assert authorized(hub, "other")
    assert hub.requests("blob", "/steal") and not authorized(hub, "blob")


@pytest.mark.parametrize("name,code,words", [
    ("org/nothing", 77, ["not found, or private"]), ("org/name@v9", 66, ["no revision"])])
def test_missing(cache, hub, name, code, words):
    done = cache.run("pull", name)
    assert done.returncode == code
    assert all(w in done.stderr for w in words), done.stderr


# ---- TLS ----

def make_certificate(folder, names):
    """A certificate that is its own authority, and its key, in one file each."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test hub")])
    now = datetime.datetime.now(datetime.timezone.utc)
    hosts = [x509.IPAddress(ipaddress.ip_address(n)) if n[0].isdigit() else x509.DNSName(n)
             for n in names]
    certificate = x509.CertificateBuilder(
        issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=1,
        not_valid_before=now - datetime.timedelta(days=1),
        not_valid_after=now + datetime.timedelta(days=1)) \
        .add_extension(x509.SubjectAlternativeName(hosts), False) \
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True) \
        .sign(key, hashes.SHA256())
    (folder / "hub.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "hub.key").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "hub.crt", folder / "hub.key")
    return context


def test_tls(mlxd, tmp_path):
    context = make_certificate(tmp_path, ["127.0.0.1", "localhost"])
    trust = {"SSL_CERT_FILE": str(tmp_path / "hub.crt")}
    with Hub(context) as hub:
        hub.add("org/name", FILES)
        cache = Cache(mlxd, hub, tmp_path)
        check_nothing(cache, cache.run("pull", "org/name"), 69, "certificate", "SSL_CERT_FILE")
        assert not hub.log
        check_nothing(cache, cache.run("pull", "org/name", SSL_CERT_FILE="/nothing"), 69)
        # From https nothing leads to http, with or without a token.
        plain = hub.storage_url.replace("https:", "http:")
        hub.faults.append(Fault("resolve", hub_server.redirect(plain), path=LARGE, times=-1))
        check_nothing(cache, cache.run("pull", "org/name", **trust), 76, "from https to http")
        hub.faults.clear()
        cache.pull("org/name", **trust)
        check_whole(cache)


def test_tls_of_another_host(mlxd, tmp_path):
    context = make_certificate(tmp_path, ["example.org"])
    with Hub(context) as hub:
        hub.add("org/name", FILES)
        cache = Cache(mlxd, hub, tmp_path)
        done = cache.run("pull", "org/name", SSL_CERT_FILE=str(tmp_path / "hub.crt"),
                         HF_TOKEN=hub_server.TOKEN)
        check_nothing(cache, done, 69, "certificate")
        assert not hub.log


# ---- a hub that lies in its list ----

def listing(*entries):
    return hub_server.content(json.dumps(entries).encode())


def entry(path, **fields):
    return {**hub_server.File(b"x").entry(path), **fields}


@pytest.mark.parametrize("entries", [
    [entry("../../../evil")], [entry("/tmp/evil")], [entry("a/../../b")], [entry("a\0b")],
    [entry("a\nb")], [entry("x" * 300)], [entry("d/" * 600 + "x")], [entry("x"), entry("x")],
    [entry("x"), entry("x/y")], [entry("x", oid="../../../../../../../../../../../../tmp/xyzw")],
    [entry("x", size=-5)], [entry("x", size=2**63)], [entry("x", size=2**50)],
    [entry("x", size="5")], [{"type": "file"}], ["x"], [None]])
def test_hostile_list(cache, hub, tmp_path, entries):
    hub.faults.append(Fault("tree", listing(entry("config.json"), *entries), times=-1))
    check_nothing(cache, cache.run("pull", "org/name"), 65, "list of files")
    assert not [p for p in tmp_path.rglob("*evil*")]


@pytest.mark.parametrize("body", [b"[", b"{}", b"<html>", b"[" * 100000, b"\xff",
                                  b'[{"type":"file","type":"file"}]'])
def test_malformed_list(cache, hub, body):
    hub.faults.append(Fault("tree", hub_server.content(body), times=-1))
    check_nothing(cache, cache.run("pull", "org/name"), 65)
    hub.faults.clear()
    hub.faults.append(Fault("revision", hub_server.content(body), times=-1))
    check_nothing(cache, cache.run("pull", "org/name"), 76)


def test_endless_list(cache, hub):
    """100 000 files; a page that names itself as the next one; an answer without end."""
    many = [entry(f"x/{i}") for i in range(100_000)]
    hub.faults.append(Fault("tree", listing(*many[:50_000]), times=1))
    hub.faults.append(Fault("tree", listing(*many), times=-1))
    check_nothing(cache, cache.run("pull", "org/name"), 66, "no weights")
    check_nothing(cache, cache.run("pull", "org/name"), 65, "more than 65536 files")
    hub.faults.clear()

    def again(handler, answer):
        code, headers, body = answer
        handler.answer(code, {**headers, "Link": f'<{hub.url}{handler.path}>; rel="next"'}, body)
    hub.faults.append(Fault("tree", again, times=-1))
    check_nothing(cache, cache.run("pull", "org/name"), 76, "after itself")
    hub.faults.clear()
    hub.faults.append(Fault("tree", hub_server.content(b" " * (17 * MiB)), times=-1))
    check_nothing(cache, cache.run("pull", "org/name"), 76, "larger than")
    hub.faults.clear()
    hub.faults.append(Fault("tree", hub_server.content(b""), times=-1))
    check_nothing(cache, cache.run("pull", "org/name"), 69, "empty")


@pytest.mark.parametrize("index", [b"", b"[]", b"{", b'{"weight_map":{}}',
                                   b'{"weight_map":{"a":"../../x"}}', b'{"weight_map":{"a":"y"}}',
                                   b'{"weight_map":{"a":5}}'])
def test_hostile_index(cache, hub, index):
    hub.add("org/name", {SMALL: b"{}", "model.safetensors.index.json": index,
                         "model-1.safetensors": noise(9000)})
    done = cache.run("pull", "org/name")
    assert done.returncode in (65, 66), done.stderr
    check_nothing(cache, done, done.returncode, "model.safetensors.index.json")


# ---- this machine ----

def test_no_room(cache, hub, tmp_path):
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("needs root, for a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)],
                          capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("cannot mount a tmpfs here")
    go = threading.Event()
    try:
        cache.path = cache.env["HF_HUB_CACHE"] = str(disk / "hub")
        hub.add("org/name", {**FILES, LARGE: noise(8 * MiB)})
        check_nothing(cache, cache.run("pull", "org/name"), 75, "room", "HF_HUB_CACHE")
        assert not hub.requests("resolve")
        # It fills up while a file is on its way.
        files = {**FILES, LARGE: noise(3 * MiB // 2)}
        hub.add("org/name", files)
        digest = hub_server.File(files[LARGE]).sha256
        hub.faults.append(Fault("blob", hub_server.stall(MiB, go), path=digest))
        cache.env["HF_HUB_DOWNLOAD_TIMEOUT"] = "30"
        process = cache.start("org/name")
        partial = f"{cache.path}/models--org--name/blobs/{digest}.mlxd.incomplete"
        harness.until(lambda: os.path.exists(partial) and os.path.getsize(partial) == MiB,
                      "a MiB has come")
        try:
            with open(disk / "filler", "wb", buffering=0) as f:
                while True:
                    f.write(b"x" * 4096)
        except OSError:
            pass
        go.set()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 74 and "No space left" in err
        assert os.path.getsize(partial) >= MiB
        os.unlink(disk / "filler")
        cache.pull("org/name")
        assert cache.files() == files
        assert hub.requests("blob", digest)[-1].headers["range"].startswith("bytes=1")
    finally:
        go.set()
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_file_size_limit(cache, hub):
    """A write that fails in the middle is an error, and the rest comes another time."""
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    done = harness.run(cache.mlxd, "pull", "org/name", env=cache.env, preexec_fn=limit)
    check_nothing(cache, done, 74, "cannot write")
    cache.pull("org/name")
    check_whole(cache)


def test_cache_that_cannot_be_written(cache, hub, tmp_path):
    (tmp_path / "hub").write_text("a file")
    done = cache.run("pull", "org/name")
    assert done.returncode in (66, 74) and str(tmp_path) in done.stderr
    done = cache.run("pull", "org/name", HF_HUB_CACHE="/proc/nothing")
    assert done.returncode in (66, 77, 74) and "/proc/nothing" in done.stderr


def test_settings_that_cannot_be(cache):
    for env in ({"HF_ENDPOINT": "ftp://x"}, {"HF_ENDPOINT": "http://user:pass@host"},
                {"HF_ENDPOINT": "https://h?q"}, {"HF_HUB_DOWNLOAD_TIMEOUT": "soon"},
                {"HF_HUB_DOWNLOAD_TIMEOUT": "0"}, {"HF_HUB_CACHE": "x" * 5000}):
        done = cache.run("pull", "org/name", **env)
        name, = env
        assert done.returncode == 78 and name in done.stderr, done.stderr
        assert "pass" not in done.stderr
