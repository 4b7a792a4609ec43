"""gguf_file.py - where things are in a GGUF file, so that tests can read a tensor or break a byte.

    g = GgufFile(path)
    g.fields["llama.block_count"]      scalar values and strings; arrays are their length only
    g.tensors["output_norm.weight"]    Tensor(offset in the file, bytes, dims, type)
    g.data_start                       everything before is header and metadata

Written from the format's specification; it trusts the file, so it is for good ones only.
"""

import array
import collections
import struct
import sys

Tensor = collections.namedtuple("Tensor", "offset bytes dims type")

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
           12: "d"}
STRING, ARRAY = 8, 9
# Type: elements of a block, its bytes.
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 8: (32, 34), 30: (1, 2)}


class GgufFile:
    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = f.read()
        self.at = 0
        magic, self.version = self.data[:4], struct.unpack_from("<I", self.data, 4)[0]
        assert magic == b"GGUF" and self.version in (2, 3)
        self.at = 8
        n_tensors, n_fields = self.take("Q"), self.take("Q")
        self.fields = {}
        for _ in range(n_fields):
            key = self.take_string()
            self.fields[key] = self.take_value(self.take("I"))
        self.infos_start = self.at
        infos = []
        for _ in range(n_tensors):
            name = self.take_string()
            dims = [self.take("Q") for _ in range(self.take("I"))]
            infos.append((name, dims, self.take("I"), self.take("Q")))
        alignment = self.fields.get("general.alignment", 32)
        self.data_start = -(-self.at // alignment) * alignment
        self.tensors = {}
        for name, dims, kind, offset in infos:
            per_block, block_bytes = BLOCKS[kind]
            count = 1
            for d in dims:
                count *= d
            self.tensors[name] = Tensor(self.data_start + offset, count // per_block * block_bytes,
                                        dims, kind)

    def take(self, code):
        value = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def take_string(self):
        n = self.take("Q")
        self.at += n
        return self.data[self.at - n:self.at].decode("utf-8", "replace")

    def take_value(self, kind):
        if kind == STRING:
            return self.take_string()
        if kind != ARRAY:
            return self.take(SCALARS[kind])
        inner, count = self.take("I"), self.take("Q")
        for _ in range(count):
            self.take_value(inner)
        return count

    def floats(self, name):
        """Values of an F32 tensor."""
        t = self.tensors[name]
        assert t.type == 0 and sys.byteorder == "little"
        return array.array("f", self.data[t.offset:t.offset + t.bytes])
