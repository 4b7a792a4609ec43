"""Step `greedy`: greedy.json, 64 greedy tokens for a few prompts, and how sure the model was.

    [{"prompt", "raw", "text": what was tokenized, "prompt_ids", "tokens", "gaps", "finish_reason",
      "output": the decoded tokens}, ...]

gaps[i] is the difference of the two best log-probabilities where tokens[i] was chosen. An
implementation that rounds differently may leave the reference only where the gap is small (mlxd
allows 0.5); after it has left, nothing can be compared. Generation stops at <|im_end|>, which is
then the last of `tokens` (finish_reason "stop"), or after 64 tokens ("length").

Templated prompts are rendered by the model's own template with add_generation_prompt and encoded
with special tokens parsed; raw ones are encoded as they are. Ids come from the true pre-tokenizer.
"""

import json

import torch

import oracle
import step_tokens

EOS = 2
PROMPTS = (
    (False, "What is the capital of France?"),
    (False, "Write a short poem about the sea."),
    (False, "Explain in three sentences why the sky is blue."),
    (False, "Write a Python function that returns the n-th Fibonacci number."),
    (True, "Once upon a time, in a small village by the river,"),
    (True, "#include <stdio.h>\n\nint main(void)\n{\n    for (int i = 0; i < 10; i++)"),
)


def generate(model, ids, count):
    """Greedy tokens and gaps. Every step runs the whole sequence: slow, but plain."""
    tokens, gaps = [], []
    while len(tokens) < count and EOS not in tokens:
        last = torch.from_numpy(oracle.logits(model, ids + tokens)[-1])
        best = torch.log_softmax(last.double(), -1).topk(2)
        tokens.append(int(best.indices[0]))
        gaps.append(round(float(best.values[0] - best.values[1]), 5))
    return tokens, gaps


def run(model_path, out):
    model, tok = oracle.load(model_path), oracle.tokenizer(model_path)
    encoder, _, _ = step_tokens.by_hand(model_path, True)
    rows, all_gaps = [], []
    for raw, prompt in PROMPTS:
        text = prompt
        if not raw:
            message = [{"role": "user", "content": prompt}]
            text = tok.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        ids = encoder.encode(text, add_special_tokens=False).ids
        tokens, gaps = generate(model, ids, 64)
        row = {"prompt": prompt, "raw": raw, "text": text, "prompt_ids": ids}
        row.update(tokens=tokens, gaps=gaps, finish_reason="stop" if EOS in tokens else "length")
        row["output"] = tok.decode(tokens, skip_special_tokens=True)
        print(f"{prompt!r}: {len(tokens)} tokens, smallest gap {min(gaps)}: {row['output'][:70]!r}")
        rows.append(row)
        all_gaps += gaps
    file = out / "greedy.json"
    lines = ",\n".join("  " + json.dumps(r) for r in rows)
    file.write_text(f"[\n{lines}\n]\n")
    below = {str(g): sum(x < g for x in all_gaps) for g in (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)}
    tolerance = {"leaves_reference_only_below_gap": 0.5}
    return {
        "file": file.name,
        "prompts": len(rows),
        "tolerance": tolerance,
        "positions": len(all_gaps),
        "gaps_below": below,
    }
