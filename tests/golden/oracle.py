"""The oracle itself: Hugging Face transformers, in f32 on dequantized weights, on the CPU.

Everything model-shaped that the golden files hold comes from here. transformers reads the GGUF,
undoes the q/k row permutation and turns quantized blocks into f32; no rounding is added after that.
"""

import contextlib
import logging
import os
import pathlib
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

hf_logging.disable_progress_bar()
logging.getLogger("transformers").setLevel(logging.ERROR)
torch.set_num_threads(2)
torch.use_deterministic_algorithms(True)


@contextlib.contextmanager
def alone(path):
    """A folder that holds only this file: transformers would also read other files beside it."""
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / path.name).symlink_to(path.resolve())
        yield folder


def load(path):
    """The model in a GGUF file, f32, with the plain ("eager") attention."""
    how = {"gguf_file": path.name, "dtype": torch.float32, "attn_implementation": "eager"}
    with alone(path) as folder:
        model = AutoModelForCausalLM.from_pretrained(folder, **how)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(type(m) is torch.nn.Linear for n, m in model.named_modules() if "proj" in n)
    return model.eval()


def logits(model, ids):
    """Logits [positions][vocab] of one sequence, in one forward pass, as a numpy array."""
    with torch.inference_mode():
        return model(torch.tensor([ids]), use_cache=False).logits[0].numpy()


def tokenizer(path):
    """The tokenizer as transformers makes it from the GGUF (see step_tokens.py for its flaw)."""
    with alone(path) as folder:
        return AutoTokenizer.from_pretrained(folder, gguf_file=path.name)
