"""GLAI (arXiv 2510.00883): a ReLU network as a linear model over its paths, with gates frozen by a
short training.
"""

from theseus_jax.methods.glai.budget import Budget, budget, reduced_hidden
from theseus_jax.methods.glai.drop_in import replace_mlp
from theseus_jax.methods.glai.maturity import Maturity
from theseus_jax.methods.glai.paths import Entries, Paths, path_weights
from theseus_jax.methods.glai.plan import (
    SELECTIONS,
    Held,
    Settings,
    ToPaths,
    final_network,
    head_parameters,
    plan,
)
from theseus_jax.methods.glai.pruning import pruning_bound, pruning_error
from theseus_jax.methods.glai.selection import select
from theseus_jax.methods.glai.settled import Settled, watch
from theseus_jax.methods.glai.variables import head_variables, joint_variables
from theseus_jax.solvers import logistic, ridge

__all__ = [
    "SELECTIONS",
    "Budget",
    "Entries",
    "Held",
    "Maturity",
    "Paths",
    "Settings",
    "Settled",
    "ToPaths",
    "budget",
    "final_network",
    "head_parameters",
    "head_variables",
    "joint_variables",
    "logistic",
    "path_weights",
    "plan",
    "pruning_bound",
    "pruning_error",
    "reduced_hidden",
    "replace_mlp",
    "ridge",
    "select",
    "watch",
]
