"""The one config schema: every key with its default and unit. Config files edit it; only `experiment` reads it."""
from __future__ import annotations

from typing import Any

from theseus_jax.errors import UserError


def base() -> Any:
    """A ConfigDict with every key that an experiment reads. Types are fixed by these defaults."""
    from ml_collections import ConfigDict

    c = ConfigDict()
    c.task = "language_model"
    c.seed = 0                              # the run's one key
    c.seeds = 3                             # targets of every arm, run together

    c.data = ConfigDict()
    c.data.source = "stdlib"                # stdlib | directory | tfds
    c.data.path = ""                        # directory: of *.txt files; tfds: its data_dir
    c.data.dataset = ""                     # tfds: the data set's name
    c.data.tokenizer = "bpe"                # bytes | bpe
    c.data.vocabulary = 1024                # tokens, for bpe
    c.data.context = 128                    # tokens a window
    c.data.share = 0.1                      # of the training documents: all that conversion and controls may use
    c.data.validation = 0.03                # of the bytes, by file
    c.data.test = 0.03                      # of the bytes, by file

    c.train = ConfigDict()
    c.train.batch = 8                       # windows
    c.train.weight_decay = 0.05
    c.train.clip = 1.0                      # global gradient norm
    c.train.chunk = 25                      # optimizer steps a compiled scan
    c.train.save_seconds = 120.0            # between checkpoints inside a phase

    c.guide = ConfigDict()
    c.guide.origin = "trained"              # trained (here, on all training documents) | untrained | file
    c.guide.weights = ""                    # file: GPT-2 weights as safetensors, Hugging Face names
    c.guide.width = 128
    c.guide.depth = 4                       # blocks
    c.guide.heads = 4
    c.guide.dropout = 0.0
    c.guide.steps = 3000
    c.guide.learning_rate = 3e-3

    c.target = ConfigDict()
    c.target.cell = "linear"                # elman | gru | lstm | linear
    c.target.block = "residual"             # plain | residual
    c.target.width = 128
    c.target.depth = 4                      # blocks
    c.target.hidden = 128                   # recurrent units a block
    c.target.expansion = 4                  # MLP width over width; 0: no MLP (residual blocks)
    c.target.adapter_rank = 64              # of the linear adapters, where guide and target widths differ

    c.convert = ConfigDict()
    c.convert.schedule = "sequential"       # progressive | sequential | independent | parallel | joint | stochastic | one_shot
    c.convert.mapping = "auto"              # auto | "guide_stage=target_stage, ..."
    c.convert.metric = "cka_debiased"       # any of similarity.METRICS that is differentiable
    c.convert.neighbours = 10               # k of the neighbour measures
    c.convert.metric_temperature = 0.02     # of D-MNN
    c.convert.samples = "tokens"            # tokens | sequences
    c.convert.steps = 400                   # optimizer steps in all; the controls get as many
    c.convert.align = 0.5                   # share of the steps for the alignment stages
    c.convert.task_weight = 0.0             # cross-entropy through the frozen guide suffix, in each stage
    c.convert.kl_weight = 0.0               # distillation through the frozen guide suffix, in each stage
    c.convert.finish_kl = 0.0               # share of distillation in fine-tuning
    c.convert.finish_align = 0.0            # weight of the distance over all seams in fine-tuning
    c.convert.inherit = ("embed", "ln_1", "ln_2", "mlp", "norm", "head")  # stages and submodules taken from the guide
    c.convert.train_inherited = "stage"     # stage: also during alignment | frozen: only in fine-tuning
    c.convert.stitch = "ridge"              # ridge | none
    c.convert.stop_every = 0                # steps between checks of a stage's held-out similarity; 0: no stopping
    c.convert.stop_gain = 0.002             # debiased CKA
    c.convert.stop_patience = 2             # checks
    c.convert.align_rate = 3e-3
    c.convert.finish_rate = 3e-3

    c.controls = ConfigDict()
    c.controls.names = ("from_scratch", "distilled", "one_shot", "one_shot_distilled")
    c.controls.equal_flops = True           # also run a control as long as the conversion's FLOPs last, if that is longer
    c.controls.kl = 0.5                     # share of distillation in the distilled controls
    c.controls.temperature = 2.0            # of distillation, here and in the conversion
    c.controls.scratch_rate = 3e-3
    c.controls.distilled_rate = 3e-3
    c.controls.one_shot_rate = 3e-3

    c.report = ConfigDict()
    c.report.prompt = "def "                # start of the generated samples
    c.report.sample_tokens = 96
    c.report.latency_repeats = 30
    return c


def preset(name: str | None, choices: dict[str, Any]) -> Any:
    """The config that preset `name` (None or "": the default) builds; raises UserError naming the presets."""
    key = name or "default"
    if key not in choices:
        raise UserError(f"there is no preset {key!r}; choose from {', '.join(choices)}")
    return choices[key]()
