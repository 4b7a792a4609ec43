"""rpc.py - gRPC from Python: an implementation that is not ours, over mutual TLS.

    rpc = Rpc(build_folder)                            compiles proto/tensor_service.proto
    with rpc.channel(node, credentials(folder, "operator")) as ch:
        rpc.tensor(ch).HealthCheck(...)
"""

import importlib
import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_tools import protoc

import harness

TIMEOUT = 30
MESSAGE_MAX = 64 << 20


def read(*path):
    with open(os.path.join(*path), "rb") as f:
        return f.read()


def credentials(folder, device, ca=None):
    """Of a device's files; `device` None: without a certificate of ours."""
    root = read(ca or os.path.join(folder, "ca.crt"))
    if device is None:
        return grpc.ssl_channel_credentials(root)
    return grpc.ssl_channel_credentials(root, read(folder, device + ".key"),
                                        read(folder, device + ".crt"))


def code_of(call):
    """Status code (as a name) and text of a call that must fail."""
    try:
        call()
    except grpc.RpcError as e:
        return e.code().name, e.details()
    return "OK", ""


class Rpc:
    def __init__(self, folder):
        proto = os.path.join(harness.ROOT, "proto")
        code = protoc.main(["protoc", f"-I{proto}", f"--python_out={folder}",
                            f"--grpc_python_out={folder}", "tensor_service.proto"])
        assert code == 0
        sys.path.insert(0, str(folder))
        self.pb = importlib.import_module("tensor_service_pb2")
        self.grpc = importlib.import_module("tensor_service_pb2_grpc")
        sys.path.pop(0)

    def channel(self, port, creds, device=None):
        options = [("grpc.max_receive_message_length", MESSAGE_MAX),
                   ("grpc.max_send_message_length", MESSAGE_MAX),
                   ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        target = f"127.0.0.1:{port}"
        if creds is None:
            return grpc.insecure_channel(target, options)
        options.append(("grpc.ssl_target_name_override", f"{device}.test.mlxd"))
        return grpc.secure_channel(target, creds, options)

    def to(self, node, creds):
        """Channel to a node's mutual TLS port."""
        return self.channel(node.grpc, creds, node.device)

    def tensor(self, channel):
        return self.grpc.TensorServiceStub(channel)

    def health(self, channel, service=""):
        stub = health_pb2_grpc.HealthStub(channel)
        reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

    def forward(self, channel, hidden, width, start, end, shape=None, **fields):
        """ForwardPass on f32 bytes; returns the f32 bytes."""
        shape = shape or [len(hidden) // 4 // width, width]
        tensor = self.pb.TensorData(tensor_id="in", shape=shape, dtype="float32", data=hidden,
                                    **fields)
        reply = self.tensor(channel).ForwardPass(
            self.pb.ForwardPassRequest(input_tensor=tensor, layer_start=start, layer_end=end,
                                       pass_id="p1"), timeout=TIMEOUT)
        assert reply.success and reply.message == ""
        out = reply.output_tensor
        assert list(out.shape) == shape and out.dtype == "float32" and len(out.data) == len(hidden)
        return out.data
