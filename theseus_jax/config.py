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
        "batch": 8,                         # windows or examples
        "weight_decay": 0.05,
        "clip": 1.0,                        # global gradient norm
        "chunk": 25,                        # optimizer steps a compiled scan
        "remember": False,                  # compute the guide's activations once for all examples (labelled data, unaugmented)
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
        "schedule": "sequential",           # progressive | sequential | independent | parallel | joint | one_shot
        "mapping": "auto",                  # auto | "guide_stage=target_stage, ..."
        "metric": "cka_debiased",           # any of similarity.METRICS that is differentiable
        "neighbours": 10,                   # k of the neighbour measures
        "metric_temperature": 0.02,         # of D-MNN
        "samples": "tokens",                # tokens (every position) | sequences (every example) | pooled (its mean)
        "steps": 400,                       # optimizer steps in all; the controls get as many
        "align": 0.5,                       # share of the steps for the alignment stages
        "finish_kl": 0.0,                   # share of distillation in fine-tuning
        "finish_align": 0.0,                # weight of the distance over all seams in fine-tuning
        "inherit": ("embed", "ln_1", "ln_2", "mlp", "norm", "head"),# stages and submodules taken from the guide
        "train_inherited": "stage",         # stage: also during alignment | frozen: only in fine-tuning
        "stitch": "ridge",                  # ridge | none
        "stitch_ridge": 1e-4,               # penalty, in units of the activations' mean variance
        "stitch_rank": 64,                  # of a stitch between whole activations, where positions do not correspond
        "recalibrate": 0,                   # examples behind exact batch-norm statistics after each stage; 0: moving averages
        "align_rate": 3e-3,
        "finish_rate": 3e-3,
    }


def _controls() -> dict[str, Any]:
    return {
        "names": ("from_scratch", "distilled", "one_shot", "one_shot_distilled"),
        "equal_flops": True,                # also run a control as long as the conversion's FLOPs last, if that is longer
        "kl": 0.5,                          # share of distillation in distilled, one_shot_distilled, fitnets and ted
        "hint_share": 0.3,                  # of the steps of fitnets, theseus and ted: their first phase
        "temperature": 2.0,                 # of distillation, here and in the conversion
        "rates": {"from_scratch": 3e-3, "distilled": 3e-3, "one_shot": 1e-3, "one_shot_distilled": 3e-3, "fitnets": 3e-3,
                  "theseus": 3e-3, "ted": 3e-3, "supervised": 3e-3},
    }


def _report() -> dict[str, Any]:
    return {
        "prompt": "def ",                   # start of the generated samples
        "sample_tokens": 96,
        "latency_repeats": 30,
    }


def _labelled_data() -> dict[str, Any]:
    return {
        "source": "digits",                 # digits | fashion_mnist | cifar10 | folder | tfds | bbc | tfds_text
        "path": "",                         # fashion_mnist, folder: the folder; cifar10: the npz; tfds: its data_dir
        "dataset": "",                      # tfds, tfds_text: the data set's name
        "size": 0,                          # folder, tfds: pixels a side that images are resized to when they are read
        "channels": 3,                      # folder, tfds: 3 or 1
        "classes": 0,                       # folder, tfds: how many
        "tokens": 64,                       # bbc, tfds_text: word pieces a text
        "cache": "",                        # folder of decoded images; empty: inside the workdir
        "train": 0,                         # examples; 0: all
        "validation": 0,
        "test": 0,
        "share": 0,                         # training examples, stratified, that conversion and controls may use; 0: all
        "unlabelled": False,                # arms whose losses read no labels may use all training examples, without labels
        "mean": (127.5,),                   # levels, one for all channels or one each
        "deviation": (127.5,),
        "crop": 0,                          # pixels of padding before a random crop
        "flip": False,                      # left to right, at random
        "mixup": 0.0,                       # Beta's parameter; 0: none
    }


def _architecture() -> dict[str, Any]:
    return {
        "arch": "mlp",                      # a name of nets.zoo.ARCHITECTURES; which sizes it reads: nets.zoo.Architecture
        "width": 0,
        "depth": 0,
        "hidden": 0,
        "heads": 0,
        "patch": 0,                         # pixels
        "norm": "batch",                    # batch | layer | group | none
        "stem": "cifar",                    # of ResNets: cifar | imagenet
        "rank": 0,
        "read": "mean",                     # of ViTs: class | mean | distilled
        "dropout": 0.0,
        "residual": False,
        "units": 0,
        "cell": "linear",
        "keep": (),
        "size": 0,                          # pixels a side, inside the network; 0: as the data
    }


def _class_guide() -> dict[str, Any]:
    return _architecture() | {
        "origin": "trained",                # trained (here, on all training examples) | untrained | pretrained | file
        "weights": "",                      # file: safetensors or a torch state dict, Hugging Face names (resnet*, vit)
        "mode": "identity",                 # untrained: batch norm's identity | batch | calibrated
        "steps": 1000,
        "learning_rate": 3e-3,
    }


def _class_train() -> dict[str, Any]:
    return _train() | {"batch": 128}


