"""DRAFT"""

from theseus_jax.config import base, preset


def default():
    c = base("sequences", "guide")
    c.data.kind, c.data.shortest, c.data.longest = "copy", 10, 20
    c.guide.arch, c.guide.width, c.guide.depth, c.guide.steps = "decoder", 64, 3, 2000
    c.target.arch, c.target.width, c.target.depth, c.target.hidden = "rnn", 64, 3, 128
    c.guidance.steps, c.guidance.samples = 1000, "tokens"
    c.search.rates, c.search.steps = (3e-4, 1e-3, 3e-3), 300
    return c


def get_config(name=None):
    return preset(name, {"default": default})
