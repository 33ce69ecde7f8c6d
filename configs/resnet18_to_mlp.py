"""A trained ResNet-18 becomes an MLP, part by part, on Fashion-MNIST: labels are few, pictures are
not.

Claim tested: where 1,000 of 54,000 pictures have labels, conversion, which reads none, recovers at
least half of the gap between the MLP trained on the labels and its guide, and beats every control
at equal optimizer steps. Both hold with Procrustes distance; with biased CKA it is a tie with plain
distillation on the same pictures (benchmarks/README.md).

    python launch/run.py --config=configs/resnet18_to_mlp.py

2 CPU cores: 6 minutes, 3 seeds; test accuracy 91.6 % (guide), 88.0 (converted), 86.7 (distilled),
80.9 (from scratch). Needs Debian's dataset-fashion-mnist, or its four files in data.path. `paper`:
ImageNet through TFDS, one GPU; its rates and steps are untuned.
"""

from theseus_jax.config import base, preset


def default():
    c = base("classification")
    c.data.source, c.data.share, c.data.unlabelled = "fashion_mnist", 1000, True
    c.guide.arch, c.guide.width, c.guide.steps = "resnet18", 8, 1500
    c.target.arch, c.target.width, c.target.depth, c.target.norm = "mlp", 512, 4, "layer"
    c.convert.steps, c.convert.align, c.convert.schedule = 400, 0.05, "joint"
    c.convert.metric = "procrustes"
    c.convert.align_rate = c.convert.finish_rate = 1e-3
    c.convert.finish_kl, c.convert.finish_align, c.convert.stitch_ridge = 1.0, 100.0, 1e-3
    c.controls.names = ("from_scratch", "distilled", "fitnets", "theseus", "ted", "supervised")
    c.controls.kl, c.controls.equal_flops = 1.0, False
    c.controls.rates.from_scratch = c.controls.rates.ted = c.controls.rates.supervised = 1e-3
    c.controls.rates.distilled = c.controls.rates.fitnets = c.controls.rates.theseus = 5e-4
    return c


def smoke():
    c = default()
    c.data.source, c.data.share, c.guide.width, c.guide.steps = "digits", 200, 4, 20
    c.target.width, c.target.depth, c.convert.align = 32, 3, 0.3
    c.controls.names = ("from_scratch", "distilled")
    c.convert.steps, c.train.chunk, c.train.batch, c.seeds = 20, 5, 16, 1
    c.report.latency_repeats = 3
    return c


def cifar10():
    """A guide of full width on all of CIFAR-10, for one GPU; data.path is the .npz of CIFAR-10. Its
    rates and steps are untuned.
    """
    c = default()
    c.data.source, c.data.path, c.data.share = "cifar10", "cifar10_jpeg.npz", 0
    c.data.unlabelled, c.data.crop, c.data.flip = False, 4, True
    c.data.mean, c.data.deviation = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
    c.train.batch, c.train.chunk, c.train.weight_decay = 256, 200, 0.05
    c.guide.width, c.guide.steps, c.guide.learning_rate = 64, 12000, 1e-3
    c.target.width, c.target.depth, c.convert.steps = 2048, 4, 8000
    # many small singular value problems would hold up a GPU
    c.convert.metric, c.convert.finish_align = "cka_biased", 30.0
    c.controls.names = ("from_scratch", "distilled", "fitnets")
    return c


def paper():
    c = default()
    c.data.source, c.data.dataset, c.data.size, c.data.classes = "tfds", "imagenet2012", 224, 1000
    c.data.share = 0
    c.data.mean, c.data.deviation = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    c.data.flip = True
    c.data.unlabelled, c.train.batch = False, 256
    c.guide.width, c.guide.stem, c.guide.steps, c.guide.learning_rate = 64, "imagenet", 450000, 1e-3
    c.target.width, c.target.depth, c.convert.steps = 2048, 9, 50000
    c.convert.metric, c.convert.finish_align = "cka_biased", 30.0
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "cifar10": cifar10, "paper": paper})
