"""Step `families`: tiny checkpoints of every family with random weights, and their logits by
Hugging Face transformers in f32. Everything goes to families/:

    X/config.json, X/model.safetensors    as transformers saves it; some configs in old spelling
    X.gguf                                the same weights as llama.cpp stores them (gguf-py)
    *.logits.bin                          float32 LE [positions][vocab]
    index.json                            what belongs to what, tokens, positions, tolerances

Weights are rounded to the stored type first, so the reference has exactly what is stored. K and V
are rounded to f16 in front of transformers' attention, as every cache of mlxd holds them: with
that, what is left is the order of sums. (Without it random weights differ by up to 0.02.) The
prompt is longer than every window and than the `original` context of scaled rotations, and crosses
a page of 64 positions.

Quantized checkpoints (MLX's affine format, gpt-oss's mxfp4) are quantized here, after the published
formulas; their reference runs on the dequantized weights. mlxd also quantizes activations, per 32
values to 8 bits. How far that moves the logits is measured by doing it to the reference, too, in
front of every nn.Linear; the tolerance is three times that, within reason.
"""

import copy
import json
import pathlib
import shutil
import sys

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import masking_utils

torch.set_grad_enabled(False)


def attention_with_f16_cache(module, query, key, value, *args, **kwargs):
    plain = sys.modules[type(module).__module__].eager_attention_forward
    return plain(module, query, key.half().float(), value.half().float(), *args, **kwargs)


transformers.AttentionInterface.register("f16_cache", attention_with_f16_cache)
transformers.AttentionMaskInterface.register("f16_cache", masking_utils.eager_mask)
VOCAB, N_TOKENS, WINDOW = 96, 100, 24
POSITIONS = [0, 1, 7, 23, 24, 25, 40, 63, 64, 65, 80, 99]
TOKENS = np.random.default_rng(17).integers(0, VOCAB, N_TOKENS).tolist()
BASE = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=256,
    tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", rope_theta=1000000.0, factor=4.0,
            original_max_position_embeddings=64)
OSS_YARN = dict(rope_type="yarn", rope_theta=150000.0, factor=8.0, beta_fast=32.0, beta_slow=1.0,
                truncate=False, original_max_position_embeddings=32)
GEMMA_ROPE = dict(
    full_attention=dict(rope_type="linear", rope_theta=1000000.0, factor=8.0),
    sliding_attention=dict(rope_type="default", rope_theta=10000.0),
)


def longrope(original):
    return dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75,
                short_factor=[1.0, 1.1, 1.2, 1.4, 1.8, 2.5],
                long_factor=[1.0, 1.5, 2.0, 3.0, 5.0, 8.0],
                original_max_position_embeddings=original)


