"""DRAFT"""

from theseus_jax.config import base, preset


def default():
    c = base("sequences", "guide")
    c.data.kind, c.data.shortest, c.data.longest = "parity", 2, 50
    c.guide.arch, c.guide.width, c.guide.depth, c.guide.hidden = "rnn", 16, 1, 64
    c.guide.steps, c.guide.learning_rate = 3000, 3e-3
    c.target.arch, c.target.width, c.target.depth, c.target.heads = "encoder", 64, 2, 4
    c.arms = ("baseline", "guided_trained", "guided_untrained", "guided_shuffled", "distilled")
    c.guidance.steps, c.guidance.samples = 1000, "tokens"
    c.search.rates, c.search.steps = (3e-4, 1e-3, 3e-3), 300
    return c


def get_config(name=None):
    return preset(name, {"default": default})
