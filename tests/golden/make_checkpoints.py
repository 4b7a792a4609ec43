#!/usr/bin/env python3
"""Makes checkpoints/: small models as other people's tools write them, and what is in them.

    python3 make_checkpoints.py      needs mlx[cpu], numpy, safetensors, torch, transformers, gguf

    moe-sharded/   transformers, save_pretrained in shards: a random qwen3_moe, BF16
    gpt-oss/       safetensors: experts in mxfp4 blocks, names of the published model
    mlx-affine/    mlx: every bits and group, per-module overrides, unaligned as mlx writes
    mlx-small/     mlx: modes mxfp4, mxfp8, nvfp4
    split/         gguf-py: one GGUF in parts
    dtypes.safetensors, dtypes.json    every dtype that the package safetensors writes
    names.json     names of transformers' models and what gguf-py calls them
    index.json     per checkpoint its tensors: canonical name, what it is, dims (columns first),
                   SHA-256 of its bytes (streams one after the other), and for the mlx ones where
                   their values begin in values.bin (f32, row by row)

Nothing here uses mlxd. Canonical names of plain tensors come from gguf-py's tables, values of
quantized ones from their definition, in f64, and are compared with mlx's own dequantize.
"""

import hashlib
import json
import pathlib
import shutil

import numpy as np

HERE = pathlib.Path(__file__).parent / "checkpoints"
RNG = np.random.default_rng(20261128)


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).hexdigest()


def entry(name, label, dims, *parts):
    dims = list(dims) + [1] * (4 - len(dims))
    return {"name": name, "label": label, "dims": dims, "sha256": sha(*parts)}


def raw(path):
    """Bytes and headers of a safetensors file, read by its definition."""
    data = pathlib.Path(path).read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + n])
    header.pop("__metadata__", None)
    for h in header.values():
        a, b = h["data_offsets"]
        h["data"] = data[8 + n + a:8 + n + b]
        h["at"] = 8 + n + a
    return header


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


# ---- transformers ----

SMALL = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, vocab_size=100, head_dim=16, pad_token_id=0, bos_token_id=1,
             eos_token_id=2)
FAMILIES = {
    "llama": ("LLAMA", {}), "mistral": ("LLAMA", {}), "qwen2": ("QWEN2", {}),
    "qwen3": ("QWEN3", {}), "gemma2": ("GEMMA2", {}), "gemma3_text": ("GEMMA3", {}),
    "phi3": ("PHI3", {}), "granite": ("GRANITE", {}), "olmo2": ("OLMO2", {}),
    "smollm3": ("SMOLLM3", {}),
    "qwen3_moe": ("QWEN3MOE", dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)),
    "gpt_oss": ("GPT_OSS", dict(num_local_experts=4, num_experts_per_tok=2)),
}


def gguf_name(arch, name):
    import gguf

    table = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch), 2)
    return table.get_name(name, try_suffixes=(".weight", ".bias"))


def make_names():
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    out = {}
    for family, (arch, more) in FAMILIES.items():
        config = AutoConfig.for_model(family, **SMALL, **more)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        names = {}
        for name in model.state_dict():
            to = gguf_name(arch, name)
            if to and not name.endswith("_proj") and ".experts." not in name:
                names[name] = to if to.endswith((".weight", ".bias")) else to + ".weight"
        out[family] = names
    write_json(HERE / "names.json", out)


def make_moe():
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    where = HERE / "moe-sharded"
    torch.manual_seed(1)
    more = FAMILIES["qwen3_moe"][1]
    config = AutoConfig.for_model("qwen3_moe", **SMALL, **more, dtype="bfloat16")
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(
        where, max_shard_size="60KB")
    stored = {}
    for path in sorted(where.glob("*.safetensors")):
        stored.update(raw(path))
    tensors, experts = [], {}
    for name, h in stored.items():
        dims = list(reversed(h["shape"]))
        if ".experts." in name:
            layer, expert, kind = name.split(".")[2], int(name.split(".")[5]), name.split(".")[6]
            experts.setdefault((layer, kind), {})[expert] = (dims, h["data"])
        else:
            tensors.append(entry(gguf_name("QWEN3MOE", name), h["dtype"], dims, h["data"]))
    for (layer, kind), found in experts.items():
        parts = [found[e] for e in range(len(found))]
        tensors.append(entry(f"blk.{layer}.ffn_{kind[:-5]}_exps.weight", "BF16",
                             parts[0][0] + [len(parts)], *[d for _, d in parts]))
    return {"tensors": tensors}


