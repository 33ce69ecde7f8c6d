"""The one config schema: every key with its default and unit. Config files edit it; only `experiment` reads it."""
from __future__ import annotations

from typing import Any

from theseus_jax.errors import UserError


def _data() -> dict[str, Any]:
    return {
        "source": "stdlib",                 # stdlib | directory | tfds
        "path": "",                         # directory: of *.txt files; tfds: its data_dir
        "dataset": "",                      # tfds: the data set's name
        "text_key": "",                     # tfds: the feature that holds the text, where it is not the only one
        "tokenizer": "bpe",                 # bytes | bpe
        "vocabulary": 1024,                 # tokens, for bpe
        "context": 128,                     # tokens a window
        "share": 0.1,                       # of the training documents: all that conversion and controls may use
        "validation": 0.03,                 # of the bytes, by file
        "test": 0.03,                       # of the bytes, by file
    }


def _train() -> dict[str, Any]:
    return {
        "batch": 8,                         # windows
        "weight_decay": 0.05,
        "clip": 1.0,                        # global gradient norm
        "chunk": 25,                        # optimizer steps a compiled scan
        "save_seconds": 120.0,              # between checkpoints inside a phase
    }


def _guide() -> dict[str, Any]:
    return {
        "origin": "trained",                # trained (here, on all training documents) | untrained | file
        "weights": "",                      # file: GPT-2 weights as safetensors, Hugging Face names
        "width": 128,
        "depth": 4,                         # blocks
        "heads": 4,
        "positions": 0,                     # learned positions; 0: as many as data.context
        "dropout": 0.0,
        "steps": 3000,
        "learning_rate": 3e-3,
    }


def _target() -> dict[str, Any]:
    return {
        "cell": "linear",                   # elman | gru | lstm | linear
        "block": "residual",                # plain | residual
        "width": 128,
        "depth": 4,                         # blocks
        "hidden": 128,                      # recurrent units a block
        "expansion": 4,                     # MLP width over width; 0: no MLP (residual blocks)
        "adapter_rank": 64,                 # of the linear adapters, where guide and target widths differ
    }


def _convert() -> dict[str, Any]:
    return {
        "schedule": "sequential",           # progressive | sequential | independent | parallel | joint | stochastic | one_shot
        "mapping": "auto",                  # auto | "guide_stage=target_stage, ..."
        "metric": "cka_debiased",           # any of similarity.METRICS that is differentiable
        "neighbours": 10,                   # k of the neighbour measures
        "metric_temperature": 0.02,         # of D-MNN
        "samples": "tokens",                # tokens | sequences
        "steps": 400,                       # optimizer steps in all; the controls get as many
        "align": 0.5,                       # share of the steps for the alignment stages
        "task_weight": 0.0,                 # cross-entropy through the frozen guide suffix, in each stage
        "kl_weight": 0.0,                   # distillation through the frozen guide suffix, in each stage
        "finish_kl": 0.0,                   # share of distillation in fine-tuning
        "finish_align": 0.0,                # weight of the distance over all seams in fine-tuning
        "inherit": ("embed", "ln_1", "ln_2", "mlp", "norm", "head"),# stages and submodules taken from the guide
        "train_inherited": "stage",         # stage: also during alignment | frozen: only in fine-tuning
        "stitch": "ridge",                  # ridge | none
        "stop_every": 0,                    # steps between checks of a stage's held-out similarity; 0: no stopping
        "stop_gain": 0.002,                 # debiased CKA
        "stop_patience": 2,                 # checks
        "align_rate": 3e-3,
        "finish_rate": 3e-3,
    }


def _controls() -> dict[str, Any]:
    return {
        "names": ("from_scratch", "distilled", "one_shot", "one_shot_distilled"),
        "equal_flops": True,                # also run a control as long as the conversion's FLOPs last, if that is longer
        "kl": 0.5,                          # share of distillation in the distilled controls
        "temperature": 2.0,                 # of distillation, here and in the conversion
        "scratch_rate": 3e-3,
        "distilled_rate": 3e-3,
        "one_shot_rate": 1e-3,
        "one_shot_distilled_rate": 3e-3,
    }


def _report() -> dict[str, Any]:
    return {
        "prompt": "def ",                   # start of the generated samples
        "sample_tokens": 96,
        "latency_repeats": 30,
    }


SECTIONS = {"data": _data, "train": _train, "guide": _guide, "target": _target, "convert": _convert, "controls": _controls, "report": _report}


def base() -> Any:
    """A ConfigDict with every key that an experiment reads. Types are fixed by these defaults."""
    from ml_collections import ConfigDict

    c = ConfigDict()
    c.task = "language_model"
    c.seed = 0                              # the run's one key
    c.seeds = 3                             # targets of every arm, run together
    for name, section in SECTIONS.items():
        c[name] = ConfigDict(section())
    return c


def preset(name: str | None, choices: dict[str, Any]) -> Any:
    """The config that preset `name` (None or "": the default) builds; raises UserError naming the presets."""
    key = name or "default"
    if key not in choices:
        raise UserError(f"there is no preset {key!r}; choose from {', '.join(choices)}")
    return choices[key]()
