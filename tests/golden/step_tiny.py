"""Step `tiny`: writes the tiny checkpoints, their token sequences and their reference logits.

For each checkpoint, for 150 random tokens (so that two borders of 64-position KV pages are
crossed):

    tiny-X.tokens.json   the token ids
    tiny-X.logits.bin    transformers' f32 logits                 float32 LE [positions][vocab]
    tiny-X.design.bin    llama_np.py with act_q8 and kv_f16 on    float32 LE [rows][vocab]

Which rows are stored is in index.json. transformers must agree with llama_np.py (roundings off)
to 1e-4, or this step fails.

The design file is a sharper comparison: 1e-4 instead of the distance that quantization makes. But
where activations are quantized, a value between two int8 steps may fall the other way, and through
K and V it then touches every later position. So for quantized weights the design file holds the
last row of many short sequences, each in a fresh context: most must agree, a few may not.
"""

import json
import os

import numpy as np

import llama_np
import oracle
import tiny

N_TOKENS = 150
SHORT, SHORTS = 3, 30
# Around every border of a page of 64, of a prefill chunk of 7, and some in between.
SOME = [0, 1, 2, 6, 7, 8, 15, 31, 32, 48, 62, 63, 64, 65, 70, 96, 111, 126, 127, 128, 129, 140, 149]


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def distance(ref, ours):
    """How far `ours` is from `ref`: what a test will measure."""
    a, b = log_softmax(ref), log_softmax(ours)
    worst = np.abs(ref.astype(np.float64) - ours).max(-1)
    return {
        "max_abs": float(worst.max()),
        "median_abs": float(np.median(worst)),
        "mean_kl": float((np.exp(a) * (a - b)).sum(-1).mean()),
        "same_best": float((ref.argmax(-1) == ours.argmax(-1)).mean()),
    }


def round2(d):
    return {k: float(f"{v:.3g}") for k, v in d.items()}


def teeth(path, tokens, ref):
    """What plausible mistakes in attention do to the logits: the tests must be able to see them."""
    def without(change):
        m = llama_np.Llama(path)
        change(m)
        return float(f"{np.abs(m.logits(tokens) - ref).max():.2g}")

    def theta(m):
        m.theta *= 1.01

    def neighbours(m):  # NEOX pairs instead of neighbouring ones
        def rope(x, h=m.dim // 2):
            perm = np.arange(m.dim).reshape(2, h).T.reshape(-1)
            y = llama_np.Llama.rope(m, x[..., perm])
            out = np.empty_like(y)
            out[..., perm] = y
            return out
        m.rope = rope

    def silent(m):
        m.attention = lambda x, layer, entropies: np.zeros_like(x)

    mistakes = {"no attention": silent, "neox rope": neighbours, "theta +1%": theta}
    return {name: without(change) for name, change in mistakes.items()}


def tolerance(quantized, rounding):
    """The limits we recommend: 1e-3 where nothing is quantized, otherwise twice the simulation."""
    if not quantized:
        limit = 1e-3 if rounding["max_abs"] < 7e-4 else float(f"{2 * rounding['max_abs']:.1g}")
        return {"max_abs": limit}
    return {
        "max_abs": float(f"{2 * rounding['max_abs']:.1g}"),
        "mean_kl": float(f"{2 * rounding['mean_kl']:.1g}"),
        "same_best": 0.85,
    }


def write_design(path, tokens, quantized, file):
    """Writes the design file; returns its entry in the index."""
    design, single = (
        llama_np.Llama(path, act_q8=True, kv_f16=True, dtype=t) for t in (np.float64, np.float32)
    )
    if quantized:
        parts = [tokens[SHORT * i : SHORT * (i + 1)] for i in range(SHORTS)]
        rows, again = (np.stack([m.logits(p)[-1] for p in parts]) for m in (design, single))
        layout = {"rows": "sequences", "sequence_length": SHORT, "sequences": SHORTS}
        limits = {"row_abs": 1e-4, "rows_within": 0.8, "max_abs": 0.3}
    else:
        rows, again = (m.logits(tokens)[SOME] for m in (design, single))
        layout = {"rows": "positions", "positions": SOME}
        limits = {"row_abs": 1e-4, "rows_within": 0.8, "max_abs": 5e-4}
    rows.astype("<f4").tofile(file)
    worst = np.abs(rows - again).max(-1)
    within = float((worst < limits["row_abs"]).mean())
    found = {"rows_within": within, "max_abs": float(worst.max())}
    return {"file": file.name, **layout, "tolerance": limits, "measured_f64_to_f32": round2(found)}


def one(name, path, out):
    exact = llama_np.Llama(path)
    vocab = exact.weights["token_embd.weight"].shape[0]
    tokens = np.random.default_rng(5).integers(0, vocab, N_TOKENS).tolist()
    ref = oracle.logits(oracle.load(path), tokens)
    plain = exact.logits(tokens)
    second = float(np.abs(ref - plain).max())
    assert second < 1e-4, f"{name}: transformers and numpy differ by {second}"

    design = llama_np.Llama(path, act_q8=True, kv_f16=True)
    quantized = any(kind in llama_np.QUANTIZED for kind in exact.kinds.values())
    rounding = distance(ref, design.logits(tokens))

    positions = sorted({*SOME, *range(0, N_TOKENS, 2)}) if name == "tiny-f32" else SOME
    (out / f"{name}.tokens.json").write_text(json.dumps(tokens) + "\n")
    ref[positions].astype("<f4").tofile(out / f"{name}.logits.bin")
    sharp = write_design(path, tokens, quantized, out / f"{name}.design.bin")
    size = os.path.getsize(path)
    print(f"{name}: {size} bytes, second opinion {second:.1g}, design", round2(rounding))
    return {
        "file": path.name,
        "vocab": vocab,
        "layers": exact.layers,
        "tokens": f"{name}.tokens.json",
        "n_tokens": N_TOKENS,
        "reference": {
            "file": f"{name}.logits.bin",
            "positions": positions,
            "tolerance": tolerance(quantized, rounding),
        },
        "design": sharp,
        "measured": {
            "logits_std": round(float(ref.std()), 2),
            "attention_entropy_last": [round(float(e), 2) for e in exact.entropies],
            "transformers_to_numpy": float(f"{second:.1g}"),
            "reference_to_design": round2(rounding),
            "mistakes": teeth(path, tokens, plain),
        },
    }


def run(model, out):
    return [one(name, path, out) for name, path in tiny.write_all(out).items()]
