r"""Projection heads under InfoNCE on frozen EfficientNet-Lite0 features of CIFAR-10: the stand-in
for B1 (STL-10).

Claim tested: as in glai_digits, for a contrastive loss without labels. The two views of a picture
are two dropout masks on its features, the same masks in every arm and for evaluation; gates are
those of the masked features, so a GLAI head can store nothing and each of its steps runs the
selector.

    python launch/run.py --config=configs/glai_cifar10_infonce.py \
        --config.data.path=cifar10_jpeg.npz

Data and backbone as in glai_cifar10_effnet. Paths that each output chose by itself are left out by
default: 64 outputs make their dense form too slow for a CPU (`--config.arms` adds glai_path).
`paper`: B1 of arXiv 2510.00883, 640 units, 128 outputs, temperature 0.07, dropout 0.2.
"""

from theseus_jax.config import base, preset

ARMS = (
    "mlp_sgd",
    "mlp_adam",
    "mlp_reduced",
    "low_rank",
    "linear_sgd",
    "linear_adam",
    "glai_joint",
    "glai_untrained",
)


def default():
    c = base("head")
    c.arms = ARMS
    c.data.source, c.data.backbone = "cifar10", "efficientnet_lite0"
    c.data.path = "cifar10_jpeg.npz"
    c.data.train, c.data.validation, c.data.test = 10000, 2000, 2000
    c.head.loss, c.head.outputs, c.head.hidden, c.train.batch = "infonce", 64, (128,), 128
    c.train.epochs, c.train.patience, c.search.epochs, c.search.seeds = 12, 3, 12, 1
    c.search.adam_rates, c.search.sgd_rates = (3e-4, 1e-3, 3e-3, 1e-2), (3e-2, 1e-1, 3e-1, 1.0)
    c.search.decays = (1e-2,)
    c.glai.selector_epochs, c.seeds = 5, 3
    return c


def smoke():
    c = default()
    c.data.train, c.data.validation, c.data.test = 512, 128, 128
    c.head.outputs, c.head.hidden, c.train.batch, c.seeds = 8, (16,), 32, 2
    c.train.epochs, c.search.epochs, c.glai.selector_epochs = 3, 2, 2
    c.search.adam_rates, c.search.sgd_rates, c.search.decays = (1e-3,), (3e-3,), (1e-3,)
    return c


def paper():
    c = default()
    c.data.train, c.data.validation, c.data.test = 0, 0, 0
    c.head.outputs, c.head.hidden, c.train.batch, c.train.epochs = 128, (640,), 16, 200
    c.glai.selector, c.glai.selector_epochs = "epochs", 8
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
