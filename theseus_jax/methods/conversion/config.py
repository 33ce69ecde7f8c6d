"""The config of a conversion's run: its sections with defaults and units, and what cannot
be meant.
"""

from __future__ import annotations

from typing import Any

from theseus_jax.checks import ABOVE, INSIDE, check_values, lookup
from theseus_jax.errors import UserError
from theseus_jax.methods import baselines, convert
from theseus_jax.methods.plasticity import within
from theseus_jax.similarity import METRICS, metric

SEEDS = 3
REMEDY = "make the seams fit or choose another schedule or metric"
CHOICES = {
    "convert.samples": ("tokens", "sequences", "pooled"),
    "convert.train_inherited": ("stage", "frozen"),
    "convert.stitch": ("ridge", "none"),
    "convert.decays": ("fresh", "measured"),
    "convert.weights": ("fresh", "measured"),
    "convert.schedule": convert.SCHEDULES,
    **within.CHOICES,
}
POSITIVE = (
    "seeds",
    "train.batch",
    "train.chunk",
    "convert.steps",
    "convert.neighbours",
    "report.latency_repeats",
    *within.POSITIVE,
)
RANGES = {
    "guide.learning_rate": ABOVE,
    "convert.align_rate": ABOVE,
    "convert.finish_rate": ABOVE,
    "convert.metric_temperature": ABOVE,
    "controls.rates.*": ABOVE,
    "controls.hint_share": INSIDE,
    **within.RANGES,
}


def sections(task: Any) -> dict[str, dict[str, Any]]:
    """The method's part of a config, with defaults and units. Raises UserError for a task that has
    no two networks.
    """
    if not hasattr(task, "sizes"):
        raise UserError(
            "the method convert needs a task with a guide and a target, and"
            f" {task.__name__.rpartition('.')[2]} has none; choose method"
            f" {getattr(task, 'METHOD', 'another')!r}, or another task"
        )
    usual, sizes = task.USUAL, task.sizes()
    guide = {
        "origin": "trained",  # trained (here, on all data) | untrained | file; classes: pretrained
        "weights": "",  # file: safetensors or a torch state dict, Hugging Face names
        "steps": usual["guide_steps"],
        "learning_rate": 3e-3,
    }
    train = {
        "batch": usual["batch"],  # windows or examples
        "weight_decay": 0.05,
        "clip": 1.0,  # global gradient norm
        "chunk": 25,  # optimizer steps a compiled scan
        "compute": "float32",  # of stages: float32 | bfloat16; parameters and losses: float32
        "remember": False,  # compute the guide's activations once for all examples (unaugmented)
        "save_seconds": 120.0,  # between checkpoints inside a phase
    }
    report = {
        "latency_repeats": 30,
        "hybrid_examples": usual["hybrid_examples"],  # of validation, for hybrids; 0: all
        "guide_table": usual["guide_table"],  # debiased CKA of the guide's stages with each other
    }
    return {
        "train": train,
        "guide": guide | sizes["guide"],
        "target": sizes["target"],
        "convert": _convert(usual),
        "elastic": within.section(),
        "controls": _controls(),
        "report": report,
    }


def _convert(usual: dict[str, Any]) -> dict[str, Any]:
    return {
        "schedule": "sequential",  # any of convert.SCHEDULES
        "mapping": "auto",  # auto | "guide_stage=target_stage, ..."
        "metric": "cka_debiased",  # any of similarity.METRICS that is differentiable
        "neighbours": 10,  # k of the neighbour measures
        "metric_temperature": 0.02,  # of D-MNN
        # tokens (every position) | sequences (every example) | pooled (its mean)
        "samples": usual["samples"],
        "steps": 400,  # optimizer steps in all; the controls get as many
        "align": 0.5,  # share of the steps for the alignment stages
        "finish_kl": 0.0,  # share of distillation in fine-tuning
        "finish_align": 0.0,  # weight of the distance over all seams in fine-tuning
        "inherit": usual["inherit"],  # stages and submodules taken from the guide
        # attentions of the guide that stay in the target, ("block_3/attn",)
        "keep": (),
        # of linear attention: fresh | measured, as far as the guide's heads look back
        "decays": "fresh",
        # of static attention: fresh | measured, the best for what the guide's heads see
        "weights": "fresh",
        # steps that fit linear attention's features to the guide's attention weights; 0: none
        "transfer": 0,
        "train_inherited": "stage",  # stage: also during alignment | frozen: only in fine-tuning
        "stitch": "ridge",  # ridge | none
        "stitch_ridge": 1e-4,  # penalty, in units of the activations' mean variance
        # of a stitch between whole activations, where positions do not correspond
        "stitch_rank": 64,
        # examples behind exact batch-norm statistics after each stage; 0: moving averages
        "recalibrate": 0,
        "align_rate": 3e-3,
        "finish_rate": 3e-3,
    }


