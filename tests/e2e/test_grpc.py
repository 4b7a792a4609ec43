"""test_grpc.py - the gRPC services as another implementation (Python grpcio) sees them.

Health and the contract's TensorService with an operator's certificate over mutual TLS; what the
layers compute, checked against an independent implementation; and who is kept out, and how.
"""

import array
import datetime
import json
import math
import os
import random
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import harness
import rpc as rpc_module
from gguf_file import GgufFile
from rpc import TIMEOUT, code_of, credentials

SERVICES = ("", "liveness", "readiness", "tensor_service.TensorService")
WIDTH = 576


@pytest.fixture(scope="module")
def rpc(tmp_path_factory):
    return rpc_module.Rpc(tmp_path_factory.mktemp("proto"))


@pytest.fixture(scope="module")
def cluster(world):
    """Three processes; the layers are prescribed, so that each has some to split."""
    with harness.Cluster(world, layers=(10, 10, 10), args=("--ctx", 2048)) as c:
        yield c


@pytest.fixture(scope="module")
def operator(world):
    return credentials(world.certs, "operator")


@pytest.fixture(scope="module")
def channels(cluster, rpc, operator):
    """An operator's channel to each node, by device."""
    all_of_them = {n.device: rpc.to(n, operator) for n in cluster.nodes}
    yield all_of_them
    for ch in all_of_them.values():
        ch.close()


@pytest.fixture(scope="module")
def layers(cluster):
    """Layers by device."""
    devices = cluster.rest.get("/cluster-status").json()["devices"]
    return {d: (v["layers"][0], v["layers"][-1]) for d, v in devices.items()}


def noise(positions, width=WIDTH, seed=1):
    r = random.Random(seed)
    return array.array("f", [r.gauss(0, 1) for _ in range(positions * width)]).tobytes()


# ---- health ----

def test_health_over_mutual_tls(rpc, channels):
    for device, ch in channels.items():
        for service in SERVICES:
            assert rpc.health(ch, service) == "SERVING", (device, service)
        assert code_of(lambda ch=ch: rpc.health(ch, "no.such.Service"))[0] == "NOT_FOUND"


def test_the_plaintext_health_port_answers_health_and_nothing_else(cluster, rpc):
    for n in cluster.nodes:
        with rpc.channel(n.health, None) as ch:
            for service in SERVICES:
                assert rpc.health(ch, service) == "SERVING"
            assert code_of(lambda ch=ch: rpc.health(ch, "nobody"))[0] == "NOT_FOUND"
            stub = rpc.tensor(ch)
            for call, request in ((stub.HealthCheck, rpc.pb.HealthRequest()),
                                  (stub.GetClusterStatus, rpc.pb.ClusterStatusRequest()),
                                  (stub.GetTensor, rpc.pb.GetTensorRequest(tensor_id="x"))):
                code, _ = code_of(lambda c=call, r=request: c(r, timeout=TIMEOUT))
                assert code == "UNIMPLEMENTED"


