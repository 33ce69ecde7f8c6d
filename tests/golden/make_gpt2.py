"""Writes three small random GPT-2s as transformers saves them, and their logits on random tokens.

    pip install torch==2.13.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    python tests/golden/make_gpt2.py

Every weight is drawn wider than GPT-2's own start, biases and layer norms too, so that dropping one
or swapping two moves the logits by far more than the tolerance. The embeddings of b are small, so
that the epsilon of the layer norms counts.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

FOLDER = Path(__file__).parent
SHAPES = {
    "a": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 61, "n_positions": 16},
    "b": {"n_embd": 24, "n_layer": 3, "n_head": 3, "vocab_size": 40, "n_positions": 12},
    "c": {"n_embd": 64, "n_layer": 1, "n_head": 1, "vocab_size": 29, "n_positions": 9},
}
EMBEDDING_STD = {"a": 0.3, "b": 0.03, "c": 0.3}


def randomize(model: GPT2LMHeadModel, embedding_std: float, generator: torch.Generator) -> None:
    """Draw every parameter anew: layer-norm scales around 1, the rest around 0, kernels of a gain
    near 1.
    """
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith(("wte.weight", "wpe.weight")):
            value.data = embedding_std * noise
        elif ".ln_" in name:
            value.data = 0.3 * noise + (1.0 if name.endswith("weight") else 0.0)
        else:
            value.data = (1.3 / value.shape[0] ** 0.5 if value.ndim == 2 else 0.3) * noise


def main() -> None:
    """A file of weights per shape, and one of all token ids (B, T) int32 and logits (B, T, V)
    float32.
    """
    arrays = {}
    for seed, (name, shape) in enumerate(SHAPES.items()):
        generator = torch.Generator().manual_seed(seed)
        model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).eval()
        randomize(model, EMBEDDING_STD[name], generator)
        ids = torch.randint(shape["vocab_size"], (2, shape["n_positions"]), generator=generator)
        with torch.no_grad():
            logits = model(ids).logits
        arrays |= {f"{name}_ids": ids.numpy().astype(np.int32), f"{name}_logits": logits.numpy()}
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            shutil.copyfile(Path(folder) / "model.safetensors", FOLDER / f"gpt2_{name}.safetensors")
    np.savez_compressed(FOLDER / "gpt2_logits.npz", **arrays)


if __name__ == "__main__":
    main()
