"""A trained GPT-2 becomes a gated linear RNN, part by part, on real text: the source of Python's
standard library.

Claim tested: with a guide that saw the whole corpus and a conversion that may use a twentieth of
it, converting beats training the target from scratch, logit distillation and one-shot replacement,
at equal optimizer steps and at equal FLOPs. Kept of the guide: token embedding, MLPs, layer norms,
head. Replaced: every attention and the learned positions.

    python launch/run.py --config=configs/gpt2_to_rnn_plain.py

2 CPU cores: about 6 minutes, 3 seeds. Expected test losses (nats per token) are in the README's
table; the search behind these settings is in benchmarks/README.md. `paper`: GPT-2 small, 12 stages,
context 1024, WikiText-103 as *.txt files in the folder data.path names, one GPU; its rates and
steps are starting points and have not been tuned.
"""

from theseus_jax.config import base, preset


def default():
    c = base()
    c.data.share = 0.05
    c.guide.steps = 3000
    c.convert.schedule, c.convert.metric = "progressive", "mse"
    c.convert.steps, c.convert.align = 150, 0.2
    c.convert.align_rate, c.convert.finish_rate = 6e-3, 8e-3
    c.convert.finish_kl, c.convert.finish_align = 1.0, 10.0
    c.controls.kl, c.controls.rates.from_scratch, c.controls.rates.distilled = 1.0, 1.2e-2, 1.6e-2
    c.controls.rates.one_shot, c.controls.rates.one_shot_distilled = 2e-3, 8e-3
    return c


def smoke():
    c = default()
    c.data.tokenizer, c.data.context, c.data.share = "bytes", 32, 0.02
    c.data.validation = c.data.test = 0.006
    c.guide.width, c.guide.depth, c.guide.heads, c.guide.steps = 32, 2, 2, 60
    c.target.width, c.target.depth, c.target.hidden = 32, 2, 32
    c.convert.steps, c.convert.align, c.train.chunk, c.seeds = 40, 0.5, 10, 2
    c.report.latency_repeats, c.report.sample_tokens = 5, 16
    return c


def paper():
    c = default()
    c.data.source, c.data.path = "directory", "wikitext-103"
    c.data.context, c.data.vocabulary, c.data.share = 1024, 50257, 0.05
    c.guide.width, c.guide.depth, c.guide.heads, c.guide.dropout = 768, 12, 12, 0.1
    c.guide.steps, c.guide.learning_rate = 100000, 6e-4
    c.target.width, c.target.depth, c.target.hidden = 768, 12, 768
    c.convert.steps, c.convert.align_rate, c.convert.finish_rate = 20000, 6e-4, 3e-4
    c.controls.rates.from_scratch = c.controls.rates.distilled = 6e-4
    c.controls.rates.one_shot = c.controls.rates.one_shot_distilled = 3e-4
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