def test_healthcheck_command(cluster, world, mlxd):
    n = cluster.worker("mini2")
    for service in SERVICES:
        done = harness.run(mlxd, "healthcheck", "--address", f"127.0.0.1:{n.health}", "--service",
                           service)
        assert (done.returncode, done.stdout) == (0, "serving\n")
    tls = ["--address", f"127.0.0.1:{n.grpc}", "--device", "mini2", "--ca", world.certs + "/ca.crt",
           "--cert", world.certs + "/operator.crt", "--key", world.certs + "/operator.key"]
    done = harness.run(mlxd, "healthcheck", *tls, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["serving"] is True
    [port] = harness.free_ports(1)
    assert harness.run(mlxd, "healthcheck", "--address", f"127.0.0.1:{port}").returncode == 69
    # plaintext on the TLS port, and another device than the one there
    assert harness.run(mlxd, "healthcheck", "--address", f"127.0.0.1:{n.grpc}").returncode == 69
    tls[3] = "master"
    assert harness.run(mlxd, "healthcheck", *tls).returncode == 69


def test_grpc_health_probe(cluster, world):
    probe = shutil.which("grpc_health_probe") or shutil.which("grpc-health-probe")
    if not probe:
        pytest.skip("grpc_health_probe is not installed")
    for n in cluster.nodes:
        tls = ["-tls", f"-tls-ca-cert={world.certs}/ca.crt",
               f"-tls-client-cert={world.certs}/operator.crt",
               f"-tls-client-key={world.certs}/operator.key",
               f"-tls-server-name={n.device}.test.mlxd"]
        for service in SERVICES:
            for args in ([f"-addr=127.0.0.1:{n.health}"], [f"-addr=127.0.0.1:{n.grpc}", *tls]):
                done = subprocess.run([probe, *args, f"-service={service}"], capture_output=True,
                                      text=True, timeout=harness.HANG_S)
                assert done.returncode == 0, done.stderr
                assert "status: SERVING" in done.stdout + done.stderr
        done = subprocess.run([probe, f"-addr=127.0.0.1:{n.health}", "-service=nobody"],
                              capture_output=True, timeout=harness.HANG_S)
        assert done.returncode == 3  # the probe's "rpc failed": NOT_FOUND


# ---- what a node says ----

def test_health_check_of_the_contract(rpc, channels):
    for device, ch in channels.items():
        before = time.time()
        reply = rpc.tensor(ch).HealthCheck(rpc.pb.HealthRequest(device_id="me"), timeout=5)
        assert reply.healthy and reply.device_id == device and reply.status_message == "ready"
        assert before - 1 < reply.timestamp < time.time() + 1


def test_cluster_status(cluster, rpc, channels, layers):
    reply = rpc.tensor(channels["mini1"]).GetClusterStatus(rpc.pb.ClusterStatusRequest(),
                                                           timeout=TIMEOUT)
    assert reply.coordinator == "mini1"
    assert [d.device_id for d in reply.devices] == ["mini1", "mini2", "master"]
    for d, n in zip(reply.devices, cluster.nodes, strict=True):
        first, last = layers[d.device_id]
        assert list(d.layers) == list(range(first, last + 1))
        assert d.role == ("coordinator" if d.device_id == "mini1" else "worker")
        assert d.port == n.grpc and d.status == "online" and d.hostname
    own = rpc.tensor(channels["mini2"]).GetClusterStatus(rpc.pb.ClusterStatusRequest(),
                                                         timeout=TIMEOUT)
    assert own.coordinator == "mini1"
    assert [d.device_id for d in own.devices] == ["mini2"]
    assert own.devices[0].layers[0] == layers["mini2"][0]


# ---- ForwardPass ----

def test_a_pass_can_be_split_and_repeated(rpc, channels, layers):
    for device, (first, last) in layers.items():
        ch, x, middle = channels[device], noise(70), (first + last) // 2
        whole = rpc.forward(ch, x, WIDTH, first, last)
        assert whole != x
        half = rpc.forward(ch, x, WIDTH, first, middle)
        assert rpc.forward(ch, half, WIDTH, middle + 1, last) == whole
        assert rpc.forward(ch, x, WIDTH, first, last) == whole
        assert rpc.forward(ch, x, WIDTH, first, last, shape=[1, 70, WIDTH]) == whole
        # causal: later positions change nothing
        assert rpc.forward(ch, x[:9 * 4 * WIDTH], WIDTH, first, last) == whole[:9 * 4 * WIDTH]


def test_three_processes_compute_what_one_does_and_what_the_reference_says(world, rpc, operator):
    """Embeddings and head in plain Python, the layers over ForwardPass; the logits of Hugging Face
    transformers are in tests/golden."""
    path = os.path.join(harness.GOLDEN, "tiny-f32.gguf")
    with open(os.path.join(harness.GOLDEN, "index.json"), encoding="utf-8") as f:
        about = next(t for t in json.load(f)["tiny"] if t["file"] == "tiny-f32.gguf")
    with open(os.path.join(harness.GOLDEN, about["tokens"]), encoding="utf-8") as f:
        tokens = json.load(f)
    model = GgufFile(path)
    width, count = model.tensors["token_embd.weight"].dims
    embeddings, norm = model.floats("token_embd.weight"), model.floats("output_norm.weight")
    epsilon = model.fields["llama.attention.layer_norm_rms_epsilon"]
    x = b"".join(embeddings[t * width:(t + 1) * width].tobytes() for t in tokens)
    spans = {"mini1": (0, 0), "mini2": (1, 2), "master": (3, 4)}
    with harness.Cluster(world, layers=(1, 2, 2), model=path) as c:
        hidden = x
        for n in c.nodes:
            with rpc.to(n, operator) as ch:
                hidden = rpc.forward(ch, hidden, width, *spans[n.device])
    with harness.Cluster(world, workers=(), model=path) as c, \
            rpc.to(c.coordinator, operator) as ch:
        assert rpc.forward(ch, x, width, 0, 4) == hidden
    logits = struct.unpack(f"<{count * len(about['reference']['positions'])}f",
                           rpc_module.read(harness.GOLDEN, about["reference"]["file"]))
    worst = 0
    for row, position in enumerate(about["reference"]["positions"]):
        h = struct.unpack_from(f"<{width}f", hidden, position * width * 4)
        scale = 1 / math.sqrt(sum(v * v for v in h) / width + epsilon)
        h = [v * scale * w for v, w in zip(h, norm, strict=True)]
        for t in range(count):
            mine = sum(a * b for a, b in zip(h, embeddings[t * width:(t + 1) * width],
                                             strict=True))
            worst = max(worst, abs(mine - logits[row * count + t]))
    print(f"largest difference of a logit: {worst:.2g}")
    assert worst < about["reference"]["tolerance"]["max_abs"]


def test_passes_that_are_refused(rpc, channels, layers):
    ch, (first, last) = channels["mini2"], layers["mini2"]
    x = noise(2)
    nan = struct.pack("<f", math.nan)

    def refused(hidden=x, start=first, end=last, shape=None, **fields):
        shape = shape if shape is not None else [2, WIDTH]
        tensor = rpc.pb.TensorData(**{"tensor_id": "t", "shape": shape, "dtype": "float32",
                                      "data": hidden, **fields})
        request = rpc.pb.ForwardPassRequest(input_tensor=tensor, layer_start=start, layer_end=end,
                                            pass_id="p")
        return code_of(lambda: rpc.tensor(ch).ForwardPass(request, timeout=TIMEOUT))

    bad = "INVALID_ARGUMENT"
    for code, case in (
            ("FAILED_PRECONDITION", {"start": first - 1}),
            ("FAILED_PRECONDITION", {"end": last + 1}),
            (bad, {"start": last, "end": first}),
            (bad, {"start": -1}),
            (bad, {"shape": [2, WIDTH + 1]}), (bad, {"shape": []}), (bad, {"shape": [2, 2, WIDTH]}),
            (bad, {"shape": [0, WIDTH], "hidden": b""}), (bad, {"shape": [-2, WIDTH]}),
            (bad, {"shape": [1 << 30, 1 << 30]}), (bad, {"shape": [3, WIDTH]}),
            (bad, {"hidden": x[:-1]}), (bad, {"hidden": b""}),
            (bad, {"dtype": "float16"}), (bad, {"dtype": "float33"}),
            (bad, {"compression": "zstd"}),
            ("DATA_LOSS", {"hidden": nan + x[4:]}),
            ("DATA_LOSS", {"hidden": x[:-4] + struct.pack("<f", -math.inf)})):
        got, text = refused(**case)
        assert got == code, (case, got, text)
        assert text
    # the text says which layers are there
    assert f"{first}..{last}" in refused(end=last + 1)[1]
    assert rpc.forward(ch, x, WIDTH, first, last)  # still serves


def test_passes_beside_requests(cluster, rpc, channels, layers):
    """Stateless passes and a running answer do not disturb each other."""
    want = cluster.rest.chat("What is gravity?", temperature=0, max_tokens=40)
    first, last = layers["mini2"]
    alone = rpc.forward(channels["mini2"], noise(20), WIDTH, first, last)
    got = {}
    t = threading.Thread(target=lambda: got.update(
        cluster.rest.chat("What is gravity?", temperature=0, max_tokens=40)))
    t.start()
    passes = 0
    while t.is_alive():
        assert rpc.forward(channels["mini2"], noise(20), WIDTH, first, last) == alone
        passes += 1
    t.join()
    assert passes > 1
    assert got["choices"] == want["choices"]


# ---- SendTensor, GetTensor ----

SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8}


