"""A trained GPT-2 becomes a recurrent network where memory beyond a window pays: text with pairs of
words before it that are asked for after it.
"""

from theseus_jax.config import base, preset


def default():
    c = base()
    c.data.context, c.data.recall, c.data.share = 512, 8, 0.2
    c.guide.steps = 3000
    c.target.cell = "linear_attention"
    c.convert.schedule, c.convert.metric, c.convert.steps = "one_shot", "mse", 150
    c.convert.inherit += ("attn",)
    c.convert.decays = "measured"
    c.convert.finish_rate, c.convert.finish_kl, c.convert.finish_align = 3e-3, 0.8, 3.0
    c.controls.names += ("window", "window_distilled")
    c.controls.kl = 0.8
    c.controls.rates.one_shot = c.controls.rates.window_distilled = 3e-4
    for name in ("from_scratch", "distilled", "one_shot_distilled"):
        c.controls.rates[name] = 3e-3
    return c


def get_config(name=None):
    return preset(name, {"default": default})
