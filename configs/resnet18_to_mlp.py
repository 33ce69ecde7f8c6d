"""A trained ResNet-18 becomes an MLP, part by part, on Fashion-MNIST.

    python launch/run.py --config=configs/resnet18_to_mlp.py
"""
from theseus_jax.config import base, preset


def default():
    c = base("classification")
    c.data.source = "fashion_mnist"
    c.data.share = 2000
    c.data.crop, c.data.flip = 2, True
    c.guide.arch, c.guide.width, c.guide.stem, c.guide.steps = "resnet18", 8, "cifar", 1000
    c.target.arch, c.target.width, c.target.depth, c.target.norm = "mlp", 512, 4, "layer"
    c.convert.steps, c.convert.align, c.convert.schedule = 600, 0.4, "progressive"
    c.convert.finish_kl, c.controls.kl = 1.0, 1.0
    c.controls.equal_flops = False
    c.controls.names = ("from_scratch", "distilled", "one_shot", "fitnets", "theseus", "ted")
    return c


def smoke():
    c = default()
    c.data.source, c.data.share = "digits", 500
    c.data.crop, c.data.flip = 1, False
    c.guide.width, c.guide.steps = 4, 40
    c.target.width, c.target.depth = 32, 3
    c.convert.steps, c.train.chunk, c.train.batch, c.seeds = 40, 10, 32, 2
    c.report.latency_repeats = 5
    return c


def paper():
    c = default()
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