# name: model class, configuration class, what differs from BASE
MODELS = {
    "llama": ("Llama", dict(rope_parameters=LLAMA3, attention_bias=True,
                            mlp_bias=True)),
    "mistral": ("Mistral", dict(sliding_window=WINDOW)),
    "qwen2": ("Qwen2", dict(rope_parameters=YARN, use_sliding_window=True, max_window_layers=1,
                            sliding_window=WINDOW)),
    "qwen3": ("Qwen3", dict(tie_word_embeddings=True)),
    "qwen3_moe": ("Qwen3Moe", dict(num_hidden_layers=3, num_experts=4,
                                   num_experts_per_tok=2, moe_intermediate_size=32,
                                   norm_topk_prob=True, mlp_only_layers=[1])),
    "qwen3_moe_raw": ("Qwen3Moe", dict(num_experts=5, num_experts_per_tok=3,
                                       moe_intermediate_size=32, norm_topk_prob=False)),
    "gemma2": ("Gemma2", dict(num_hidden_layers=3, sliding_window=WINDOW, head_dim=32,
                              num_attention_heads=2, num_key_value_heads=1,
                              query_pre_attn_scalar=24, attn_logit_softcapping=2.0,
                              final_logit_softcapping=3.0, tie_word_embeddings=True)),
    "gemma3": ("Gemma3", dict(num_hidden_layers=4, sliding_window=WINDOW, head_dim=32,
                              num_attention_heads=2, num_key_value_heads=1,
                              query_pre_attn_scalar=24, rope_parameters=GEMMA_ROPE,
                              layer_types=["sliding_attention"] * 2 + ["full_attention",
                                                                       "sliding_attention"],
                              tie_word_embeddings=True)),
    "phi3": ("Phi3", dict(hidden_size=64, rope_parameters=longrope(64), sliding_window=90,
                          original_max_position_embeddings=64)),
    "phi3_short": ("Phi3", dict(num_hidden_layers=1, num_key_value_heads=1,
                                rope_parameters=longrope(128),
                                original_max_position_embeddings=128)),
    "granite": ("Granite", dict(num_key_value_heads=1, embedding_multiplier=3.0,
                                attention_multiplier=0.4, residual_multiplier=0.35,
                                logits_scaling=2.5)),
    "olmo2": ("Olmo2", dict(num_key_value_heads=2)),
    "smollm3": ("SmolLM3", dict(num_hidden_layers=3, no_rope_layers=[1, 0, 1],
                                tie_word_embeddings=True)),
    "gpt_oss": ("GptOss", dict(num_local_experts=4, num_experts_per_tok=2, head_dim=16,
                               intermediate_size=32, sliding_window=WINDOW,
                               rope_parameters=OSS_YARN)),
}
NO_HEAD_DIM = {"granite", "olmo2", "phi3", "phi3_short", "smollm3"}


# ---- models ----

def config_of(name, more):
    base, change = MODELS[name]
    cls = getattr(transformers, base + ("TextConfig" if base == "Gemma3" else "Config"))
    values = {**BASE, **change, **more}
    if name in NO_HEAD_DIM:
        values.pop("head_dim")
        values["num_attention_heads"] = values["hidden_size"] // 16
    return cls(**copy.deepcopy(values), attn_implementation="f16_cache",
               experts_implementation="eager")


def build(name, dtype, change={}):
    """A model whose weights are random and round in `dtype`, computing in f32."""
    config = config_of(name, change)
    base = MODELS[name][0]
    model = getattr(transformers, base + "ForCausalLM")(config).eval().float()
    rng = torch.Generator().manual_seed(3)
    for key, p in sorted(model.named_parameters()):
        x = torch.randn(p.shape, generator=rng)
        if "norm" in key:
            x = 0.2 * x + (0 if base.startswith("Gemma") else 1)
        elif p.ndim == 1 or key.endswith("bias"):
            x = 0.4 * x
        elif "embed" not in key:
            x = 1.5 * x / p.shape[-2 if base == "GptOss" and p.ndim == 3 else -1] ** 0.5
        p.copy_(x.to(dtype).float())
    round_scale(model, dtype)
    return model


def round_scale(model, dtype):
    """Gemma's factor of embeddings, as the model has it that computes in `dtype`."""
    embed = model.model.embed_tokens
    if hasattr(embed, "scalar_embed_scale"):
        scale = torch.tensor(embed.scalar_embed_scale)
        embed.embed_scale.copy_(scale.to(dtype).float())


def logits_of(model):
    out = model(torch.tensor([TOKENS]), use_cache=False).logits[0].float()
    assert torch.isfinite(out).all()
    return out.numpy()


def with_rounded_activations(model):
    """The logits when what every Linear reads is rounded as mlxd rounds it."""
    def hook(_, args):
        x = args[0]
        g = x.reshape(*x.shape[:-1], -1, 32)
        scale = g.abs().amax(-1, keepdim=True) / 127
        return ((torch.round(g / scale) * scale).nan_to_num(0).reshape(x.shape), *args[1:])

    hooks = [m.register_forward_pre_hook(hook) for m in model.modules()
             if isinstance(m, torch.nn.Linear)]
    out = logits_of(model)
    for h in hooks:
        h.remove()
    return out


