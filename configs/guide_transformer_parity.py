"""A Transformer encoder stays at chance on parity of 2 to 50 bits, beside an RNN at 100 % too.

Claim tested (arXiv 2410.20035, "Transformer <- RNN, parity": 71.98 alone, 78.49 guided): a target
that fails on a task is better with a layer-wise alignment to a guide that does not fail (undecided:
+0.1 +- 0.9 points; nothing leaves chance).

    python launch/run.py --config=configs/guide_transformer_parity.py

2 CPU cores, 16 minutes beside other runs, 400 steps, three rates searched, 5 seeds; test accuracy:
50.4 +- 0.6 % (alone), 50.5 +- 0.4 (trained guide), 50.4 +- 0.6 (untrained), 50.2 +- 0.5 (other
sequences), 49.5 +- 0.6 (distilled), 100 (the guide), 50.8 = chance. The alignment is learnt only in
part: similarity 0.64, before training 0.53.
Chance is what the most common class scores on the held-out set, which is drawn once. Batches are
drawn anew from a key. `paper`: the published lengths and widths, one GPU; untuned.
"""

from theseus_jax.config import base, preset


def default():
    c = base("sequences", "guide")
    c.data.kind, c.data.shortest, c.data.longest = "parity", 2, 50
    c.arms = ("baseline", "guided_trained", "guided_untrained", "guided_shuffled", "distilled")
    c.guide.arch, c.guide.width, c.guide.depth, c.guide.hidden = "rnn", 16, 1, 64
    c.guide.steps, c.guide.learning_rate = 6000, 5e-3
    c.target.arch, c.target.width, c.target.depth, c.target.heads = "encoder", 64, 2, 4
    c.guidance.steps, c.guidance.samples = 400, "tokens"
    c.guidance.pairs = "block_1 = block_1, block_1 = block_2"
    c.search.rates, c.search.steps = (3e-4, 1e-3, 3e-3), 150
    return c


def smoke():
    c = default()
    c.data.longest, c.data.train, c.data.test, c.guide.width, c.guide.hidden = 6, 64, 64, 8, 8
    c.guide.steps, c.target.width, c.train.batch = 40, 16, 16
    c.guidance.steps, c.search.steps, c.search.rates, c.seeds = 20, 10, (1e-3, 3e-3), 2
    c.train.chunk, c.train.watch, c.report.latency_repeats = 10, 10, 3
    return c


def paper():
    c = default()
    c.guide.width, c.guide.hidden, c.guide.steps, c.train.batch = 64, 128, 40000, 256
    c.target.width, c.target.depth, c.target.heads = 512, 4, 16
    c.guidance.pairs = ", ".join(f"block_1 = block_{i}" for i in range(1, 5))
    c.data.fresh, c.data.train = False, 100000
    c.guidance.steps, c.guidance.reduction = 39000, "sum"
    c.search.rates, c.search.steps = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), 3900
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
