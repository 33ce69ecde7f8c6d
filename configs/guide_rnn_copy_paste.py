"""A 6-layer tanh RNN copies 10 to 20 symbols better beside a Transformer, more so an untrained one.

Claim tested (arXiv 2410.20035, "RNN <- Transformer, copy-paste": 14.35 % alone, which is chance,
23.27 beside a trained guide, 42.56 beside an untrained one): on the task with the published
generator's faults mended, both guides help beyond the target alone (holds); the untrained one also
beyond the trained guide's activations of OTHER sequences (holds), the trained one not (undecided).
Gates help the target far more than any guide (holds).

    python launch/run.py --config=configs/guide_rnn_copy_paste.py

Accuracy at the blanks, 500 steps, four rates searched over as many, 5 seeds: 31.3 +- 0.2 % (alone),
35.0 +- 0.8 (trained guide), 38.6 +- 0.5 (untrained), 32.6 +- 0.9 (other sequences), 31.2 +- 0.1
(distilled), 48.8 +- 0.4 (GRU), 10.7 +- 0.7 (skips and norms: at chance), 96.9 (the
guide); 10.3 is chance. A search of 200 steps chooses rates at which the trained guide does not help
(31.2). `data.form="published"` draws copies as published. `paper`: untuned.
"""

from theseus_jax.config import base, preset


def default():
    c = base("sequences", "guide")
    c.data.kind, c.data.shortest, c.data.longest = "copy", 10, 20
    c.guide.arch, c.guide.width, c.guide.depth, c.guide.steps = "decoder", 64, 2, 3000
    c.target.arch, c.target.width, c.target.depth, c.target.hidden = "rnn", 64, 6, 128
    c.train.batch = 32
    c.guidance.steps, c.guidance.samples = 500, "tokens"
    c.search.rates, c.search.steps = (1e-4, 3e-4, 1e-3, 3e-3), 500
    return c


def smoke():
    c = default()
    c.data.shortest, c.data.longest, c.data.train, c.data.test = 2, 4, 64, 64
    c.guide.width, c.guide.steps, c.target.width = 16, 20, 16
    c.target.depth, c.target.hidden = 2, 16
    c.guidance.steps, c.search.steps, c.search.rates, c.seeds = 20, 10, (1e-3, 3e-3), 2
    c.train.chunk, c.train.watch, c.report.latency_repeats = 10, 10, 3
    return c


def paper():
    c = default()
    c.data.shortest, c.data.longest, c.train.batch = 20, 40, 256
    c.guide.width, c.guide.depth, c.guide.heads, c.guide.steps = 512, 4, 16, 50000
    c.target.width, c.target.depth, c.target.hidden = 256, 4, 512
    c.guidance.steps, c.guidance.reduction = 50000, "sum"
    c.search.rates, c.search.steps = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), 5000
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
