"""GLAI against every honest rival on scikit-learn's 8x8 digits: no backbone, nothing to download.

Claim tested: a short-trained reduced MLP's gates, frozen, and a linear estimator over its paths
score at least as well as the MLP, sooner, with no more parameters; the rivals get the same search,
and Adam too.

    python launch/run.py --config=configs/glai_digits.py

2 CPU cores: 1.5 minutes, 5 seeds; expected numbers are in benchmarks/README.md. Published settings
this stands in for: none (a small embedded task); batch 16 and rho 0.5 are the paper's (arXiv
2510.00883), the MLP's 256 units ours.
"""

from theseus_jax.config import base, preset


def default():
    return base("head")


def smoke():
    c = default()
    c.data.train, c.data.validation, c.data.test = 192, 64, 64
    c.head.hidden, c.seeds = (32,), 2
    c.train.epochs, c.train.patience, c.search.epochs, c.glai.selector_epochs = 6, 3, 3, 4
    c.search.adam_rates, c.search.sgd_rates, c.search.decays = (3e-3,), (3e-2,), (1e-3,)
    c.search.penalties = (1e-3, 1e-1)
    c.report.latency_repeats, c.search.seeds = 5, 1
    return c


def paper():
    c = default()
    c.train.epochs, c.train.patience, c.seeds = 300, 5, 5
    c.glai.selector, c.glai.selector_epochs = "epochs", 12
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