def _class_convert() -> dict[str, Any]:
    return _convert() | {"samples": "sequences", "inherit": ()}


def _class_report() -> dict[str, Any]:
    return {
        "latency_repeats": 30,
        "probe": False,                     # also fit a linear probe on every network's features, and compare them with the guide's
        "hybrid_examples": 1000,            # of validation, that hybrids are scored on after each stage; 0: all
        "guide_table": True,                # debiased CKA of all guide stages against each other
    }


def _feature_data() -> dict[str, Any]:
    return {
        "source": "digits",                 # digits | cifar10 | bbc | omniglot | lm_states | tfds
        "path": "",                         # cifar10: the npz; omniglot: the folder of its zips; tfds: its data_dir
        "dataset": "",                      # tfds: the data set's name
        "backbone": "none",                 # none | efficientnet_lite0 | minilm: frozen, run once, features cached on disk
        "size": 128,                        # pixels a side that an image backbone reads
        "cache": "",                        # folder of cached features; empty: inside the workdir
        "train": 0,                         # examples; 0: all
        "validation": 0,
        "test": 0,
        "classes": 0,                       # tfds: how many; 0: as the source says
        "width": 0,                         # of the features, where the source does not say; 0: as it says
        "ways": 5,                          # omniglot: classes an episode
        "shots": 8,                         # omniglot: training examples a class
        "standardise": True,                # features, by the training split's mean and deviation
    }


def _head() -> dict[str, Any]:
    return {
        "hidden": (256,),                   # units of the MLP that is replaced
        "loss": "cross_entropy",            # cross_entropy | infonce
        "outputs": 0,                       # infonce: width of the projection
        "dropout": 0.2,                     # infonce: rate of the two views' masks on the features
        "temperature": 0.07,                # infonce
    }


def _glai() -> dict[str, Any]:
    return {
        "rho": 0.5,                         # hidden widths of the selector over the MLP's
        "budget": 1.0,                      # weights of the estimator over O - R
        "reference": 1024,                  # training rows behind path norms and the maturity criterion
        "selector": "maturity",             # maturity | epochs
        "selector_epochs": 20,              # at most (maturity) or exactly (epochs)
        "settled_share": 0.5,               # maturity: a share of the largest m_t so far
        "settled_window": 1,                # maturity: epochs m_t is averaged over
    }


def _head_train() -> dict[str, Any]:
    return {
        "batch": 16,
        "epochs": 100,                      # at most
        "patience": 10,                     # epochs without a better validation score
        "save_seconds": 120.0,              # between checkpoints inside a phase
    }


def _search() -> dict[str, Any]:
    return {
        "adam_rates": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
        "sgd_rates": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
        "decays": (1e-2, 3e-1),             # decoupled weight decay
        "penalties": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),  # of the direct solvers
        "epochs": 100,                      # at most, in a trial: as long as training, so that no arm is cut short
        "seeds": 3,                         # of every trial; their mean validation score chooses
    }


def _head_report() -> dict[str, Any]:
    return {
        "latency_repeats": 30,
        "slack": 0.0,                       # a declared score counts as reached from this far below (accuracy or nats)
    }


TASKS = {
    "language_model": {"data": _data, "train": _train, "guide": _guide, "target": _target, "convert": _convert,
                       "controls": _controls, "report": _report},
    "head": {"data": _feature_data, "train": _head_train, "head": _head, "glai": _glai, "search": _search,
             "report": _head_report},
    "classification": {"data": _labelled_data, "train": _class_train, "guide": _class_guide, "target": _architecture,
                       "convert": _class_convert, "controls": _controls, "report": _class_report},
}
ARMS = ("mlp_sgd", "mlp_adam", "mlp_reduced", "low_rank", "linear_sgd", "linear_adam", "logistic", "ridge", "glai_path",
        "glai_per_output", "glai_joint", "glai_untrained", "glai_joint_logistic", "glai_joint_ridge")


def base(task: str = "language_model") -> Any:
    """A ConfigDict with every key that an experiment of this task reads. Types are fixed by these defaults.

    task: "language_model" (conversion of a language model), "classification" (conversion of a classifier of images or texts)
    or "head" (GLAI and its rivals on features).
    Raises UserError for another task.
    """
    from ml_collections import ConfigDict

    if task not in TASKS:
        raise UserError(f"there is no task {task!r}; choose from {', '.join(TASKS)}")
    c = ConfigDict()
    c.task = task
    c.smoke = False                         # so short a run that its numbers mean nothing, which its report then says
    c.seed = 0                              # the run's one key
    c.seeds = 5 if task == "head" else 3
    if task == "head":
        c.arms = ARMS
    for name, section in TASKS[task].items():
        c[name] = ConfigDict(section())
    return c


def preset(name: str | None, choices: dict[str, Any]) -> Any:
    """The config that preset `name` (None or "": the default) builds, told whether it is the smoke preset.

    Raises UserError naming the presets.
    """
    key = name or "default"
    if key not in choices:
        raise UserError(f"there is no preset {key!r}; choose from {', '.join(choices)}")
    made = choices[key]()
    made.smoke = key == "smoke"
    return made
