"""Does the architecture alone carry something over? An untrained GPT-2 guides a gated linear RNN,
then the task is learnt.

Claim tested: aligning to an untrained guide before training beats training from scratch at equal
steps and data. Nothing is inherited and nothing distilled, since the guide knows nothing; the
guide's own score is its initial one.

    python launch/run.py --config=configs/untrained_gpt2_to_rnn.py

2 CPU cores: about 4 minutes. Measured (Python 3.11, 3 seeds,
benchmarks/untrained_gpt2_to_rnn.json): the claim FAILS, 4.048 against 4.016 nats per token with a
standard error of 0.022 on the difference.
"""

from theseus_jax.config import base, preset


def default():
    c = base()
    c.guide.origin = "untrained"
    c.data.share = 0.5
    c.convert.schedule = "progressive"
    c.convert.metric = "cka_debiased"
    c.convert.steps, c.convert.align = 500, 0.2
    c.convert.inherit, c.convert.stitch = (), "none"
    c.convert.finish_kl = c.convert.finish_align = 0.0
    c.controls.names = ("from_scratch",)
    return c


def smoke():
    c = default()
    c.data.tokenizer, c.data.context, c.data.share = "bytes", 32, 0.02
    c.data.validation = c.data.test = 0.006
    c.guide.width, c.guide.depth, c.guide.heads = 32, 2, 2
    c.target.width, c.target.depth, c.target.hidden = 32, 2, 32
    c.convert.steps, c.train.chunk, c.seeds = 40, 10, 2
    c.report.latency_repeats, c.report.sample_tokens = 5, 16
    return c


def paper():
    c = default()
    c.data.source, c.data.path, c.data.context = "directory", "wikitext-103", 1024
    c.data.vocabulary, c.data.share = 50257, 1.0
    c.guide.width, c.guide.depth, c.guide.heads = 768, 12, 12
    c.target.width, c.target.depth, c.target.hidden = 768, 12, 768
    c.convert.steps, c.convert.align_rate, c.convert.finish_rate = 20000, 6e-4, 6e-4
    c.controls.rates.from_scratch = 6e-4
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
