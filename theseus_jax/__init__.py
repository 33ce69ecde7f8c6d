"""theseus_jax: train one architecture, deploy another.

Axis glossary, used in every name and docstring: B batch, T tokens, D width, N samples, P / Q
features, H heads, I inputs, J hidden units, O outputs, S seeds, V vocabulary.

    import theseus_jax as tj
    result = tj.run(config, workdir)
    network, variables = tj.restore(workdir, model="converted")
"""

from theseus_jax import methods, nets, similarity
from theseus_jax.errors import UserError
from theseus_jax.experiment import dry_run, restore, run
from theseus_jax.experiment.deploy import export, load
from theseus_jax.experiment.in_memory import convert, guide
from theseus_jax.methods.plasticity.doctor import doctor
from theseus_jax.nets.decode import generate
from theseus_jax.nets.stage import Network, Stage, forward, init, network, replace
from theseus_jax.version import __version__ as __version__

__all__ = [
    "Network",
    "Stage",
    "UserError",
    "convert",
    "doctor",
    "dry_run",
    "export",
    "forward",
    "generate",
    "guide",
    "init",
    "load",
    "methods",
    "nets",
    "network",
    "replace",
    "restore",
    "run",
    "similarity",
]
