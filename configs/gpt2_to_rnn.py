"""GPT-2 -> gated linear RNN, part by part (draft numbers, see below)."""
from theseus_jax.config import base, preset


def default():
    return base()


def smoke():
    c = base()
    c.data.tokenizer, c.data.context, c.data.share = "bytes", 32, 0.02
    c.data.validation = c.data.test = 0.03
    c.guide.width, c.guide.depth, c.guide.heads, c.guide.steps = 32, 2, 2, 60
    c.target.width, c.target.depth, c.target.hidden = 32, 2, 32
    c.convert.steps, c.train.chunk, c.seeds = 40, 10, 2
    c.report.latency_repeats, c.report.sample_tokens = 5, 16
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke})