# ---- Hugging Face directories ----

OLD_SPELLING = {"llama", "qwen2", "phi3", "gemma3"}


def old_spelling(config):
    """As transformers 4 wrote it."""
    config["torch_dtype"] = config.pop("dtype")
    rope = config.pop("rope_parameters")
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    config["rope_theta"] = rope.pop("rope_theta")
    if rope.get("rope_type") == "longrope":
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        rope.pop("original_max_position_embeddings")
        rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = None if rope == {"rope_type": "default"} else rope


def write_config(config, name, path):
    if name in OLD_SPELLING:
        old_spelling(config)
    (path / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def write_hf(model, name, dtype, path):
    """As transformers saves it, which knows how experts are named on disk."""
    path.mkdir()
    model.config.dtype = dtype
    copy_of = copy.deepcopy(model).to(dtype)
    copy_of.save_pretrained(path)
    for extra in path.glob("generation_config.json"):
        extra.unlink()
    write_config(json.loads((path / "config.json").read_text()), name, path)


def read_tensors(path):
    from safetensors import safe_open

    with safe_open(path / "model.safetensors", "pt") as f:
        return {key: f.get_tensor(key) for key in f.keys()}


def wrap_gemma(source, path):
    """The language part of a model that also sees: another prefix, another configuration."""
    path.mkdir()
    tensors = {f"language_model.{k}": v for k, v in read_tensors(source).items()}
    tensors["vision_tower.vision_model.post_layernorm.weight"] = torch.ones(8, dtype=torch.bfloat16)
    tensors["multi_modal_projector.mm_soft_emb_norm.weight"] = torch.ones(8, dtype=torch.bfloat16)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    text = json.loads((source / "config.json").read_text())
    dtype = text.pop("torch_dtype")
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
              "text_config": text, "torch_dtype": dtype, "vision_config": {"hidden_size": 8}}
    (path / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


# ---- quantization ----

def affine(w, bits, group):
    """MLX's quantizer: integers, scales, biases (f32)."""
    w = w.reshape(*w.shape[:-1], -1, group)
    low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
    steps = 2**bits - 1
    scale = ((high - low) / steps).clamp_min(1e-7)
    flip = low.abs() > high.abs()
    scale = torch.where(flip, scale, -scale)
    edge = torch.where(flip, low, high)
    q0 = torch.round(edge / scale)
    scale = torch.where(q0 != 0, edge / q0, scale)
    bias = torch.where(q0 != 0, edge, torch.zeros_like(edge))
    scale, bias = scale.bfloat16().float(), bias.bfloat16().float()
    q = torch.round((w - bias) / scale).clamp(0, steps)
    return q, scale, bias


def pack(q, bits):
    """Little-endian bit streams in u32 words, row by row."""
    rows = q.reshape(-1, q.shape[-2] * q.shape[-1]).to(torch.int64).numpy().astype(np.uint8)
    planes = (rows[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1
    packed = np.packbits(planes.reshape(rows.shape[0], -1), axis=1, bitorder="little")
    words = packed.view("<u4").astype(np.int64).astype(np.uint32)
    return torch.from_numpy(words.view(np.int32)).view(torch.uint32)


def write_affine(name, bits, path):
    """MLX's layout; `experts` are stacked as mlx-lm stacks them. Returns the dequantized model."""
    model = build(name, torch.bfloat16)
    state = model.state_dict()
    tied = model.config.tie_word_embeddings
    tensors, changed = {}, {}

    def put(key, w):
        q, scale, bias = affine(w, bits, 32)
        shape = (*w.shape[:-1], -1)
        tensors[f"{key}.weight"] = pack(q, bits).reshape(shape)
        tensors[f"{key}.scales"] = scale.squeeze(-1).bfloat16()
        tensors[f"{key}.biases"] = bias.squeeze(-1).bfloat16()
        return (q * scale + bias).reshape(w.shape)

    for key, w in state.items():
        stem = key.removesuffix(".weight")
        if tied and stem == "lm_head":
            continue
        if key.endswith("experts.gate_up_proj"):
            half = w.shape[1] // 2
            stem = key.replace("experts.gate_up_proj", "switch_mlp")
            parts = [put(f"{stem}.gate_proj", w[:, :half]), put(f"{stem}.up_proj", w[:, half:])]
            changed[key] = torch.cat(parts, 1)
        elif key.endswith("experts.down_proj"):
            changed[key] = put(key.replace("experts.down_proj", "switch_mlp.down_proj"), w)
        elif w.ndim == 2:
            changed[key] = put(stem, w)
        else:
            tensors[key] = w.bfloat16().contiguous()
    model.load_state_dict(changed, strict=False)
    model.tie_weights()
    path.mkdir()
    save_file({k: v.contiguous() for k, v in tensors.items()}, path / "model.safetensors",
              {"format": "mlx"})
    config = model.config.to_dict()
    config["dtype"] = "bfloat16"
    config["quantization"] = {"group_size": 32, "bits": bits}
    config["quantization_config"] = config["quantization"]
    write_config(config, name, path)
    return model


FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def mxfp4(w):
    """Nibbles and exponents of the last dimension in groups of 32, and what they stand for."""
    g = w.reshape(*w.shape[:-1], -1, 32)
    exponent = torch.floor(torch.log2(g.abs().amax(-1, keepdim=True))) - 2
    code = (g[..., None] / 2**exponent[..., None] - FP4).abs().argmin(-1)
    value = FP4[code] * 2**exponent
    blocks = (code[..., 0::2] | code[..., 1::2] << 4).to(torch.uint8)
    scales = (exponent.squeeze(-1) + 127).to(torch.uint8)
    return blocks, scales, value.reshape(w.shape)


def oss_with_mxfp4(change={}):
    """The model with experts that mxfp4 can hold, and the tensors that hold them."""
    model = build("gpt_oss", torch.bfloat16, change)
    tensors = {}
    for key, w in model.state_dict().items():
        if key.endswith(("gate_up_proj", "down_proj")):
            blocks, scales, value = mxfp4(w.transpose(1, 2))
            tensors[f"{key}_blocks"], tensors[f"{key}_scales"] = blocks, scales
            w.copy_(value.transpose(1, 2))
        else:
            tensors[key] = w.bfloat16().contiguous()
    return model, tensors


def write_oss(tensors, config, path):
    path.mkdir()
    save_file({k: v.contiguous() for k, v in tensors.items()}, path / "model.safetensors",
              {"format": "pt"})
    config["dtype"] = "bfloat16"
    config["quantization_config"] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router",
                                   "model.embed_tokens", "lm_head"],
    }
    write_config(config, "gpt_oss", path)


# ---- GGUF ----

ARCH = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3_moe": "qwen3moe",
        "gemma2": "gemma2", "gemma3": "gemma3", "phi3": "phi3", "granite": "granite",
        "olmo2": "olmo2", "smollm3": "smollm3", "gpt_oss": "gpt-oss"}
