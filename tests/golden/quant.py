"""quant.py - blocks of every quantized weight format and what they mean, for the packers of
src/kernel: GGUF's by the package gguf, MLX's by MLX itself. Writes quant.bin.

    venv/bin/pip install gguf numpy "mlx[cpu]" && venv/bin/python quant.py

Made with gguf 0.19.0, MLX 0.32.4 and numpy 2.4.6. quant.bin, little-endian, one entry after the
other until the end of the file:

    24 bytes  name, padded with zeros: a GGUF type; or mxfp4, mxfp8, nvfp4, nvfp4-global
    u32       rows, then columns
    u32       bytes of the weights, then of the scales (0 for GGUF), then the two
    f32       the global scale of nvfp4-global, or 0
    f32       rows * columns values

GGUF's bytes are random, but for the scales in f16, which are ordinary numbers of both signs. MLX's
weights are quantized from random ones by MLX, so they have the codes that it writes.
"""

import pathlib
import struct

import gguf
import mlx.core as mx
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
ROWS = 3
rng = np.random.default_rng(20261128)

# Where a block keeps its f16 scales.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [], "NVFP4": [],
}  # fmt: skip


def gguf_entry(name):
    kind = gguf.GGMLQuantizationType[name]
    columns, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = 512 // columns
    data = rng.integers(0, 256, (ROWS, blocks, size), dtype=np.uint8)
    for at in HALVES[name]:
        scale = rng.uniform(0.001, 0.1, (ROWS, blocks)) * rng.choice([-1, 1], (ROWS, blocks))
        data[:, :, at : at + 2] = scale.astype(np.float16)[..., None].view(np.uint8)
    if name == "MXFP4":
        data[:, :, 0] = rng.integers(0, 250, (ROWS, blocks))  # with exponents down to denormals
    data = data.reshape(ROWS, blocks * size)
    return data, b"", 0.0, gguf.quants.dequantize(data, kind)


def mlx_entry(mode, global_scale=None):
    wide = rng.standard_normal((ROWS, 512)) * np.exp2(rng.integers(-6, 7, (ROWS, 1)))
    scale = None if global_scale is None else mx.array(np.float32(global_scale))
    weights = mx.array(wide.astype(np.float32))
    q, scales = mx.quantize(weights, mode=mode, global_scale=scale)
    values = mx.dequantize(q, scales, mode=mode, global_scale=scale, dtype=mx.float32)
    return np.array(q), np.array(scales), global_scale or 0.0, np.array(values)


def write(out, name, weights, scales, global_scale, values):
    weights, scales = bytes(memoryview(weights).cast("B")), bytes(memoryview(scales).cast("B"))
    values = np.ascontiguousarray(values, dtype="<f4")
    assert values.shape == (ROWS, 512)
    out.write(name.encode().ljust(24, b"\0"))
    out.write(struct.pack("<IIII", ROWS, 512, len(weights), len(scales)))
    out.write(weights + scales + struct.pack("<f", global_scale) + values.tobytes())


def main():
    with open(HERE / "quant.bin", "wb") as out:
        for name in HALVES:
            write(out, name, *gguf_entry(name))
        for mode in ("mxfp4", "mxfp8", "nvfp4"):
            write(out, mode, *mlx_entry(mode))
        write(out, "nvfp4-global", *mlx_entry("nvfp4", 7.25))


main()
