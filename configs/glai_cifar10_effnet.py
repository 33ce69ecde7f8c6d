"""GLAI heads on frozen EfficientNet-Lite0 features of CIFAR-10: the stand-in for DeiT-S on Pets and
EfficientNet-B0 on STL-10.

Claim tested: as in glai_digits, with 1280 features of a real backbone; the linear rivals are strong
here.

    python launch/run.py --config=configs/glai_cifar10_effnet.py --config.data.path=cifar10_jpeg.npz

Needs the extra [pretrained] and CIFAR-10: as the .npz of JPEGs described in
theseus_jax/data/archives.py, or through TFDS with --config.data.source=tfds
--config.data.dataset=cifar10 --config.data.classes=10 --config.data.path=DATA_DIR. 2 CPU cores:
features take about 1.5 minutes once, the rest 7; 5 seeds; expected numbers in benchmarks/README.md.
`paper`: A1 of arXiv 2510.00883 (batch 16, 256 units, MLP to early stopping after 5 epochs), on all
images.
"""

from theseus_jax.config import base, preset


def default():
    c = base("head")
    c.data.source, c.data.backbone = "cifar10", "efficientnet_lite0"
    c.data.path = "cifar10_jpeg.npz"
    c.data.train, c.data.validation, c.data.test = 10000, 2000, 2000
    c.head.hidden, c.train.batch = (128,), 64
    c.train.epochs, c.train.patience, c.search.epochs, c.search.seeds = 30, 5, 30, 1
    c.search.adam_rates, c.search.sgd_rates = (3e-5, 1e-4, 3e-4, 1e-3), (1e-3, 3e-3, 1e-2, 3e-2)
    c.search.penalties = (1e-2, 1e-1, 1.0, 10.0)
    c.glai.selector_epochs = 10
    return c


def smoke():
    c = default()
    c.data.train, c.data.validation, c.data.test = 512, 128, 128
    c.head.hidden, c.train.batch, c.seeds = (16,), 16, 2
    c.train.epochs, c.search.epochs, c.glai.selector_epochs = 3, 2, 2
    c.search.adam_rates, c.search.sgd_rates, c.search.decays = (1e-3,), (3e-3,), (1e-3,)
    c.search.penalties = (1e-2, 1e-1)
    return c


def paper():
    c = default()
    c.data.train, c.data.validation, c.data.test = 0, 0, 0
    c.head.hidden, c.train.batch, c.train.epochs, c.train.patience = (256,), 16, 200, 5
    c.glai.selector, c.glai.selector_epochs = "epochs", 12
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
