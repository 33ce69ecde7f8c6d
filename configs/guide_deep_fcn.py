"""A plain 50-layer MLP fails alone; it trains beside a ResNet-18, trained or not, and beside noise.

Claim tested (arXiv 2410.20035, "Deep FCN"): the target trained with a layer-wise alignment to a
guide beats the same target alone (holds, trained guide and untrained), and beats the control that
is aligned with the guide's activations of OTHER pictures (undecided for the trained guide, whose
lead is 13.5 +- 17.5 points; the untrained one is behind it). That control helps as well, so most
of the gain is a term that keeps 50 layers from collapsing, not what the guide knows.

    python launch/run.py --config=configs/guide_deep_fcn.py

2 CPU cores: 7 minutes, 5 seeds; test accuracy 60.3 +- 1.1 % (trained guide), 46.8 +- 7.2 (other
pictures), 35.2 +- 4.7 (untrained guide), 44.3 +- 4.0 (batch norm, no guide), 10.0 = chance (alone;
distilled), 86.8 (the guide). Rates from 3e-4 to 3e-2, three seeds a trial, all 300 steps: alone,
one trial of fifteen escapes (66 %, rate 3e-3) and no seed of the table does. Whether a seed escapes
is chaotic: the same arms, but for rounding and for rates chosen after 150 steps of one seed, gave
the control 59.2 +- 3.1 and the untrained guide 25.0 +- 6.8 (benchmarks/guide_deep_fcn_never.json).
Needs Debian's dataset-fashion-mnist, or its four files in data.path. `smoke` reads scikit-learn's
digits. `paper`: ImageNet through TFDS, one GPU; untuned.
"""

from theseus_jax.config import base, preset


def default():
    c = base("classification", "guide")
    c.data.source, c.data.train, c.data.validation = "fashion_mnist", 10000, 2000
    c.guide.arch, c.guide.width, c.guide.steps = "resnet18", 8, 600
    c.target.arch, c.target.width, c.target.depth, c.target.norm = "mlp", 128, 50, "none"
    c.guidance.steps, c.guidance.metric, c.guidance.samples = 300, "cka_debiased", "pooled"
    c.search.rates, c.search.seeds, c.search.steps = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), 3, 300
    return c


def smoke():
    c = default()
    c.data.source, c.data.train, c.data.validation, c.data.test = "digits", 200, 60, 60
    c.guide.width, c.guide.steps, c.target.width, c.target.depth = 4, 20, 16, 8
    c.guidance.steps, c.search.steps, c.search.rates, c.seeds = 20, 10, (1e-3, 3e-3), 2
    c.search.seeds = 1
    c.train.batch, c.train.chunk, c.train.watch, c.report.latency_repeats = 32, 10, 10, 3
    return c


def paper():
    c = default()
    c.data.source, c.data.dataset, c.data.size, c.data.classes = "tfds", "imagenet2012", 224, 1000
    c.data.train = c.data.validation = 0
    c.data.mean, c.data.deviation = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    c.guide.width, c.guide.stem, c.guide.steps, c.train.batch = 64, "imagenet", 450000, 256
    c.target.width, c.target.depth, c.target.norm, c.target.dropout = 1024, 49, "batch", 0.1
    c.arms = ("baseline", "guided_trained", "guided_untrained", "guided_shuffled", "distilled")
    c.guidance.steps, c.search.steps, c.guidance.reduction = 450000, 45000, "sum"
    c.search.seeds = 1
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
