"""Units grow or die in cycles in an MLP on Fashion-MNIST, down to a fifth of its weights.

Claim tested (arXiv 2605.15435): growing leads pruning while units are edited (holds, +2.0 +- 0.9
points), and the lead is gone when the final mask is retrained (so it is: -0.2 +- 0.6). But pruning
is rewound in every cycle and growth is not: without the rewind pruning leads (by 0.7 +- 0.7).
Newborn units have parity of credit at birth and lose it within a cycle (log ratio +0.24, then
-1.16). Net2Wider and Smooth-Leaky move parity; Net2Wider alone moves accuracy, by 0.4 points.

    python launch/run.py --config=configs/grow_fashion_mlp.py

2 CPU cores: 4 minutes, 10 seeds; test accuracy 83.1 +- 0.4 (grow), 81.1 +- 0.8 (prune), 83.8 +-
0.7 (prune without rewind), 84.3 +- 0.7 (dense); tickets 83.7 +- 0.6 and 83.9 +- 0.5; 95 % over
seeds. Needs Debian's dataset-fashion-mnist, or its four files in data.path. `paper`: all pictures,
cycles of 20 epochs.
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
