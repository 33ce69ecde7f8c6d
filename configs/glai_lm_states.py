"""Projection heads under InfoNCE on the hidden states of our own GPT: the stand-in for B2 (GPT-2 on
WikiText-2).

Claim tested: as in glai_cifar10_infonce, on language states. The GPT is the guide of a finished
language run, read from its checkpoint; every 8th position of its corpus is a state.

    python launch/run.py --config=configs/gpt2_to_rnn.py
    python launch/run.py --config=configs/glai_lm_states.py

`smoke` reads runs/gpt2_to_rnn-smoke. `paper`: B2 of arXiv 2510.00883, 768 units, 128 outputs,
dropout 0.4, on a GPT of width 768 (data.width, data.path).
"""

from theseus_jax.config import base, preset

ARMS = (
    "mlp_sgd",
    "mlp_adam",
    "mlp_reduced",
    "low_rank",
    "linear_sgd",
    "linear_adam",
    "glai_joint",
    "glai_untrained",
)


def default():
    c = base("head")
    c.arms = ARMS
    c.data.source, c.data.path, c.data.width = "lm_states", "runs/gpt2_to_rnn", 128
    c.data.train, c.data.validation, c.data.test = 10000, 2000, 2000
    c.head.loss, c.head.outputs, c.head.hidden, c.head.dropout = "infonce", 64, (128,), 0.4
    c.train.batch = 128
    c.train.epochs, c.train.patience, c.search.epochs, c.search.seeds = 20, 4, 20, 1
    c.search.adam_rates, c.search.sgd_rates = (3e-4, 1e-3, 3e-3, 1e-2), (3e-2, 1e-1, 3e-1, 1.0)
    c.search.decays = (1e-2,)
    c.glai.selector_epochs = 8
    return c


def smoke():
    c = default()
    c.data.path, c.data.width = "runs/gpt2_to_rnn-smoke", 32
    c.data.train, c.data.validation, c.data.test = 512, 128, 128
    c.head.outputs, c.head.hidden, c.train.batch, c.seeds = 8, (16,), 32, 2
    c.train.epochs, c.search.epochs, c.glai.selector_epochs = 3, 2, 2
    c.search.adam_rates, c.search.sgd_rates, c.search.decays = (1e-3,), (3e-3,), (1e-3,)
    return c


def paper():
    c = default()
    c.data.width, c.data.train = 768, 200000
    c.head.outputs, c.head.hidden, c.train.batch, c.train.epochs = 128, (768,), 16, 100
    c.glai.selector, c.glai.selector_epochs = "epochs", 1
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