# ---- gpt_oss ----


def make_gpt_oss():
    from safetensors.numpy import save_file

    where = HERE / "gpt-oss"
    where.mkdir()
    e, rows, groups = 3, 34, 2
    f = "model.layers.1.mlp.experts."
    t = {
        f + "gate_up_proj_blocks": RNG.integers(0, 256, (e, rows, groups, 16), dtype=np.uint8),
        f + "gate_up_proj_scales": RNG.integers(120, 130, (e, rows, groups), dtype=np.uint8),
        f + "gate_up_proj_bias": RNG.standard_normal((e, rows), dtype=np.float32),
        f + "down_proj_blocks": RNG.integers(0, 256, (e, 20, 1, 16), dtype=np.uint8),
        f + "down_proj_scales": RNG.integers(120, 130, (e, 20, 1), dtype=np.uint8),
        f + "down_proj_bias": RNG.standard_normal((e, 20), dtype=np.float32),
        "model.layers.1.self_attn.sinks": RNG.standard_normal(4, dtype=np.float32),
        "model.layers.1.mlp.router.weight": RNG.standard_normal((e, 64), dtype=np.float32),
        "model.layers.1.mlp.router.bias": RNG.standard_normal(e, dtype=np.float32),
        "model.layers.1.post_attention_layernorm.weight": RNG.standard_normal(64, dtype=np.float32),
    }
    save_file(t, where / "model.safetensors", {"format": "pt"})
    write_json(where / "config.json", {"model_type": "gpt_oss", "quantization_config": {
        "quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}})
    b = {k: v.tobytes() for k, v in t.items()}
    x = "blk.1."
    return {"tensors": [
        entry(x + "ffn_gate_up_exps.weight", "mxfp4", [64, rows, e], b[f + "gate_up_proj_blocks"],
              b[f + "gate_up_proj_scales"]),
        entry(x + "ffn_gate_up_exps.bias", "F32", [rows, e], b[f + "gate_up_proj_bias"]),
        entry(x + "ffn_down_exps.weight", "mxfp4", [32, 20, e], b[f + "down_proj_blocks"],
              b[f + "down_proj_scales"]),
        entry(x + "ffn_down_exps.bias", "F32", [20, e], b[f + "down_proj_bias"]),
        entry(x + "attn_sinks.weight", "F32", [4], b["model.layers.1.self_attn.sinks"]),
        entry(x + "ffn_gate_inp.weight", "F32", [64, e], b["model.layers.1.mlp.router.weight"]),
        entry(x + "ffn_gate_inp.bias", "F32", [e], b["model.layers.1.mlp.router.bias"]),
        entry(x + "post_attention_norm.weight", "F32", [64],
              b["model.layers.1.post_attention_layernorm.weight"]),
    ]}


# ---- mlx ----


def unpack(words, bits, cols):
    """Elements of rows of little-endian words, by the definition: one bit stream a row."""
    rows = words.reshape(-1, words.shape[-1])
    stream = np.unpackbits(rows.view(np.uint8), axis=1, bitorder="little")
    q = stream[:, :cols * bits].reshape(len(rows), cols, bits).astype(np.int64)
    return (q << np.arange(bits)).sum(axis=2)


FP4 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0.0, -.5, -1, -1.5, -2, -3, -4, -6])


def e4m3(codes):
    c = codes.astype(np.int64)
    exponent, mantissa = (c >> 3) & 15, c & 7
    v = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0**(exponent - 10.0))
    return np.where(c & 128, -v, v)


