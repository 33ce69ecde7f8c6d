"""DRAFT"""

from theseus_jax.config import base, preset


def default():
    c = base("language_model", "guide")
    c.data.context, c.data.vocabulary = 64, 1024
    c.guide.width, c.guide.depth, c.guide.heads, c.guide.steps = 96, 4, 4, 2000
    c.target.cell, c.target.block = "elman", "plain"
    c.target.width, c.target.depth, c.target.hidden = 96, 4, 128
    c.train.batch, c.train.clip = 16, 0.25
    c.guidance.steps, c.guidance.samples = 600, "tokens"
    c.search.rates, c.search.steps = (3e-4, 1e-3, 3e-3), 200
    return c


def get_config(name=None):
    return preset(name, {"default": default})
