"""A text encoder that somebody else trained, MiniLM-L6, becomes a bidirectional RNN: six attentions
give way, on BBC news.

Claim tested: a linear probe on the converted encoder's sentence features is within 3 points of one
on the original's, with all six attentions replaced by linear attentions that read both ways and
begin as the original's queries, keys, values and output. It is 0.7 points above. The same
inheritance with distillation and no alignment does as well.

    python launch/run.py --config=configs/minilm_to_rnn.py

2 CPU cores: 12 minutes, 3 seeds; test accuracy 94.0 % (original), 93.6 (converted), 93.7
(inheritance and distillation), 73.8 (distilled), 73.1 (from scratch). Reads the first 32 tokens of
1,263 texts. With `target.cell` "linear" and 192 units, a gated recurrence that inherits no mixing,
91.2 % (benchmarks/minilm_to_rnn_gated.json). The weights and texts: see README.
"""

from theseus_jax.config import base, preset


def default():
    c = base("classification")
    c.data.source, c.data.tokens = "bbc", 32
    c.guide.arch, c.guide.origin = "minilm", "pretrained"
    c.target.arch, c.target.cell = "birnn", "linear_attention"
    c.train.batch, c.train.chunk, c.train.remember, c.train.weight_decay = 16, 5, True, 0.0
    c.convert.steps, c.convert.align, c.convert.schedule = 100, 0.1, "parallel"
    c.convert.metric = "mse"
    c.convert.samples = "tokens"
    c.convert.inherit = ("embed", "query", "key", "value", "out")
    c.convert.inherit += ("attention_norm", "up", "down", "norm", "head")
    c.convert.train_inherited, c.convert.finish_kl, c.convert.finish_align = "frozen", 1.0, 2.0
    c.convert.align_rate, c.convert.finish_rate = 3e-3, 3e-4
    c.controls.names = ("from_scratch", "distilled", "one_shot_distilled")
    c.controls.kl, c.controls.equal_flops, c.report.probe = 1.0, False, True
    c.report.hybrid_examples = 128
    c.controls.rates.from_scratch = c.controls.rates.distilled = (
        c.controls.rates.one_shot_distilled
    ) = 3e-4
    return c


def smoke():
    c = default()
    c.data.tokens, c.data.train, c.data.validation, c.data.test = 8, 64, 32, 32
    c.convert.neighbours, c.convert.mapping = 3, "block_3=block_3, features=features"
    c.controls.names = ("distilled",)
    c.convert.steps, c.train.chunk, c.train.batch, c.seeds = 20, 5, 16, 1
    c.report.latency_repeats = 3
    return c


def paper():
    c = default()
    c.data.source, c.data.dataset, c.data.classes = "tfds_text", "ag_news_subset", 4
    c.data.tokens, c.data.share = 128, 20000
    c.train.batch, c.train.remember, c.convert.steps = 128, False, 20000
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
