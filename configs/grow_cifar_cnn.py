"""Units grow or die in cycles in the dense layers of a small ConvNet on CIFAR-10 (JPEG).

Claim tested (arXiv 2605.15435): in a ConvNet newborn units get clearly less credit than incumbents,
more so than in an MLP (configs/grow_fashion_mlp.py), and growth leads pruning at the last cycle and
not as a ticket.

    python launch/run.py --config=configs/grow_cifar_cnn.py --config.data.path=cifar10_jpeg.npz

Measured (10 seeds; docs/plasticity.md): growth leads pruning at the last cycle (35.0 against 27.2),
not as a ticket (42.8, 43.1), nor against pruning without rewind (45.7); credit falls short at the
end alone. data.path is the .npz of CIFAR-10 as JPEG that data/archives.py
describes. `smoke` reads scikit-learn's digits.
"""

from theseus_jax.config import base, preset


def default():
    c = base("classification", "plasticity")
    c.data.source, c.data.path = "cifar10", "cifar10_jpeg.npz"
    c.data.train, c.data.validation, c.data.test = 10000, 2000, 5000
    c.data.mean, c.data.deviation = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
    c.target.arch, c.target.width, c.target.norm, c.target.start = "cnn", 8, "none", "he_uniform"
    c.plasticity.sites = "block_1/units, block_2/units, block_3/units"
    c.plasticity.steps, c.plasticity.ticket_steps, c.plasticity.speed_steps = 150, 750, 75
    c.train.momentum, c.train.batch, c.search.rates, c.search.seeds = 0.9, 32, (3e-3, 1e-2, 3e-2), 1
    c.arms = ("dense", "prune", "prune_no_rewind", "grow", "grow_two_speed")
    c.arms += ("grow_moment_transplant", "grow_gradmax", "grow_variance_matched")
    c.arms += ("grow_smooth_leaky", "prune_ticket", "grow_ticket")
    return c


def smoke():
    c = default()
    c.data.source, c.data.path = "digits", ""
    c.data.train, c.data.validation, c.data.test = 200, 60, 60
    c.data.mean, c.data.deviation = (127.5,), (127.5,)
    c.target.width, c.plasticity.steps, c.plasticity.ticket_steps = 2, 6, 12
    c.plasticity.cycles, c.search.rates, c.seeds = 2, (3e-3, 1e-2), 2
    c.train.batch, c.train.chunk, c.report.latency_repeats = 32, 6, 3
    return c


def paper():
    """Five cycles of 40 epochs of all pictures, tickets of 200: one GPU; CIFAR-10 in place of
    CIFAR-100.
    """
    c = default()
    c.data.train = c.data.test = 0
    c.target.width, c.train.batch, c.train.schedule, c.train.momentum = 32, 128, "cosine", 0.0
    c.plasticity.steps, c.plasticity.ticket_steps, c.plasticity.speed_steps = 14080, 70400, 1955
    c.search.rates = (1e-4, 1e-3, 1e-2, 1e-1)
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