PERMUTED = {"llama", "granite", "smollm3"}
GLOBAL = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
PARTS = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.sinks": "attn_sinks", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp", "mlp.router": "ffn_gate_inp",
    "mlp.experts.down_proj": "ffn_down_exps",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
}


def gguf_name(arch, key):
    """Canonical name of a parameter, or None for gate and up of experts in one."""
    kind = "bias" if key.endswith(("bias", "_bias")) else "weight"
    stem = key.removesuffix(".weight").removesuffix(".bias").removesuffix("_bias")
    if stem in GLOBAL:
        return f"{GLOBAL[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    late = arch.startswith("gemma") or arch in ("olmo2", "gpt-oss")
    if part == "post_attention_layernorm":
        name = "post_attention_norm" if late else "ffn_norm"
    else:
        name = PARTS.get(part)
    return name and f"blk.{layer}.{name}.{kind}"


def permute(w, heads):
    """Halves of each head become neighbours: llama.cpp rotates these in some families."""
    halves = w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:])
    return halves.swapaxes(1, 2).reshape(w.shape)


def add_metadata(w, arch, c):
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    w.add_key_length(dim)
    w.add_value_length(dim)
    rope = c.rope_parameters
    rope = rope.get("full_attention", rope)
    w.add_rope_dimension_count(int(dim * rope.get("partial_rotary_factor", 1)))
    w.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(rope["factor"])
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "longrope":
        original = rope["original_max_position_embeddings"]
        factor = c.max_position_embeddings / original
        w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        w.add_rope_scaling_orig_ctx_len(original)
        w.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(factor) / np.log(original))))
        for kind in ("short", "long"):
            w.add_tensor(f"rope_factors_{kind}.weight", np.array(rope[f"{kind}_factor"], "<f4"))
    if rope["rope_type"] == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(rope, dim))
    if arch in ("gemma2", "gemma3", "gpt-oss"):
        w.add_sliding_window(c.sliding_window)
    if arch == "gemma3":
        w.add_sliding_window_pattern(2)
    if arch == "gemma2":
        w.add_attn_logit_softcapping(c.attn_logit_softcapping)
        w.add_final_logit_softcapping(c.final_logit_softcapping)
    if arch == "granite":
        w.add_attention_scale(c.attention_multiplier)
        w.add_embedding_scale(c.embedding_multiplier)
        w.add_residual_scale(c.residual_multiplier)
        w.add_logit_scale(c.logits_scaling)
    if arch in ("qwen3moe", "gpt-oss"):
        w.add_expert_count(c.num_local_experts if arch == "gpt-oss" else c.num_experts)
        w.add_expert_used_count(c.num_experts_per_tok)
        w.add_expert_feed_forward_length(
            c.intermediate_size if arch == "gpt-oss" else c.moe_intermediate_size)