def values_of(mode, bits, group, cols, q, s, b):
    """What the packed rows mean, f32."""
    codes = unpack(q, bits, cols)
    each = np.repeat
    if mode == "affine":
        return (each(s, group, 1) * codes + each(b, group, 1)).astype(np.float32)
    scale = e4m3(s) if mode == "nvfp4" else 2.0**(s.astype(np.float64) - 127)
    return ((e4m3(codes) if bits == 8 else FP4[codes]) * each(scale, group, 1)).astype(np.float32)


class Mlx:
    """Collects quantized modules and writes them with mlx."""

    def __init__(self):
        self.arrays, self.rules, self.tensors, self.values = {}, {}, [], []

    def add(self, module, name, shape, mode, bits, group, dtype):
        import mlx.core as mx

        w = mx.array(RNG.standard_normal(shape, dtype=np.float32)).astype(dtype)
        parts = mx.quantize(w, group_size=group, bits=bits, mode=mode)
        wide = mx.dequantize(*parts, group_size=group, bits=bits, mode=mode)
        for key, part in zip(("weight", "scales", "biases"), parts):
            self.arrays[f"{module}.{key}"] = part
        self.rules[module] = {"group_size": group, "bits": bits, "mode": mode}
        flat = [np.array(p.astype(mx.float32) if p.dtype in (mx.bfloat16, mx.float16) else p)
                for p in parts]
        flat = [p.reshape(-1, p.shape[-1]) for p in flat] + [None] * (3 - len(flat))
        floats = [p.astype(np.float64) if mode == "affine" and p is not None else p
                  for p in flat[1:]]
        v = values_of(mode, bits, group, shape[-1], flat[0], *floats)
        got = np.array(wide.astype(mx.float32)).reshape(v.shape)
        assert np.allclose(v, got, rtol=0.01, atol=0.05), module
        self.tensors.append((name, list(reversed(shape)), mode, bits, group, module, v))

    def plain(self, name, shape):
        import mlx.core as mx

        self.arrays[name] = mx.array(RNG.standard_normal(shape, dtype=np.float32)).astype(
            mx.bfloat16)

    def save(self, where, config, shards=1):
        import mlx.core as mx

        where.mkdir()
        names = list(self.arrays)
        for i in range(shards):
            part = {n: self.arrays[n] for n in names[i::shards]}
            file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            if shards == 1:
                file = "model.safetensors"
            mx.save_safetensors(str(where / file), part, metadata={"format": "mlx"})
        write_json(where / "config.json", config)
        stored = {}
        for path in where.glob("*.safetensors"):
            stored.update(raw(path))
        out, values, at = [], [], 0
        for name, dims, mode, bits, group, module, v in self.tensors:
            keys = [k for k in ("weight", "scales", "biases") if f"{module}.{k}" in stored]
            label = mode if mode != "affine" else \
                f"affine {bits} bits, group {group}, {stored[module + '.scales']['dtype']}"
            e = entry(name, label, dims, *[stored[f"{module}.{k}"]["data"] for k in keys])
            out.append({**e, "values": at})
            values.append(v)
            at += v.size
        np.concatenate([v.ravel() for v in values]).astype("<f4").tofile(where / "values.bin")
        for name, h in stored.items():
            if name.endswith("norm.weight"):
                to = gguf_name("QWEN3MOE", name)
                out.append(entry(to, h["dtype"], list(reversed(h["shape"])), h["data"]))
        odd = sum(h["at"] % 4 != 0 for h in stored.values())
        return {"tensors": out, "unaligned": odd}


