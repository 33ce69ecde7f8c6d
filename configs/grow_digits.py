"""Units grow or die in cycles in a small MLP on handwritten digits; nothing to download.

Claim tested (arXiv 2605.15435): growing leads pruning while units are edited, and the lead is gone
when the final mask is retrained (undecided, +0.8 +- 0.8 points, and gone). It is the rewind that
pruning pays for: pruned without it, the same network is level with growth. Newborn units get less
credit than incumbents right after birth (holds); no intervention makes growth better.

    python launch/run.py --config=configs/grow_digits.py

2 CPU cores: 1 minute, 10 seeds, 100 of 256 units a layer at the end; test accuracy 97.4 +- 0.5
(grow), 96.6 +- 0.6 (prune), 97.8 +- 0.6 (prune without rewind), 98.2 +- 0.3 (dense); tickets 97.7
+- 0.4 and 97.5 +- 0.3; 95 % over seeds. `paper`: MNIST through TFDS.
"""

from theseus_jax.config import base, preset


def default():
    c = base("classification", "plasticity")
    c.target.arch, c.target.width, c.target.depth, c.target.norm = "mlp", 256, 2, "none"
    c.target.start = "he_uniform"
    c.train.momentum, c.train.batch = 0.9, 64
    c.plasticity.steps, c.plasticity.ticket_steps = 100, 500
    return c


def smoke():
    c = default()
    c.data.train, c.data.validation, c.data.test = 200, 60, 60
    c.target.width, c.plasticity.steps, c.plasticity.ticket_steps = 20, 6, 12
    c.plasticity.cycles, c.search.rates, c.seeds = 2, (3e-3, 1e-2), 2
    c.train.batch, c.train.chunk, c.report.latency_repeats = 32, 6, 3
    return c


def paper():
    """MNIST through TFDS, five cycles of 20 epochs, tickets of 100."""
    c = default()
    c.data.source, c.data.dataset, c.data.size, c.data.channels = "tfds", "mnist", 28, 1
    c.data.classes, c.train.momentum, c.search.rates = 10, 0.0, (1e-4, 1e-3, 1e-2, 1e-1)
    c.plasticity.steps, c.plasticity.ticket_steps = 18750, 93750
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
