"""A trained ResNet-50 becomes a ResNet-18: 16 bottlenecks become 8 basic blocks, on Fashion-MNIST.

Claim tested: conversion beats training from scratch and distillation at equal optimizer steps. Four
seams, each the end of a resolution; batch norm is recalibrated after alignment. It does, with
Procrustes distance as the loss, and is ahead of FitNets and of distillation with the guide's stem
too; with debiased CKA at unsearched rates these tied with it.

    python launch/run.py --config=configs/resnet50_to_resnet18.py

2 CPU cores: 8 minutes, 3 seeds; test accuracy 87.8 % (guide), 85.9 (converted), 84.2 (distilled),
84.0 (from scratch). Needs Debian's dataset-fashion-mnist. `paper`: ImageNet through TFDS; its rates
and steps are untuned.
"""

from theseus_jax.config import base, preset


def _rate(c, rate):
    c.convert.finish_rate = rate
    for name in ("from_scratch", "distilled", "one_shot", "one_shot_distilled", "fitnets"):
        c.controls.rates[name] = rate


def default():
    c = base("classification")
    c.data.source, c.data.share = "fashion_mnist", 2000
    c.guide.arch, c.guide.width, c.guide.steps = "resnet50", 8, 700
    c.target.arch, c.target.width = "resnet18", 8
    c.train.batch = 64
    c.convert.steps, c.convert.align, c.convert.schedule = 200, 0.2, "joint"
    c.convert.metric = "procrustes"
    c.convert.inherit, c.convert.recalibrate, c.convert.finish_kl = ("stem",), 1024, 1.0
    c.convert.finish_align = 30.0
    c.convert.samples = "pooled"
    c.convert.mapping = "block_3=block_2, block_7=block_4, block_13=block_6, pool=pool"
    c.report.hybrid_examples = 500
    c.controls.names = ("from_scratch", "distilled", "one_shot", "one_shot_distilled", "fitnets")
    c.controls.kl, c.controls.equal_flops = 1.0, False
    _rate(c, 1e-2)
    return c


def smoke():
    c = default()
    c.data.source, c.data.share, c.guide.width, c.guide.steps = "digits", 200, 4, 10
    c.target.width = 4
    c.convert.align, c.convert.recalibrate = 0.5, 64
    c.convert.mapping, c.controls.names = "block_7=block_4, pool=pool", ("distilled",)
    c.convert.steps, c.train.chunk, c.train.batch, c.seeds = 20, 5, 16, 1
    c.report.latency_repeats = 3
    return c


def paper():
    c = default()
    c.data.source, c.data.dataset, c.data.size, c.data.classes = "tfds", "imagenet2012", 224, 1000
    c.data.share = 0
    c.data.mean, c.data.deviation = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    c.data.flip = True
    c.guide.width = c.target.width = 64
    c.guide.stem = c.target.stem = "imagenet"
    c.train.batch, c.guide.steps, c.convert.steps = 256, 450000, 50000
    c.convert.metric, c.convert.finish_align = "cka_debiased", 1.0
    _rate(c, 3e-3)
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