def send(rpc, ch, **fields):
    fields = {"tensor_id": "t", "shape": [2, 3], "dtype": "uint8", "data": b"123456", **fields}
    return rpc.tensor(ch).SendTensor(rpc.pb.SendTensorRequest(tensor=rpc.pb.TensorData(**fields)),
                                     timeout=TIMEOUT)


def get(rpc, ch, tensor_id, timeout=0.0):
    return rpc.tensor(ch).GetTensor(
        rpc.pb.GetTensorRequest(tensor_id=tensor_id, timeout=timeout), timeout=TIMEOUT + timeout)


def test_tensors_come_back_as_they_were(rpc, channels):
    for device, ch in channels.items():
        for dtype, size in SIZES.items():
            data = bytes(i % 60 for i in range(5 * 3 * size))
            t = rpc.pb.TensorData(tensor_id=dtype, shape=[5, 3], dtype=dtype, data=data,
                                  device_source="a", device_target=device)
            reply = rpc.tensor(ch).SendTensor(rpc.pb.SendTensorRequest(tensor=t), timeout=TIMEOUT)
            assert reply.success and reply.message == ""
            back = get(rpc, ch, dtype)
            assert back.success and back.tensor.data == data
            assert list(back.tensor.shape) == [5, 3] and back.tensor.dtype == dtype
            assert back.tensor.tensor_id == dtype
        send(rpc, ch, tensor_id="uint8", data=b"abcdef")
        assert get(rpc, ch, "uint8").tensor.data == b"abcdef"  # replaced


