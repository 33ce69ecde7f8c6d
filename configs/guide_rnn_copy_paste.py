"""DRAFT"""

from theseus_jax.config import base, preset


def default():
    c = base("sequences", "guide")
    c.data.kind, c.data.shortest, c.data.longest = "copy", 10, 20
    c.guide.arch, c.guide.width, c.guide.depth, c.guide.steps = "decoder", 64, 2, 3000
    c.target.arch, c.target.width, c.target.depth, c.target.hidden = "rnn", 64, 6, 128
    c.train.batch = 32
    c.guidance.steps, c.guidance.samples = 500, "tokens"
    c.search.rates, c.search.steps = (1e-4, 3e-4, 1e-3, 3e-3), 500
    return c


def smoke():
    c = default()
    c.data.shortest, c.data.longest, c.data.train, c.data.test = 2, 4, 64, 64
    c.guide.width, c.guide.steps, c.target.width = 16, 20, 16
    c.target.depth, c.target.hidden = 2, 16
    c.guidance.steps, c.search.steps, c.search.rates, c.seeds = 20, 10, (1e-3, 3e-3), 2
    c.train.chunk, c.train.watch, c.report.latency_repeats = 10, 10, 3
    return c


def paper():
    c = default()
    c.data.shortest, c.data.longest, c.train.batch = 20, 40, 256
    c.guide.width, c.guide.depth, c.guide.heads, c.guide.steps = 512, 4, 16, 50000
    c.target.width, c.target.depth, c.target.hidden = 256, 4, 512
    c.guidance.steps, c.guidance.reduction = 50000, "sum"
    c.search.rates, c.search.steps = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), 5000
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
