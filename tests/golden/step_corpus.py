"""Step `corpus`: the demo model's distribution at every position of corpus.txt.

    corpus.txt           the text (ours, written for this purpose): a chat, prose, code, questions,
                         a recipe, a letter, and a little French, German and Spanish
    corpus.tokens.json   its ids, special tokens parsed; one sequence from position 0
    corpus.top128.bin    little-endian, no header, one record per position i:

        offset  size  what
        0       256   u16[128]  ids of the 128 most probable tokens after tokens[0..i], best first
        256     256   f16[128]  their log-probabilities
        512     4     f32       log-probability of the best token
        516     4     f32       gap: best minus second-best log-probability
        520     4     f32       probability of all other tokens together (the remainder bucket)

        = 524 bytes. Ties, if any, are in the order of ids. The reference argmax is ids[0].

    KL(ref || ours) = sum over the 128 of p (lp - ours_lp), and p_rest (ln p_rest - ln ours_rest),
    where p = exp(lp) and ours_rest = 1 - sum of our probabilities of the 128 ids.

f16 log-probabilities: error at most 2^-11 relative. The step measures what that does to the mean
KL of the simulated design (index.json: kl_f16_error), and how much the bucket hides
(kl_bucket_loss).
"""

import json

import numpy as np

import llama_np
import oracle
import step_tokens
from step_tiny import log_softmax

TOP = 128
RECORD = np.dtype(
    [("ids", "<u2", TOP), ("lp", "<f2", TOP), ("best", "<f4"), ("gap", "<f4"), ("rest", "<f4")]
)


def records(lp):
    out = np.zeros(len(lp), RECORD)
    order = np.argsort(-lp, axis=-1, kind="stable")[:, :TOP]
    top = np.take_along_axis(lp, order, -1)
    out["ids"], out["lp"], out["best"] = order, top, top[:, 0]
    out["gap"] = top[:, 0] - top[:, 1]
    rest = np.exp(lp)
    np.put_along_axis(rest, order, 0, -1)
    out["rest"] = rest.sum(-1)
    return out, top


def kl_bucketed(ids, top, rest, ours):
    """KL over the 128 ids and the remainder, as the C test computes it."""
    mine = np.take_along_axis(ours, ids.astype(np.int64), -1)
    mine_rest = np.maximum(1 - np.exp(mine).sum(-1), 1e-12)
    p = np.exp(top)
    return (p * (top - mine)).sum(-1) + rest * (np.log(np.maximum(rest, 1e-12)) - np.log(mine_rest))


def run(model_path, out):
    assert RECORD.itemsize == 524
    encoder, _, _ = step_tokens.by_hand(model_path, True)
    text = (out / "corpus.txt").read_text(encoding="utf-8")
    tokens = encoder.encode(text, add_special_tokens=False).ids
    ref = log_softmax(oracle.logits(oracle.load(model_path), tokens))
    found, top = records(ref)
    (out / "corpus.tokens.json").write_text(json.dumps(tokens) + "\n")
    found.tofile(out / "corpus.top128.bin")

    plain = log_softmax(llama_np.Llama(model_path, dtype=np.float32).logits(tokens))
    design = llama_np.Llama(model_path, act_q8=True, kv_f16=True, dtype=np.float32)
    ours = log_softmax(design.logits(tokens))
    full = (np.exp(ref) * (ref - ours)).sum(-1)
    rest = found["rest"].astype(np.float64)
    exact = kl_bucketed(found["ids"], top, rest, ours)
    rounded = kl_bucketed(found["ids"], found["lp"].astype(np.float64), rest, ours)
    differ = ref.argmax(-1) != ours.argmax(-1)
    gap = found["gap"].astype(np.float64)
    measured = {
        "transformers_to_numpy_max_log_prob_of_best": float(
            np.abs(ref - plain)[np.arange(len(ref)), ref.argmax(-1)].max()
        ),
        "design_mean_kl_full": float(full.mean()),
        "design_mean_kl": float(rounded.mean()),
        "design_max_kl": float(rounded.max()),
        "kl_f16_error": float(abs(rounded.mean() - exact.mean())),
        "kl_bucket_loss": float(full.mean() - exact.mean()),
        "design_same_best": float(1 - differ.mean()),
        "design_largest_gap_where_best_differs": float(gap[differ].max()),
        "mean_remainder": float(rest.mean()),
        "perplexity": float(np.exp(-ref[np.arange(len(tokens) - 1), tokens[1:]].mean())),
    }
    measured = {k: float(f"{v:.4g}") for k, v in measured.items()}
    assert measured["transformers_to_numpy_max_log_prob_of_best"] < 1e-3
    print(len(tokens), "tokens", json.dumps(measured, indent=1))
    return {
        "text": "corpus.txt",
        "tokens": "corpus.tokens.json",
        "file": "corpus.top128.bin",
        "n_tokens": len(tokens),
        "positions": len(tokens),
        "record_bytes": RECORD.itemsize,
        "vocab": int(ref.shape[1]),
        "tolerance": {"mean_kl": 5e-3, "same_best": 0.965, "best_differs_only_below_gap": 0.5},
        "gap_quantiles": {
            str(q): float(f"{np.quantile(gap, q):.3g}") for q in (0.01, 0.05, 0.1, 0.25, 0.5, 0.75)
        },
        "gaps_below": {
            str(g): float(f"{(gap < g).mean():.3g}") for g in (0.01, 0.05, 0.1, 0.25, 0.5)
        },
        "measured": measured,
    }
