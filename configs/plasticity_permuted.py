"""Forty tasks of permuted pictures, one after the other: does a network go on learning?

Claim tested: over a stream whose inputs are permuted anew in each task, growing or pruning units
keeps an MLP learning where the same network trained on loses pace, beside ReDo, continual backprop,
shrink and perturb, L2 to the start and layer norm, at equal steps and with the same search.

    python launch/run.py --config=configs/plasticity_permuted.py

Measured (10 seeds, mean over tasks; docs/plasticity.md): running input normalisation 72.9 % against
70.4 of the network trained on, layer norm 70.8, pruned 66.7, grown 66.4: pruning and growth lose.
Needs Debian's dataset-fashion-mnist, or its four files in data.path.
`smoke` reads scikit-learn's digits. `paper`: 500 tasks of 10,000 pictures of MNIST through TFDS,
one GPU; untuned.
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


def paper():
    c = default()
    c.data.source, c.data.dataset, c.data.size, c.data.channels = "tfds", "mnist", 28, 1
    c.data.classes, c.data.validation, c.data.test = 10, 0, 0
    c.stream.tasks, c.stream.count, c.stream.steps = 500, 10000, 625
    c.target.width, c.search.rates = 256, (1e-4, 1e-3, 1e-2, 1e-1)
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
