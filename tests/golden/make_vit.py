"""Writes small random ViTs and DeiTs in Hugging Face's files, and what transformers computes with
them.

    pip install torch==2.13.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    python tests/golden/make_vit.py

Every weight is drawn so that dropping one, swapping two or reading another token shifts the logits
by far more than the tolerance. vit_names.json tells what transformers calls the tensors of each
file in memory.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    ViTConfig,
    ViTForImageClassification,
)

FOLDER = Path(__file__).parent
SIZES = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": 12,
    "patch_size": 4,
    "num_labels": 5,
}
MODELS = {
    "vit": (ViTConfig, ViTForImageClassification),
    "deit": (DeiTConfig, DeiTForImageClassification),
    "deit_distilled": (DeiTConfig, DeiTForImageClassificationWithTeacher),
}


def drawn(name):
    """The model with random weights, in float32; scales near 1, everything else around 0."""
    config, model = MODELS[name]
    made = model(config(**SIZES, attn_implementation="eager"))
    generator = torch.Generator().manual_seed(len(name))
    for key, value in made.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        if "layernorm" in key:
            value.data = 0.3 * noise + (1.0 if key.endswith("weight") else 0.0)
        elif key.endswith("weight"):
            value.data = 1.2 * noise / np.prod(value.shape[1:]) ** 0.5
        else:
            value.data = 0.5 * noise
    return made


def outputs(model, x, labels):
    """Hidden states, logits in both modes, and the gradient of the training cross-entropy by the
    image, channels last.
    """
    pixels = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    trained = model.train()(pixels).logits
    torch.nn.functional.cross_entropy(trained, torch.from_numpy(labels)).backward()
    with torch.no_grad():
        given = model.eval()(pixels, output_hidden_states=True)
        last = model.base_model(pixels).last_hidden_state
    arrays = {f"hidden_{i}": hidden for i, hidden in enumerate(given.hidden_states)}
    arrays |= {"last": last, "evaluate": given.logits, "train": trained.detach()}
    arrays |= {"gradient": pixels.grad.permute(0, 2, 3, 1)}
    if "cls_logits" in given:
        arrays |= {"class": given.cls_logits, "distillation": given.distillation_logits}
    return {name: array.numpy() for name, array in arrays.items()}


def main():
    generator = np.random.default_rng(0)
    x, labels = generator.normal(size=(3, 12, 12, 3)).astype(np.float32), np.array([4, 0, 2])
    arrays, names = {"x": x, "labels": labels}, {}
    for name in MODELS:
        model = drawn(name)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            content = (Path(folder) / "model.safetensors").read_bytes()
            saved = load_file(Path(folder) / "model.safetensors")
        (FOLDER / f"{name}.safetensors").write_bytes(content)
        memory = model.state_dict()
        names[name] = {
            key: next(other for other, value in memory.items() if torch.equal(value, tensor))
            for key, tensor in saved.items()
        }
        assert sorted(names[name].values()) == sorted(memory)
        arrays |= {f"{name}_{key}": array for key, array in outputs(model, x, labels).items()}
    np.savez_compressed(FOLDER / "vit_outputs.npz", **arrays)
    (FOLDER / "vit_names.json").write_text(json.dumps(names, indent=0, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
