"""A plain ConvNet of ResNet-50's depth trains badly, and beside a ResNet-50 not decidedly better.

Claim tested (arXiv 2410.20035, "Deep ConvNet": top-5 70.02 alone, 78.91 guided): a target that
trains badly for want of skips is better with a layer-wise alignment to the network that has them
(undecided: +5.9 +- 27.7 points). Skips are what it lacks (holds).

    python launch/run.py --config=configs/guide_deep_convnet.py

2 CPU cores, 14 minutes beside other runs, 300 steps, four rates searched (all chose the largest,
1e-2), 5 seeds; test accuracy: 42.9 +- 7.1 % (alone), 48.8 +- 6.2 (trained guide), 35.5 +- 5.0
(untrained), 40.8 +- 4.0 (other pictures), 47.0 +- 3.8 (distilled), 81.7 +- 0.3 (skips), 82.3 (the
guide).
Needs Debian's dataset-fashion-mnist, or its four files in data.path. `smoke` reads scikit-learn's
digits. `paper`: ImageNet through TFDS, one GPU; untuned.
"""

from theseus_jax.config import base, preset


def default():
    c = base("classification", "guide")
    c.data.source, c.data.train, c.data.validation = "fashion_mnist", 10000, 1000
    c.arms = ("baseline", "guided_trained", "guided_untrained", "guided_shuffled", "distilled")
    c.arms = (*c.arms, "baseline_residual")
    c.guide.arch, c.guide.width, c.guide.stem, c.guide.steps = "resnet50", 8, "imagenet", 600
    c.target.arch, c.target.width, c.target.stem = "plain50", 8, "imagenet"
    c.train.batch = 64
    c.guidance.steps, c.guidance.samples = 300, "pooled"
    c.search.rates, c.search.seeds, c.search.steps = (3e-4, 1e-3, 3e-3, 1e-2), 1, 100
    return c


def smoke():
    c = default()
    c.data.source, c.data.train, c.data.validation, c.data.test = "digits", 120, 60, 60
    c.guide.arch, c.guide.width, c.guide.stem, c.guide.steps = "resnet18", 4, "cifar", 10
    c.target.arch, c.target.width, c.target.stem = "plain18", 4, "cifar"
    c.arms = ("baseline", "guided_trained", "baseline_residual")
    c.guidance.steps, c.search.steps, c.search.rates, c.seeds = 10, 5, (1e-3, 3e-3), 2
    c.train.batch, c.train.chunk, c.train.watch, c.report.latency_repeats = 32, 5, 5, 3
    return c


def paper():
    c = default()
    c.data.source, c.data.dataset, c.data.size, c.data.classes = "tfds", "imagenet2012", 224, 1000
    c.data.train = c.data.validation = 0
    c.data.mean, c.data.deviation = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    c.guide.width = c.target.width = 64
    c.guide.steps, c.guidance.steps, c.search.steps = 450000, 450000, 45000
    c.train.batch, c.guidance.reduction = 256, "sum"
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
