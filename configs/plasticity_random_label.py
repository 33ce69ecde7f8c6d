"""Twenty tasks of pictures with labels drawn anew, to be learnt by heart one after the other.

Claim tested: a network that has fitted many sets of random labels fits the next one more slowly
(loss of plasticity), and growing or pruning units, ReDo, continual backprop, shrink and perturb, L2
to the start or layer norm keep it fitting, at equal steps and with the same search.

    python launch/run.py --config=configs/plasticity_random_label.py

Measured (10 seeds, mean over tasks; docs/plasticity.md): running input normalisation 99.4 %,
continual backprop 69.8, ReDo 68.2, layer norm 67.3, trained on 58.3, pruned 48.4, grown 26.5.
Needs Debian's dataset-fashion-mnist, or its four files in data.path.
`smoke` reads scikit-learn's digits. `paper`: 50 tasks of 400 epochs of 1,200 pictures of MNIST
through TFDS, one GPU; untuned.
"""

from theseus_jax.config import base, preset


def default():
    c = base("stream", "plasticity")
    c.data.source, c.data.train, c.data.validation, c.data.test = "fashion_mnist", 10000, 1000, 1000
    c.stream.kind, c.stream.tasks, c.stream.count, c.stream.steps = "random_labels", 20, 320, 300
    c.target.arch, c.target.width, c.target.depth, c.target.norm = "mlp", 100, 2, "none"
    c.target.start, c.train.chunk, c.search.seeds = "he_uniform", 50, 1
    c.plasticity.maturity, c.plasticity.interval, c.plasticity.rate = 100, 50, 1e-3
    return c


def smoke():
    c = default()
    c.data.source, c.data.train, c.data.validation, c.data.test = "digits", 200, 60, 60
    c.target.width, c.stream.tasks, c.stream.steps, c.stream.count = 20, 3, 6, 60
    c.plasticity.doctor, c.plasticity.interval, c.plasticity.speed_steps = 6, 6, 6
    c.search.rates, c.seeds, c.train.chunk, c.report.latency_repeats = (3e-3, 1e-2), 2, 6, 3
    return c


def paper():
    c = default()
    c.data.source, c.data.dataset, c.data.size, c.data.channels = "tfds", "mnist", 28, 1
    c.data.classes, c.data.train, c.data.validation, c.data.test = 10, 0, 0, 0
    c.stream.tasks, c.stream.count, c.stream.steps = 50, 1200, 30000
    c.target.width, c.search.rates = 256, (1e-4, 1e-3, 1e-2, 1e-1)
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
