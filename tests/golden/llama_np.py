"""A second opinion on the oracle: the llama forward pass in plain numpy, from the GGUF file alone.

It shares no code with transformers: it reads the tensors as the file stores them (q and k rows in
GGUF's order, so RoPE turns neighbouring pairs 2i, 2i+1), and computes in float64. make_golden.py
compares the two; a wrong un-permutation or a wrong key in either would show at once.

It also answers "how far may mlxd be away?" by simulating, one at a time or together, the two
roundings that mlxd's canonical arithmetic adds to an f32 computation:

    act_q8   activations quantized per row and per 32 values to int8 in front of every product with
             quantized weights (Q8_0, Q4_0, Q4_1): scale = amax / 127, q = rne(x * (127 / amax))
    kv_f16   K (after RoPE) and V rounded to f16, nearest even, before attention reads them

With both on it is a model of what mlxd computes, up to the order of sums (*.design.bin). Run in
float32 instead of float64 it shows how much that order matters: almost nothing, except where a
value lies so near the middle between two int8 (or f16) steps that it falls the other way.
"""

import gguf
import numpy as np

QUANTIZED = {
    gguf.GGMLQuantizationType.Q8_0,
    gguf.GGMLQuantizationType.Q4_0,
    gguf.GGMLQuantizationType.Q4_1,
}


def quantize_rows_q8(x):
    """x rounded through int8 groups of 32, the last axis a multiple of 32."""
    groups = x.astype(np.float32).reshape(*x.shape[:-1], -1, 32)
    amax = np.abs(groups).max(axis=-1, keepdims=True)
    safe = np.where(amax < 2.0**-100, np.float32(1), amax)
    q = np.rint(groups * (np.float32(127) / safe))
    q = np.where(amax < 2.0**-100, 0, q)
    scale = (safe / np.float32(127)).astype(np.float64)
    return (q * scale).reshape(x.shape).astype(x.dtype)


class Llama:
    """One llama checkpoint, its weights dequantized; `dtype` is what everything is computed in."""

    def __init__(self, path, act_q8=False, kv_f16=False, dtype=np.float64):
        reader = gguf.GGUFReader(path)
        self.act_q8, self.kv_f16, self.dtype = act_q8, kv_f16, dtype
        self.kinds, self.weights = {}, {}
        for t in reader.tensors:
            w = np.asarray(gguf.dequantize(t.data, t.tensor_type), dtype=np.float32)
            self.kinds[t.name] = t.tensor_type
            self.weights[t.name] = w.astype(dtype)

        def key(name):
            return reader.get_field("llama." + name).contents()

        self.layers = key("block_count")
        self.heads = key("attention.head_count")
        self.heads_kv = key("attention.head_count_kv")
        self.dim = key("rope.dimension_count")
        self.eps = float(np.float32(key("attention.layer_norm_rms_epsilon")))
        self.theta = float(np.float32(key("rope.freq_base")))

    def product(self, x, name):
        if self.act_q8 and self.kinds[name] in QUANTIZED:
            x = quantize_rows_q8(x)
        return x @ self.weights[name].T

    def norm(self, x, name):
        square = (x * x).mean(-1, keepdims=True) + self.dtype(self.eps)
        return x / np.sqrt(square) * self.weights[name]

    def rope(self, x):
        """x is [positions][heads][dim]; pairs are (2i, 2i+1)."""
        freq = self.theta ** (-np.arange(0, self.dim, 2) / self.dim)
        angle = np.arange(x.shape[0])[:, None] * freq
        cos, sin = (f(angle)[:, None, :].astype(self.dtype) for f in (np.cos, np.sin))
        out = np.empty_like(x)
        out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
        out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
        return out

    def attention(self, x, layer, entropies):
        n = x.shape[0]
        blk = f"blk.{layer}."
        q = self.rope(self.product(x, blk + "attn_q.weight").reshape(n, self.heads, -1))
        k = self.rope(self.product(x, blk + "attn_k.weight").reshape(n, self.heads_kv, -1))
        v = self.product(x, blk + "attn_v.weight").reshape(n, self.heads_kv, -1)
        if self.kv_f16:
            k, v = (a.astype(np.float32).astype(np.float16).astype(self.dtype) for a in (k, v))
        k = np.repeat(k, self.heads // self.heads_kv, axis=1)
        v = np.repeat(v, self.heads // self.heads_kv, axis=1)
        score = np.einsum("qhd,khd->hqk", q, k) / self.dtype(np.sqrt(self.dim))
        score = np.where(np.tril(np.ones((n, n), bool)), score, -np.inf)
        p = np.exp(score - score.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        last = p[:, -1, :]
        entropies.append(-(last * np.log(np.maximum(last, 1e-300))).sum(-1).mean())
        mixed = np.einsum("hqk,khd->qhd", p, v).reshape(n, -1)
        return self.product(mixed, blk + "attn_output.weight")

    def logits(self, tokens):
        """Logits [positions][vocab]; leaves the mean attention entropy of each layer behind."""
        self.entropies = []
        x = self.weights["token_embd.weight"][np.asarray(tokens)]
        for layer in range(self.layers):
            blk = f"blk.{layer}."
            x = x + self.attention(self.norm(x, blk + "attn_norm.weight"), layer, self.entropies)
            h = self.norm(x, blk + "ffn_norm.weight")
            gate, up = (self.product(h, blk + f"ffn_{n}.weight") for n in ("gate", "up"))
            x = x + self.product(gate / (1 + np.exp(-gate)) * up, blk + "ffn_down.weight")
        head = "output.weight" if "output.weight" in self.weights else "token_embd.weight"
        return self.product(self.norm(x, "output_norm.weight"), head)
