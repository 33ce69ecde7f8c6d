"""A stream of permuted pictures.

python launch/run.py --config=configs/plasticity_permuted.py
"""

from theseus_jax.config import base, preset


def default():
    c = base("stream", "plasticity")
    c.data.source, c.data.train, c.data.validation, c.data.test = "fashion_mnist", 0, 1000, 2000
    c.stream.kind, c.stream.tasks, c.stream.count, c.stream.steps = "permuted", 40, 1600, 100
    c.target.arch, c.target.width, c.target.depth, c.target.norm = "mlp", 100, 2, "none"
    c.target.start, c.train.chunk, c.search.seeds = "he_uniform", 50, 1
    c.plasticity.maturity, c.plasticity.interval, c.plasticity.rate = 100, 50, 1e-3
    return c


def smoke():
    c = default()
    c.data.source, c.data.train, c.data.validation, c.data.test = "digits", 200, 60, 60
    c.target.width, c.stream.tasks, c.stream.steps, c.stream.count = 20, 3, 6, 60
    c.plasticity.doctor, c.plasticity.interval, c.plasticity.speed_steps = 6, 6, 6
    c.search.rates, c.seeds, c.train.chunk, c.report.latency_repeats = (3e-3, 1e-2), 2, 6, 3
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke})