def llama3_factors(rope, dim):
    periods = rope["rope_theta"] ** (np.arange(0, dim, 2) / dim)
    wave = 2 * np.pi * periods
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    smooth = (low * rope["low_freq_factor"] / wave - rope["low_freq_factor"]) / (
        rope["high_freq_factor"] - rope["low_freq_factor"])
    factors = np.where(wave < high, 1, np.where(wave > low, rope["factor"],
                                                1 / ((1 - smooth) / rope["factor"] + smooth)))
    return factors.astype("<f4")


def write_gguf(model, name, path, dtype=np.float16):
    arch, c = ARCH[name], model.config
    w = gguf.GGUFWriter(path, arch)
    w.add_name(f"tiny {name}")
    add_metadata(w, arch, c)
    for key, p in model.state_dict().items():
        x = p.numpy()
        if c.tie_word_embeddings and key == "lm_head.weight":
            continue
        if "norm" in key and arch.startswith("gemma"):
            x = x + 1
        for part, heads in (("q_proj", c.num_attention_heads), ("k_proj", c.num_key_value_heads)):
            if name in PERMUTED and f"self_attn.{part}" in key:
                x = permute(x, heads)
        small = x.ndim == 1 or "bias" in key or "norm" in key
        kind = np.float32 if small or "mlp.gate.w" in key or "router" in key else dtype
        if "experts.gate_up_proj" in key:
            layer = key.split(".")[2]
            if name == "gpt_oss":
                gate, up = x[..., 0::2], x[..., 1::2]
                if not key.endswith("bias"):
                    gate, up = gate.swapaxes(1, 2), up.swapaxes(1, 2)
            else:
                gate, up = np.split(x, 2, 1)
            end = "bias" if key.endswith("bias") else "weight"
            w.add_tensor(f"blk.{layer}.ffn_gate_exps.{end}", np.ascontiguousarray(gate, kind))
            w.add_tensor(f"blk.{layer}.ffn_up_exps.{end}", np.ascontiguousarray(up, kind))
            continue
        if name == "gpt_oss" and key.endswith("experts.down_proj"):
            x = x.swapaxes(1, 2)
        w.add_tensor(gguf_name(arch, key), np.ascontiguousarray(x, kind))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


