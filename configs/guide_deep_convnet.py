"""DRAFT"""

from theseus_jax.config import base, preset


def default():
    c = base("classification", "guide")
    c.data.source, c.data.train, c.data.validation = "fashion_mnist", 5000, 1000
    c.guide.arch, c.guide.width, c.guide.stem, c.guide.steps = "resnet50", 8, "imagenet", 600
    c.target.arch, c.target.width, c.target.stem = "plain50", 8, "imagenet"
    c.arms = (*c.arms[:5], "baseline_residual")
    c.train.batch = 64
    c.guidance.steps, c.guidance.samples = 200, "pooled"
    c.search.rates, c.search.seeds, c.search.steps = (1e-4, 1e-3, 1e-2), 1, 100
    return c


def get_config(name=None):
    return preset(name, {"default": default})