def _controls() -> dict[str, Any]:
    rates = dict.fromkeys(baselines.CONTROLS, 3e-3) | {"one_shot": 1e-3}
    return {
        "names": ("from_scratch", "distilled", "one_shot", "one_shot_distilled"),
        # also run a control as long as the conversion's FLOPs last, if that is longer
        "equal_flops": True,
        "kl": 0.5,  # share of distillation in distilled, one_shot_distilled, fitnets and ted
        "hint_share": 0.3,  # of the steps of fitnets, theseus and ted: their first phase
        "temperature": 2.0,  # of distillation, here and in the conversion
        "rates": rates,
    }


def check(config: Any, task: Any) -> None:
    """Raises UserError, one line, for the first value that cannot be meant."""
    metrics = tuple(name for name, entry in METRICS.items() if entry.differentiable)
    check_values(config, CHOICES | {"convert.metric": metrics}, POSITIVE)
    if not 0 <= config.convert.align < 1:
        raise UserError(
            f"config.convert.align is {config.convert.align:g}, a share of the steps in [0, 1); 0.5"
            " is usual"
        )
    for path in ("convert.finish_kl", "controls.kl"):
        if not 0 <= lookup(config, path) <= 1:
            raise UserError(
                f"config.{path} is {lookup(config, path):g}, a share of the loss; give a number in"
                " [0, 1]"
            )
    cut = [name for name in config.controls.names if name in baselines.WINDOWS]
    if cut and not hasattr(task, "windowed"):
        raise UserError(
            f"config.controls.names has {cut[0]}, and the networks of this task have no attention"
            " to cut; leave it out"
        )
    if config.convert.keep and not hasattr(task, "kept"):
        raise UserError(
            f"config.convert.keep has {config.convert.keep[0]!r}, and the networks of this task"
            " have no attention that can stay; leave it out"
        )
    if config.controls.temperature <= 0:
        raise UserError(
            f"config.controls.temperature is {config.controls.temperature:g}; give a temperature"
            " above 0"
        )
    if config.guide.origin == "trained" and config.guide.steps < 1:
        raise UserError(
            "config.guide.steps is 0 with a trained guide; raise it, or set guide.origin to"
            " 'untrained'"
        )
    known = dict.fromkeys((*baselines.CONTROLS, *baselines.WINDOWS))
    unknown = [name for name in config.controls.names if name not in known]
    if unknown:
        raise UserError(
            f"config.controls.names has {', '.join(unknown)}; choose from {', '.join(known)}"
        )
    if config.train.remember and task.transforms:
        raise UserError(
            "config.train.remember keeps the guide's activations of examples that never change, and"
            f" {task.transforms[0]} changes them (data.crop, flip and mixup); turn one of the two"
            " off"
        )
    if "head" in tuple(config.convert.inherit) and config.guide.origin == "untrained":
        raise UserError("config.convert.inherit has the head of an untrained guide; leave it out")
    there, needed = task.samples[config.convert.samples], chosen_metric(config).minimum_samples
    if there < needed:
        raise UserError(
            f"{config.convert.metric} needs at least {needed} samples and a batch gives {there}"
            f" ({config.convert.samples}); raise train.batch or set convert.samples to 'tokens'"
        )


def chosen_metric(config: Any) -> Any:
    """The similarity that a config's alignment uses."""
    c = config.convert
    return metric(c.metric, k=c.neighbours, temperature=c.metric_temperature)
