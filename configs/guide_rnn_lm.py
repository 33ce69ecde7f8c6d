"""DRAFT"""

from theseus_jax.config import base, preset


def default():
    c = base("language_model", "guide")
    c.data.context, c.data.vocabulary = 64, 1024
    c.guide.width, c.guide.depth, c.guide.heads, c.guide.steps = 96, 4, 4, 1200
    c.guide.learning_rate = 2e-3
    c.target.cell, c.target.block, c.target.expansion = "elman", "plain", 0
    c.target.width, c.target.depth, c.target.hidden = 96, 4, 128
    c.train.batch, c.train.clip = 16, 0.25
    c.guidance.steps, c.guidance.samples = 400, "tokens"
    c.search.rates, c.search.steps = (3e-4, 1e-3, 3e-3, 1e-2), 200
    return c


def smoke():
    c = default()
    c.data.tokenizer, c.data.context, c.guide.width, c.guide.depth = "bytes", 16, 16, 2
    c.guide.steps, c.target.width, c.target.depth, c.target.hidden = 20, 16, 2, 16
    c.data.validation = c.data.test = 0.02
    c.guidance.steps, c.search.steps, c.search.rates, c.seeds = 20, 10, (1e-3, 3e-3), 2
    c.train.chunk, c.train.watch, c.report.latency_repeats = 10, 10, 3
    c.report.sample_tokens = 8
    return c


def paper():
    c = default()
    c.data.source, c.data.dataset, c.data.context = "tfds", "wikitext103", 256
    c.data.vocabulary = 32768
    c.guide.width, c.guide.depth, c.guide.heads, c.guide.steps = 512, 4, 16, 100000
    c.target.width, c.target.depth, c.target.hidden = 512, 4, 512
    c.guidance.steps, c.guidance.reduction, c.train.batch = 100000, "sum", 256
    c.search.rates, c.search.steps = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), 10000
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
