"""A plain 4-layer tanh RNN learns token frequencies alone, and more beside a Transformer.

Claim tested (arXiv 2410.20035, "RNN <- Transformer, LM": perplexity 69.19 alone, 40.01 guided,
59.61 by an untrained guide): a language model that fails is trained by a layer-wise alignment to a
guide (holds), and the guide's knowledge is what helps: its activations of OTHER windows help little
(holds), an untrained guide not at all. Skips and norms, or gates, help the target far more (holds).

    python launch/run.py --config=configs/guide_rnn_lm.py

Nats per token on the standard library's source, 400 steps, four rates searched, 5 seeds: 5.91 +-
0.02 (alone), 4.88 +- 0.06 (trained guide), 5.95 +- 0.01 (untrained), 5.77 +- 0.04 (other windows),
5.98 (distilled), 4.11 (with skips and norms, no guide), 4.55 +- 0.02 (GRU), 3.87 (the guide).
2 CPU cores: 24 minutes beside three other runs. `paper`: WikiText-103 as text files, untuned.
"""

from theseus_jax.config import base, preset


def default():
    c = base("language_model", "guide")
    c.data.context, c.data.vocabulary = 64, 1024
    c.guide.width, c.guide.depth, c.guide.heads, c.guide.steps = 96, 4, 4, 1200
    c.guide.learning_rate = 2e-3
    c.target.cell, c.target.block, c.target.expansion = "elman", "plain", 0
    c.target.width, c.target.depth, c.target.hidden = 96, 4, 128
    c.arms = (*c.arms, "baseline_residual", "baseline_gated")
    c.train.batch, c.train.clip = 16, 0.25
    c.guidance.steps, c.guidance.samples = 400, "tokens"
    c.search.rates, c.search.steps = (3e-4, 1e-3, 3e-3, 1e-2), 200
    return c


def smoke():
    c = default()
    c.data.tokenizer, c.data.context, c.guide.width, c.guide.depth = "bytes", 16, 16, 2
    c.guide.steps, c.target.width, c.target.depth, c.target.hidden = 20, 16, 2, 16
    c.data.validation = c.data.test = 0.006
    c.guidance.steps, c.search.steps, c.search.rates, c.seeds = 20, 10, (1e-3, 3e-3), 2
    c.train.chunk, c.train.watch, c.report.latency_repeats = 10, 10, 3
    c.report.sample_tokens = 8
    return c


def paper():
    c = default()
    c.data.source, c.data.path, c.data.context = "directory", "wikitext-103", 256
    c.data.vocabulary = 32768
    c.guide.width, c.guide.depth, c.guide.heads, c.guide.steps = 512, 4, 16, 100000
    c.target.width, c.target.depth, c.target.hidden = 512, 4, 512
    c.guidance.steps, c.guidance.reduction, c.train.batch = 100000, "sum", 256
    c.search.rates, c.search.steps = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), 10000
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