def test_a_large_tensor(rpc, channels):
    data = random.Random(3).randbytes(16 << 20)
    send(rpc, channels["master"], tensor_id="large", shape=[16, 1 << 20], data=data)
    assert get(rpc, channels["master"], "large").tensor.data == data


def test_get_waits_for_the_tensor(rpc, channels):
    ch = channels["mini2"]
    answer = []
    t = threading.Thread(target=lambda: answer.append(get(rpc, ch, "late", TIMEOUT)))
    t.start()
    send(rpc, ch, tensor_id="other")
    send(rpc, ch, tensor_id="late", data=b"LATEST")
    t.join(TIMEOUT)
    assert answer and answer[0].tensor.data == b"LATEST"
    assert code_of(lambda: get(rpc, ch, "never"))[0] == "NOT_FOUND"
    assert code_of(lambda: get(rpc, ch, "never", 0.05))[0] == "NOT_FOUND"


def test_tensors_that_are_refused(rpc, channels):
    ch = channels["mini2"]
    for fields in ({"tensor_id": ""}, {"tensor_id": "x" * 257}, {"dtype": "float8"}, {"dtype": ""},
                   {"shape": [2, 4]}, {"shape": [-2, -3]}, {"shape": [(1 << 31) - 1] * 8},
                   {"shape": [1] * 9}, {"compression": "gzip"}, {"data": b""}):
        code, text = code_of(lambda f=fields: send(rpc, ch, **f))
        assert code == "INVALID_ARGUMENT" and text, fields
    nan = struct.pack("<6f", 0, 0, 0, 0, 0, math.nan)
    assert code_of(lambda: send(rpc, ch, dtype="float32", data=nan))[0] == "DATA_LOSS"
    for timeout in (-1.0, math.nan, 1e9):
        request = rpc.pb.GetTensorRequest(tensor_id="t", timeout=timeout)
        code, _ = code_of(lambda r=request: rpc.tensor(ch).GetTensor(r, timeout=TIMEOUT))
        assert code == "INVALID_ARGUMENT", timeout


