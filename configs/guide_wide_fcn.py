"""DRAFT"""

from theseus_jax.config import base, preset


def default():
    c = base("classification", "guide")
    c.data.source, c.data.train, c.data.validation = "fashion_mnist", 2000, 1000
    c.guide.arch, c.guide.width, c.guide.steps = "resnet18", 8, 400
    c.target.arch, c.target.width, c.target.depth, c.target.norm = "mlp", 512, 3, "batch"
    c.arms = (*c.arms[:5], "baseline_residual")
    c.train.batch = 128
    c.guidance.steps, c.guidance.samples = 300, "pooled"
    c.search.rates, c.search.seeds, c.search.steps = (1e-4, 1e-3, 1e-2), 1, 150
    return c


def get_config(name=None):
    return preset(name, {"default": default})
