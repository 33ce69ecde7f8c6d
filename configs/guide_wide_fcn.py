"""A wide MLP overfits 2,000 pictures; a ResNet-18 beside it, trained or not, makes it worse.

Claim tested (arXiv 2410.20035, "Wide FCN": top-5 34.09 alone, 43.01 guided): a network that
overfits generalises better with a layer-wise alignment to a convolutional guide (fails).

    python launch/run.py --config=configs/guide_wide_fcn.py

2 CPU cores, 4 minutes beside other runs, 300 steps, three rates searched, 5 seeds; test accuracy:
83.2 +- 0.1 % (alone), 82.9 +- 0.1 (trained guide), 82.4 +- 0.1 (untrained), 83.1 +- 0.1 (other
pictures), 83.4 +- 0.1 (distilled), 83.0 +- 0.1 (skips), 80.8 (the guide, which is no better here:
2,000 pictures). Training loss ends at 0.002. The trained guide lowers the test loss, 0.70 against
0.75 nats.
Needs Debian's dataset-fashion-mnist, or its four files in data.path. `smoke` reads scikit-learn's
digits. `paper`: ImageNet through TFDS, one GPU; untuned.
"""

from theseus_jax.config import base, preset

# nine stages of the guide, three to one
PAIRS = """stem = stem, block_1 = stem, block_2 = stem, block_3 = block_1, block_4 = block_1,
block_5 = block_1, block_6 = block_2, block_7 = block_2, block_8 = block_2"""


def default():
    c = base("classification", "guide")
    c.data.source, c.data.train, c.data.validation = "fashion_mnist", 2000, 1000
    c.arms = ("baseline", "guided_trained", "guided_untrained", "guided_shuffled", "distilled")
    c.arms = (*c.arms, "baseline_residual")
    c.guide.arch, c.guide.width, c.guide.steps = "resnet18", 8, 400
    c.target.arch, c.target.width, c.target.depth, c.target.norm = "mlp", 512, 3, "batch"
    c.guidance.steps, c.guidance.samples, c.guidance.pairs = 300, "pooled", PAIRS
    c.search.rates, c.search.seeds, c.search.steps = (1e-4, 1e-3, 1e-2), 1, 150
    return c


def smoke():
    c = default()
    c.data.source, c.data.train, c.data.validation, c.data.test = "digits", 200, 60, 60
    c.guide.width, c.guide.steps, c.target.width = 4, 20, 32
    c.guidance.steps, c.search.steps, c.search.rates, c.seeds = 20, 10, (1e-3, 3e-3), 2
    c.train.batch, c.train.chunk, c.train.watch, c.report.latency_repeats = 32, 10, 10, 3
    return c


def paper():
    c = default()
    c.data.source, c.data.dataset, c.data.size, c.data.classes = "tfds", "imagenet2012", 224, 1000
    c.data.train = c.data.validation = 0
    c.data.mean, c.data.deviation = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    c.guide.width, c.guide.stem, c.guide.steps, c.train.batch = 64, "imagenet", 450000, 256
    c.target.width, c.guidance.steps, c.search.steps = 8192, 450000, 45000
    c.guidance.reduction = "sum"
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