def test_bytes_that_are_no_message(rpc, channels):
    """A service of another meaning, cut and random bytes: a status, and the node lives on."""
    ch, r = channels["mini2"], random.Random(20261123)
    good = rpc.pb.ForwardPassRequest(
        input_tensor=rpc.pb.TensorData(tensor_id="t", shape=[1, WIDTH], dtype="float32",
                                       data=noise(1)), layer_end=3, pass_id="p").SerializeToString()
    for method in ("ForwardPass", "SendTensor", "GetTensor", "HealthCheck", "GetClusterStatus"):
        call = ch.unary_unary(f"/tensor_service.TensorService/{method}")
        damaged = [good[:r.randrange(len(good))] for _ in range(20)]
        damaged += [r.randbytes(r.randrange(1, 200)) for _ in range(20)]
        damaged += [b"\x0a\xff\xff\xff\xff\x0f", b"\x0a" + 10 * b"\x80" + b"\x01"]
        codes = {code_of(lambda c=call, b=b: c(b, timeout=TIMEOUT))[0] for b in damaged}
        assert codes <= {"OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND",
                         "DATA_LOSS"}, (method, codes)
    code, _ = code_of(lambda: ch.unary_unary("/tensor_service.TensorService/Nothing")(
        b"", timeout=TIMEOUT))
    assert code == "UNIMPLEMENTED"
    assert rpc.health(ch) == "SERVING"


# ---- who may ----

def work_stream(channel):
    """Opens the coordinator's stream to a worker."""
    return lambda: list(channel.stream_stream("/mlxd.StageService/Work")(iter([b""]),
                                                                          timeout=TIMEOUT))


def test_what_each_role_may_call(cluster, world, rpc, layers):
    n = cluster.worker("mini2")
    first, last = layers["mini2"]
    with rpc.to(n, credentials(world.certs, "master")) as ch:  # a worker's certificate
        assert rpc.health(ch) == "SERVING"
        assert rpc.tensor(ch).HealthCheck(rpc.pb.HealthRequest(), timeout=5).healthy
        for call in (lambda: send(rpc, ch), lambda: get(rpc, ch, "t"),
                     lambda: rpc.forward(ch, noise(1), WIDTH, first, last), work_stream(ch)):
            code, text = code_of(call)
            assert code == "PERMISSION_DENIED" and text, text
    with rpc.to(n, credentials(world.certs, "operator")) as ch:
        assert code_of(work_stream(ch))[0] == "PERMISSION_DENIED"
    with rpc.to(cluster.coordinator, credentials(world.certs, "master")) as ch:
        assert code_of(lambda: send(rpc, ch))[0] == "PERMISSION_DENIED"
    with rpc.to(n, credentials(world.certs, "mini1")) as ch:  # the coordinator's
        assert send(rpc, ch).success
    assert cluster.rest.get("/ready", key=None).status == 200


def test_strangers_are_not_served(cluster, world, rpc, tmp_path):
    other = world.make_certs(str(tmp_path / "other"), "operator:operator", "mini1:coordinator")
    ca = os.path.join(world.certs, "ca.crt")
    for n in cluster.nodes:
        for why, creds in (("plaintext", None), ("no certificate", credentials(world.certs, None)),
                           ("another CA", credentials(other, "operator", ca)),
                           ("another CA's coordinator", credentials(other, "mini1", ca)),
                           ("we trust another CA", credentials(other, "operator"))):
            with rpc.channel(n.grpc, creds, n.device) as ch:
                assert code_of(lambda ch=ch: rpc.health(ch))[0] == "UNAVAILABLE", (n.device, why)
        with rpc.channel(n.grpc, credentials(world.certs, "operator"), "nobody") as ch:
            assert code_of(lambda ch=ch: rpc.health(ch))[0] == "UNAVAILABLE"
        with rpc.to(n, credentials(world.certs, "operator")) as ch:
            assert rpc.health(ch) == "SERVING"


