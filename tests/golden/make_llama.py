"""Writes three small random Llama-like models as transformers saves them, and their logits.

    pip install torch==2.13.0 transformers==5.24.0 safetensors==0.8.0 numpy==2.4.6
    python tests/golden/make_llama.py

Every weight is drawn wide, norms and biases too, so that dropping one or swapping two moves the
logits by far more than the tolerance. llama: stretched positions whose three ranges all have pairs,
biases everywhere, an own head. qwen2: bfloat16, a tied head, biases of queries, keys and values.
mistral: float16 in shards, heads of another size than the width's part.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

FOLDER = Path(__file__).parent / "folders"
SHARED = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
STRETCH = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS = {
    "llama": LlamaForCausalLM(
        LlamaConfig(
            **SHARED, rope_parameters=STRETCH, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-2
        )
    ),
    "qwen2": Qwen2ForCausalLM(Qwen2Config(**SHARED, tie_word_embeddings=True)),
    "mistral": MistralForCausalLM(MistralConfig(**SHARED, head_dim=12, sliding_window=None)),
}
DTYPES = {"qwen2": torch.bfloat16, "mistral": torch.float16}


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 61, (2, 48), generator=generator)
    logits = {"ids": ids.numpy().astype(np.int32)}
    for name, model in MODELS.items():
        dtype = DTYPES.get(name, torch.float32)
        for key, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if "norm" in key:
                value.data = 1.0 + 0.3 * noise
            else:
                value.data = (1.5 / value.shape[1] ** 0.5 if value.ndim == 2 else 0.3) * noise
            value.data = value.data.to(dtype).to(torch.float32)
        with torch.no_grad():
            logits[name] = model(ids).logits[:, -6:].numpy()
        small = {"max_shard_size": "20KB"} if name == "mistral" else {}
        model.to(dtype).save_pretrained(FOLDER / name, **small)
    np.savez(FOLDER / "llama_logits.npz", **logits)


if __name__ == "__main__":
    main()