# What such files cannot say, or say otherwise.
GGUF_CHANGES = {
    "qwen2": dict(use_sliding_window=False),
    "gemma2": dict(query_pre_attn_scalar=32),
    "gemma3": dict(query_pre_attn_scalar=32,
                   layer_types=["sliding_attention", "full_attention"] * 2),
    "phi3": dict(sliding_window=None),
    "smollm3": dict(num_hidden_layers=4, no_rope_layers=None),
    "gpt_oss": dict(rope_parameters={**OSS_YARN, "truncate": True}),
}


def for_gguf(name):
    """The model as llama.cpp understands such a file."""
    change = GGUF_CHANGES.get(name, {})
    if name == "gpt_oss":
        return oss_with_mxfp4(change)[0]
    model = build(name, torch.float16, change)
    round_scale(model, torch.float32)  # embeddings are scaled in f32
    return model


# ---- the step ----

def entry(out, file, logits, tolerance, of=None):
    want = f"{of or file}.logits.bin"
    if of is None:
        logits[POSITIONS].astype("<f4").tofile(out / want)
    return {"file": f"families/{file}", "logits": f"families/{want}", "tolerance": tolerance}


def distance(a, b):
    a, b = (torch.log_softmax(torch.from_numpy(x).double(), -1) for x in (a, b))
    return {"max_abs": float((a - b).abs().max()),
            "mean_kl": float((a.exp() * (a - b)).sum(-1).mean())}


def quantized(out, file, model):
    logits = logits_of(model)
    d = distance(logits, with_rounded_activations(model))
    most = {"max_abs": 1.0, "mean_kl": 0.01}  # an expert chosen otherwise makes more of it
    limits = {k: min(float(f"{3 * v:.2g}"), most[k]) for k, v in d.items()}
    return entry(out, file, logits, {**limits, "same_best": 0.75})


# What is left is mostly a K or V that falls on the other side of the border between two halves.
FLOAT = {"max_abs": 0.004, "mean_kl": 1e-7}


def run(_, root):
    out = root / "families"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    found = []
    for name in MODELS:
        dtype = torch.float16 if name in ("qwen2", "olmo2") else torch.bfloat16
        dtype = torch.float32 if name == "granite" else dtype
        if name == "gpt_oss":
            model, tensors = oss_with_mxfp4()
            write_oss(tensors, model.config.to_dict(), out / name)
            found.append(quantized(out, name, model))
            continue
        model = build(name, dtype)
        write_hf(model, name, dtype, out / name)
        found.append(entry(out, name, logits_of(model), FLOAT))
    wrap_gemma(out / "gemma3", out / "gemma3_wrapped")
    found.append(entry(out, "gemma3_wrapped", None, FLOAT, of="gemma3"))
    for name, bits in (("llama", 8), ("qwen3", 4), ("gemma3", 4), ("qwen3_moe", 4)):
        file = f"{name}_mlx{bits}"
        found.append(quantized(out, file, write_affine(name, bits, out / file)))
    for name in ARCH:
        model = for_gguf(name)
        write_gguf(model, name, out / f"{name}.gguf")
        found.append(entry(out, f"{name}.gguf", logits_of(model), FLOAT))
    index = {"tokens": TOKENS, "positions": POSITIONS, "checkpoints": found}
    (out / "index.json").write_text(json.dumps(index, indent=1) + "\n")
    return {"index": "families/index.json"}


if __name__ == "__main__":
    run(None, pathlib.Path(__file__).parent)
