"""Does a ResNet-18 that was never trained help an MLP? Its architecture alone guides, on
Fashion-MNIST, with 5,000 labels.

Claim tested: aligned first with an untrained guide (batch norm calibrated), the MLP beats training
from scratch, over 5 seeds. It does not: 84.9 +- 0.2 against 84.9 +- 0.1 %, with a lower loss (0.53
against 0.66 nats), which may be its fewer steps on labels: from scratch has 0.46 after 200.

    python launch/run.py --config=configs/untrained_resnet18_to_mlp.py

2 CPU cores: 3 minutes. `paper`: ImageNet through TFDS, one GPU, untuned.
"""

from theseus_jax.config import base, preset


def default():
    c = base("classification")
    c.data.source, c.data.share, c.seeds = "fashion_mnist", 5000, 5
    c.guide.arch, c.guide.width, c.guide.origin = "resnet18", 8, "untrained"
    c.guide.mode = "calibrated"
    c.target.arch, c.target.width, c.target.depth, c.target.norm = "mlp", 512, 4, "layer"
    c.convert.steps, c.convert.align, c.convert.schedule = 600, 0.3, "joint"
    c.convert.metric = "cka_debiased"
    c.convert.align_rate = c.convert.finish_rate = 1e-3
    c.convert.stitch, c.train.remember = "none", True
    c.controls.names, c.controls.rates.from_scratch = ("from_scratch",), 1e-3
    c.controls.equal_flops = True
    return c


def smoke():
    c = default()
    c.data.source, c.data.share, c.guide.width = "digits", 200, 4
    c.target.width, c.target.depth, c.convert.align = 32, 3, 0.3
    c.convert.steps, c.train.chunk, c.train.batch, c.seeds = 20, 5, 16, 1
    c.report.latency_repeats = 3
    return c


def paper():
    c = default()
    c.data.source, c.data.dataset, c.data.size, c.data.classes = "tfds", "imagenet2012", 224, 1000
    c.data.share = 0
    c.data.mean, c.data.deviation = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    c.train.batch, c.train.remember, c.guide.width, c.guide.stem = 256, False, 64, "imagenet"
    c.target.width, c.target.depth, c.convert.steps = 2048, 9, 50000
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
