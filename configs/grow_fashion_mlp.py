"""Units grow or die in cycles in an MLP on Fashion-MNIST, as in arXiv 2605.15435.

python launch/run.py --config=configs/grow_fashion_mlp.py
"""

from theseus_jax.config import base, preset


def default():
    c = base("classification", "plasticity")
    c.data.source, c.data.train, c.data.validation = "fashion_mnist", 10000, 2000
    c.target.arch, c.target.width, c.target.depth, c.target.norm = "mlp", 256, 2, "none"
    c.target.start = "he_uniform"
    c.train.momentum, c.train.batch = 0.9, 64
    c.plasticity.steps, c.plasticity.ticket_steps = 300, 1500
    return c


def smoke():
    c = default()
    c.data.source, c.data.train, c.data.validation, c.data.test = "digits", 200, 60, 60
    c.target.width, c.plasticity.steps, c.plasticity.ticket_steps = 20, 6, 12
    c.plasticity.cycles, c.search.rates, c.seeds = 2, (3e-3, 1e-2), 2
    c.train.batch, c.train.chunk, c.report.latency_repeats = 32, 6, 3
    return c


def paper():
    c = default()
    c.data.train, c.plasticity.steps, c.plasticity.ticket_steps = 0, 18750, 93750
    c.train.momentum, c.search.rates = 0.0, (1e-4, 1e-3, 1e-2, 1e-1)
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
