"""The config of a comparison of heads: its sections with defaults and units, and what cannot be
meant.
"""

from __future__ import annotations

from typing import Any

from theseus_jax.checks import ABOVE, PART, check_values, lookup
from theseus_jax.errors import UserError

SEEDS = 5
SELECTION = {
    "glai_path": "global",
    "glai_per_output": "per_output",
    "glai_joint": "joint",
    "glai_untrained": "joint",
}
# by what they are: rows of a table are grouped by family
FAMILIES = {
    "mlp_sgd": "MLP",
    "mlp_adam": "MLP",
    "mlp_reduced": "MLP",
    "low_rank": "MLP",
    "linear_sgd": "linear",
    "linear_adam": "linear",
    "logistic": "linear",
    "ridge": "linear",
    **dict.fromkeys(("glai_path", "glai_per_output", "glai_joint", "glai_untrained"), "GLAI"),
    **dict.fromkeys(("glai_joint_logistic", "glai_joint_ridge"), "GLAI"),
}
ARMS = tuple(FAMILIES)
# arms whose weights are solved for: (solver, the arm whose paths carry its features, or none)
SOLVED = {
    "logistic": ("logistic", ""),
    "ridge": ("ridge", ""),
    "glai_joint_logistic": ("logistic", "glai_joint"),
    "glai_joint_ridge": ("ridge", "glai_joint"),
}
SGD = ("mlp_sgd", "linear_sgd")
CHOICES = {"glai.selector": ("maturity", "epochs"), "glai.begin": ("narrow", "whole")}
POSITIVE = (
    "seeds",
    "train.batch",
    "train.epochs",
    "train.patience",
    "search.epochs",
    "search.seeds",
    "glai.reference",
    "glai.settled_window",
    "report.latency_repeats",
)
RANGES = {
    "head.dropout": PART,
    "head.temperature": ABOVE,
    "glai.rho": ABOVE,
    "train.momentum": PART,
}


def sections(task: Any) -> dict[str, Any]:
    """The method's part of a config, with defaults and units. Raises UserError for a task that has
    no features.
    """
    if "head" not in task.sections():
        raise UserError(
            f"the method glai compares heads on features, and {task.__name__.rpartition('.')[2]}"
            f" has none; choose method {getattr(task, 'METHOD', 'another')!r}, or the task head"
        )
    return {
        "arms": ARMS,
        "train": {
            "batch": 16,
            "epochs": 100,  # at most
            "patience": 10,  # epochs without a better validation score
            "save_seconds": 120.0,  # between checkpoints inside a phase
        },
        "head": {"hidden": (256,)},  # units of the MLP that is replaced
        "glai": {
            "rho": 0.5,  # hidden widths of the selector over the MLP's
            "budget": 1.0,  # weights of the estimator over O - R
            "reference": 1024,  # training rows behind path norms and the maturity criterion
            # narrow: the selector is trained at its width | whole: as the MLP that is replaced,
            # whose units are pruned to it in the first half of its steps
            "begin": "narrow",
            "selector": "maturity",  # maturity | epochs
            "selector_epochs": 20,  # at most (maturity) or exactly (epochs)
            "settled_share": 0.5,  # maturity: a share of the largest m_t so far
            "settled_window": 1,  # maturity: epochs m_t is averaged over
        },
        "search": {
            "adam_rates": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
            "sgd_rates": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
            "decays": (1e-2, 3e-1),  # decoupled weight decay
            "penalties": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),  # of the direct solvers
            "epochs": 100,  # at most, in a trial: as long as training, so that no arm is cut short
            "seeds": 3,  # of every trial; their mean validation score chooses
        },
        "report": {"latency_repeats": 30},
    }


def check(config: Any, task: Any) -> None:
    """Raises UserError, one line, for the first value that cannot be meant."""
    check_values(config, CHOICES, POSITIVE)
    unknown = [name for name in config.arms if name not in ARMS]
    if unknown:
        raise UserError(f"config.arms has {', '.join(unknown)}; choose from {', '.join(ARMS)}")
    needed = {
        "mlp_reduced": [name for name in SELECTION if name in config.arms],
        "glai_joint": [name for name, (_, by) in SOLVED.items() if by and name in config.arms],
    }
    for name, by in needed.items():
        if by and name not in config.arms:
            raise UserError(
                f"config.arms has {', '.join(by)} without {name}, whose settings they take; add"
                f" {name}"
            )
    searched = ("search.adam_rates", "search.sgd_rates", "search.decays", "search.penalties")
    for path in (*searched, "head.hidden"):
        values = tuple(lookup(config, path))
        least = min(values, default=0)
        if not values or least < 0 or (path != "search.decays" and least == 0):
            raise UserError(f"config.{path} is {values}; give at least one positive number")
    glai = config.glai
    if glai.selector_epochs < 0 or not 0 < glai.settled_share < 1:
        raise UserError(
            f"config.glai.selector_epochs is {glai.selector_epochs} and settled_share"
            f" {glai.settled_share:g}; give 0 epochs or more, and a share in (0, 1)"
        )
    if glai.budget <= 0:
        raise UserError(f"config.glai.budget is {glai.budget:g}; give a share of O - R above 0")
    solved = [name for name in config.arms if name in SOLVED]
    if solved and task.contrast:
        raise UserError(
            f"config.arms has {', '.join(solved)}, which solve for class labels; infonce has none:"
            " leave them out"
        )