def make_mlx_affine():
    import mlx.core as mx

    m = Mlx()
    m.add("model.embed_tokens", "token_embd.weight", (40, 128), "affine", 4, 64, mx.bfloat16)
    proj = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"}
    kinds = [(2, 32), (3, 64), (5, 128), (6, 32)], [(8, 128), (3, 128), (5, 32), (6, 64)]
    for layer, pairs in enumerate(kinds):
        for (p, to), (bits, group) in zip(proj.items(), pairs):
            m.add(f"model.layers.{layer}.self_attn.{p}_proj", f"blk.{layer}.{to}.weight", (19, 128),
                  "affine", bits, group, [mx.bfloat16, mx.float16][layer])
    m.add("model.layers.0.mlp.gate", "blk.0.ffn_gate_inp.weight", (3, 128), "affine", 8, 64,
          mx.float32)
    for kind, shape in (("gate", (3, 21, 128)), ("up", (3, 21, 128)), ("down", (3, 18, 64))):
        m.add(f"model.layers.0.mlp.switch_mlp.{kind}_proj", f"blk.0.ffn_{kind}_exps.weight", shape,
              "affine", 4, 64, mx.bfloat16)
    for name in ("layers.0.input_layernorm", "layers.0.self_attn.q_norm", "norm"):
        m.plain(f"model.{name}.weight", (65,))
    rules = {k: v for k, v in m.rules.items() if (v["bits"], v["group_size"]) != (4, 64)}
    rules["model.layers.1.mlp.gate"] = False
    return m.save(HERE / "mlx-affine", {
        "model_type": "qwen3_moe", "tie_word_embeddings": True,
        "quantization": {"group_size": 64, "bits": 4, **rules}}, shards=2)


def make_mlx_small():
    import mlx.core as mx

    m = Mlx()
    m.add("language_model.lm_head", "output.weight", (37, 64), "mxfp4", 4, 32, mx.bfloat16)
    m.add("language_model.model.layers.0.mlp.up_proj", "blk.0.ffn_up.weight", (18, 96), "mxfp8", 8,
          32, mx.bfloat16)
    m.add("language_model.model.layers.0.mlp.down_proj", "blk.0.ffn_down.weight", (18, 96), "nvfp4",
          4, 16, mx.bfloat16)
    rules = {k: v for k, v in m.rules.items() if v["mode"] != "mxfp4"}
    return m.save(HERE / "mlx-small", {
        "model_type": "gemma3", "text_config": {"model_type": "gemma3_text"},
        "quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4", **rules}})


# ---- gguf ----


def make_split():
    import gguf

    where = HERE / "split"
    where.mkdir()
    writer = gguf.GGUFWriter(where / "model.gguf", "llama", split_max_tensors=2)
    writer.add_uint32("llama.block_count", 2)
    tensors = []
    for i in range(5):
        data = RNG.standard_normal((3 + i, 32), dtype=np.float32)
        writer.add_tensor(f"blk.{i // 3}.part_{i}.weight", data)
        tensors.append(entry(f"blk.{i // 3}.part_{i}.weight", "F32", [32, 3 + i], data.tobytes()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {"tensors": tensors}


# ---- dtypes ----


def make_dtypes():
    import torch
    from safetensors.torch import save_file

    kinds = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.float16,
             torch.bfloat16, torch.int32, torch.uint32, torch.float32, torch.complex64,
             torch.float64, torch.int64, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2,
             torch.float8_e8m0fnu, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
    t = {f"t.{i}": torch.zeros(2, 3 + i).to(k) if "8" in str(k)[11:] or "u" in str(k)
         else torch.arange(6 + 2 * i).reshape(2, 3 + i).to(k) for i, k in enumerate(kinds)}
    t.update({"one": torch.tensor(1.5), "none": torch.zeros(0, 7)})
    t["deep"] = torch.ones(1, 2, 1, 2, 3)
    path = HERE / "dtypes.safetensors"
    save_file(t, path, {"format": "pt", "note": "\u00e4 \"quoted\""})
    write_json(HERE / "dtypes.json", [
        {"name": n, "dtype": h["dtype"], "shape": h["shape"], "at": h["at"],
         "bytes": len(h["data"])}
        for n, h in sorted(raw(path).items(), key=lambda x: (x[1]["at"], x[0]))])


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    make_names()
    make_dtypes()
    write_json(HERE / "index.json", {
        "moe-sharded": make_moe(), "gpt-oss": make_gpt_oss(), "mlx-affine": make_mlx_affine(),
        "mlx-small": make_mlx_small(), "split": make_split()})


if __name__ == "__main__":
    main()