def forge(world, folder, uri="spiffe://test/operator/operator", begins=-1, ends=1):
    """A certificate of the cluster's own CA with something wrong in it; times in days from now."""
    folder.mkdir()
    shutil.copy(os.path.join(world.certs, "ca.crt"), folder)
    ca = x509.load_pem_x509_certificate(rpc_module.read(world.certs, "ca.crt"))
    ca_key = serialization.load_pem_private_key(rpc_module.read(world.certs, "ca.key"), None)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "operator")])
    names = [x509.DNSName("operator.test.mlxd")]
    if uri:
        names.insert(0, x509.UniformResourceIdentifier(uri))
    usage = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    cert = (x509.CertificateBuilder().subject_name(name).issuer_name(ca.subject)
            .public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(begins))
            .not_valid_after(now + datetime.timedelta(ends))
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(x509.ExtendedKeyUsage(usage), False)
            .add_extension(x509.SubjectAlternativeName(names), False)
            .sign(ca_key, hashes.SHA256()))
    (folder / "operator.crt").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (folder / "operator.key").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()))
    return str(folder)


def test_faulty_certificates_of_our_own_ca(cluster, world, rpc, tmp_path):
    n = cluster.worker("mini2")
    cases = {
        "good": ("OK", {}),
        "expired": ("UNAVAILABLE", {"begins": -3, "ends": -1}),
        "not yet valid": ("UNAVAILABLE", {"begins": 1, "ends": 3}),
        "another cluster": ("PERMISSION_DENIED", {"uri": "spiffe://prod/operator/operator"}),
        "unknown role": ("PERMISSION_DENIED", {"uri": "spiffe://test/admin/operator"}),
        "longer path": ("PERMISSION_DENIED", {"uri": "spiffe://test/operator/operator/x"}),
        "no identity": ("PERMISSION_DENIED", {"uri": None}),
    }
    for case, (want, fields) in cases.items():
        folder = forge(world, tmp_path / case, **fields)
        with rpc.to(n, credentials(folder, "operator")) as ch:
            code, text = code_of(lambda ch=ch: send(rpc, ch))
            assert code == want, (case, code, text)


@pytest.mark.parametrize("version, welcome", [(ssl.TLSVersion.TLSv1_2, False),
                                              (ssl.TLSVersion.TLSv1_3, True)])
def test_only_tls_1_3(cluster, world, version, welcome):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(world.certs + "/ca.crt")
    context.load_cert_chain(world.certs + "/operator.crt", world.certs + "/operator.key")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    n = cluster.worker("mini2")
    with socket.create_connection(("127.0.0.1", n.grpc), TIMEOUT) as plain:
        if welcome:
            with context.wrap_socket(plain, server_hostname="mini2.test.mlxd") as tls:
                assert tls.version() == "TLSv1.3" and tls.selected_alpn_protocol() == "h2"
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                context.wrap_socket(plain, server_hostname="mini2.test.mlxd")


def test_garbage_on_the_grpc_ports(cluster, rpc, operator):
    n, r = cluster.worker("mini2"), random.Random(5)
    for port in (n.grpc, n.health):
        for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", r.randbytes(4096), b"\x16\x03\x01",
                     b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + r.randbytes(512)):
            with socket.create_connection(("127.0.0.1", port), TIMEOUT) as s:
                s.settimeout(TIMEOUT)
                try:
                    s.sendall(data)
                    s.shutdown(socket.SHUT_WR)
                    while s.recv(65536):
                        pass
                except ConnectionError:
                    pass
    with rpc.to(n, operator) as ch:
        assert rpc.health(ch) == "SERVING"
