"""Config -> heads and plans of every arm. Nothing here reads data; what cannot work is refused by name."""
from __future__ import annotations

from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp

from theseus_jax import cost
from theseus_jax.config import ARMS
from theseus_jax.errors import UserError
from theseus_jax.experiment.checks import check_values, lookup
from theseus_jax.feeds import Feed, Views
from theseus_jax.methods import glai
from theseus_jax.methods.glai.budget import Budget, budget, narrow_line
from theseus_jax.nets.heads import low_rank_mlp, mlp
from theseus_jax.nets.stage import Network, forward, variable_shapes
from theseus_jax.objectives import CrossEntropy, InfoNCE, Term
from theseus_jax.plan import Optimizer, Patience, Phase, Plan, describe
from theseus_jax.trees import parameter_count

SELECTION = {"glai_path": "global", "glai_per_output": "per_output", "glai_joint": "joint", "glai_untrained": "joint"}
SOLVED = ("logistic", "ridge", "glai_joint_logistic", "glai_joint_ridge")
BACKBONES = {"none": None, "efficientnet_lite0": 1280, "minilm": 384}
# inputs without a backbone, classes, training examples; None where the config or the data set says it
SOURCES = {"digits": (64, 10, 1079), "cifar10": (3072, 10, 45000), "bbc": (None, 5, 1265), "omniglot": (11025, None, None),
           "lm_states": (None, None, None), "tfds": (None, None, None)}
READERS = {"digits": ("none",), "cifar10": ("efficientnet_lite0", "none"), "bbc": ("minilm",), "lm_states": ("none",),
           "omniglot": ("efficientnet_lite0", "none"), "tfds": ("efficientnet_lite0", "none")}
CHOICES = {"data.source": tuple(SOURCES), "data.backbone": tuple(BACKBONES), "head.loss": ("cross_entropy", "infonce"),
           "glai.selector": ("maturity", "epochs")}
POSITIVE = ("seeds", "train.batch", "train.epochs", "train.patience", "search.epochs", "search.seeds", "glai.reference",
            "glai.settled_window", "report.latency_repeats", "data.ways", "data.shots", "data.size")


class Facts(NamedTuple):
    """What the plans have to know of the features: their width, the outputs of a head, training examples."""

    inputs: int
    outputs: int
    train: int


class Trial(NamedTuple):
    """One point of the search: learning rate and decoupled weight decay (or penalty, for a solver)."""

    rate: float
    decay: float


def check(config: Any) -> None:
    """Raises UserError, one line, for the first value that cannot be meant."""
    check_values(config, CHOICES, POSITIVE)
    unknown = [name for name in config.arms if name not in ARMS]
    if unknown:
        raise UserError(f"config.arms has {', '.join(unknown)}; choose from {', '.join(ARMS)}")
    needed = {"mlp_reduced": [name for name in SELECTION if name in config.arms],
              "glai_joint": [name for name in config.arms if name.startswith("glai_joint_")]}
    for name, by in needed.items():
        if by and name not in config.arms:
            raise UserError(f"config.arms has {', '.join(by)} without {name}, whose settings they take; add {name}")
    for path in ("search.adam_rates", "search.sgd_rates", "search.decays", "search.penalties", "head.hidden"):
        values = tuple(lookup(config, path))
        if not values or min(values) < 0 or (path != "search.decays" and min(values) == 0):
            raise UserError(f"config.{path} is {values}; give at least one positive number")
    if config.glai.selector_epochs < 0 or not 0 < config.glai.settled_share < 1:
        raise UserError(f"config.glai.selector_epochs is {config.glai.selector_epochs} and settled_share "
                        f"{config.glai.settled_share:g}; give 0 epochs or more, and a share in (0, 1)")
    if config.glai.budget <= 0:
        raise UserError(f"config.glai.budget is {config.glai.budget:g}; give a share of O - R above 0")
    if config.head.loss == "infonce":
        _check_contrast(config)
    readers = READERS[config.data.source]
    if config.data.backbone not in readers:
        raise UserError(f"config.data.backbone is {config.data.backbone!r}, which cannot read {config.data.source!r}; set it to "
                        f"{' or '.join(readers)}")


def _check_contrast(config: Any) -> None:
    h = config.head
    if h.outputs < 1 or not 0 < h.dropout < 1 or h.temperature <= 0:
        raise UserError(f"infonce with config.head.outputs = {h.outputs}, dropout = {h.dropout:g}, temperature = "
                        f"{h.temperature:g}; give outputs of 1 or more, a rate in (0, 1) and a temperature above 0")
    solved = [name for name in config.arms if name in SOLVED]
    if solved:
        raise UserError(f"config.arms has {', '.join(solved)}, which solve for class labels; infonce has none: leave them out")


def facts_of(config: Any) -> Facts:
    """What the config alone says of its features. Raises UserError where it says too little."""
    c = config.data
    inputs, outputs, train = SOURCES[c.source]
    inputs = BACKBONES[c.backbone] or c.width or inputs
    outputs = config.head.outputs if config.head.loss == "infonce" else c.ways if c.source == "omniglot" else c.classes or outputs
    train = c.ways * c.shots if c.source == "omniglot" else min(c.train or train or 0, train or c.train) if train else c.train
    if not (inputs and outputs and train):
        raise UserError(f"config.data.source = {c.source!r} does not tell the features' width, the classes and how many examples "
                        "to train on; set data.backbone or data.width, data.classes and data.train")
    if train < config.train.batch:
        raise UserError(f"{train} training examples are fewer than a batch of {config.train.batch}; lower train.batch")
    return Facts(inputs, outputs, train)


def budget_of(config: Any, facts: Facts) -> Budget:
    """The GLAI budget of a config's MLP. Raises UserError where GLAI cannot be."""
    return budget(facts.inputs, tuple(config.head.hidden), facts.outputs, config.glai.rho)


def kept_paths(config: Any, facts: Facts, arm: str) -> int:
    """How many paths (joint) or single entries (else) an arm's estimator keeps: the budget's share, at most all there are."""
    spent = budget_of(config, facts)
    kept = round(config.glai.budget * spent.kept)
    kept = max(facts.outputs, min(kept, spent.paths))
    each = kept // facts.outputs
    return {"joint": each, "per_output": each * facts.outputs, "global": kept}[SELECTION.get(arm, "joint")]


def _views(config: Any) -> float:
    return config.head.dropout if config.head.loss == "infonce" else 0.0


def _terms(config: Any) -> tuple[Term, ...]:
    if config.head.loss == "infonce":
        return (Term("infonce", 1.0, InfoNCE(config.head.temperature)),)
    return (Term("cross_entropy", 1.0, CrossEntropy()),)


def reduced(config: Any) -> tuple[int, ...]:
    """Hidden widths of the selector."""
    return glai.reduced_hidden(tuple(config.head.hidden), config.glai.rho)


def trained_network(config: Any, facts: Facts, arm: str) -> Network:
    """The network that an arm ends with."""
    c = config.head
    if arm.startswith("glai"):
        return glai.final_network(_glai_settings(config, facts, arm, Trial(1.0, 0.0), Trial(1.0, 0.0)))
    if arm.startswith(("linear", "logistic", "ridge")):
        return mlp((), facts.outputs)
    if arm == "low_rank":
        return low_rank_mlp(facts.inputs, c.hidden[0], facts.outputs, parameters=budget_of(config, facts).reduced)
    return mlp(reduced(config) if arm == "mlp_reduced" else tuple(c.hidden), facts.outputs)


def trials(config: Any, arm: str) -> tuple[Trial, ...]:
    """The points that every arm's search tries: rates x decays, or the penalties of a solver."""
    s = config.search
    if arm in SOLVED:
        return tuple(Trial(0.0, penalty) for penalty in s.penalties)
    rates = s.sgd_rates if arm.endswith("_sgd") else s.adam_rates
    return tuple(Trial(rate, decay) for rate in rates for decay in s.decays)


def _optimizer(arm: str, trial: Trial) -> Optimizer:
    rule = "sgd" if arm.endswith("_sgd") else "adamw"
    return Optimizer(trial.rate, trial.decay, clip=0.0, b2=0.999, rule=rule, schedule="constant")


def epoch_steps(config: Any, facts: Facts) -> int:
    """Optimizer steps an epoch; the remainder of the examples is left out of it."""
    return facts.train // config.train.batch


def _glai_settings(config: Any, facts: Facts, arm: str, trial: Trial, selector: Trial, epochs: int = 1) -> glai.Settings:
    c, every = config.glai, epoch_steps(config, facts)
    selection = SELECTION.get(arm, "joint")
    settled = glai.Settled(every, glai.Maturity(c.settled_window, c.settled_share)) if c.selector == "maturity" else None
    selector_epochs = 0 if arm == "glai_untrained" else c.selector_epochs
    return glai.Settings(
        facts.inputs, reduced(config), facts.outputs, selection, kept_paths(config, facts, arm), _terms(config),
        _optimizer(arm, selector), every * selector_epochs, settled, _optimizer(arm, trial), every * epochs,
        Patience(every, config.train.patience), _views(config), min(c.reference, facts.train))


def arm_plan(config: Any, facts: Facts, arm: str, trial: Trial, selector: Trial, *, epochs: int, held_out: Any = (),
             report: Callable[[dict[str, Any]], None] = lambda row: None) -> Plan:
    """The plan of one trained arm at one point of the search. selector: the settings of a GLAI arm's first phase."""
    if arm in SELECTION:
        made = _glai_settings(config, facts, arm, trial, selector, epochs)
        return glai.plan(made, held_out=glai.Held(held_out), report=report)
    net, every = trained_network(config, facts, arm), epoch_steps(config, facts)
    views = (Views(_views(config)),) if _views(config) else ()
    return (Phase("train", net, net.names, _terms(config), every * epochs, Feed(transforms=views), _optimizer(arm, trial),
                  stop=Patience(every, config.train.patience)),)


def example(facts: Facts) -> jax.ShapeDtypeStruct:
    """The shape of one row of features, (1, I) float32."""
    return jax.ShapeDtypeStruct((1, facts.inputs), jnp.float32)


def outline(config: Any, facts: Facts) -> str:
    """plan.txt: the budget, every arm with exact parameters and phases, and the search. Raises UserError."""
    spent = budget_of(config, facts)
    lines = [f"features: {facts.inputs} wide, {facts.outputs} outputs, {facts.train:,} training examples, batches of "
             f"{config.train.batch}, {epoch_steps(config, facts)} steps an epoch; {config.seeds} seeds",
             f"GLAI budget: O {spent.original:,}  R {spent.reduced:,}  E {spent.paths:,}  K {spent.kept:,}  "
             f"mu {spent.share:.2%}  P {spent.pairs:,} ({spent.density:.2%} of the pairs)"]
    lines += [f"warning: {line}" for line in [narrow_line(tuple(config.head.hidden), facts.outputs, config.glai.rho)] if line]
    for arm in config.arms:
        net = trained_network(config, facts, arm)
        shapes = variable_shapes(net, example(facts))
        work = cost.lowered_flops(lambda v, x, net=net: forward(net, v, x)[0], shapes, example(facts))
        lines.append(f"\n[{arm}] {deployed_parameters(config, facts, arm, shapes):,} parameters, stages {', '.join(net.names)}, "
                     f"about {work:,.0f} FLOPs per example (before optimisation)")
        points = trials(config, arm)
        if arm in SOLVED:
            lines.append(f"   solved directly; penalty out of {', '.join(f'{t.decay:g}' for t in points)} by validation")
            continue
        lines.append(f"   search   {len(points)} trials of {config.search.epochs} epochs and {config.search.seeds} seeds: rates "
                     f"{', '.join(f'{r:g}' for r in dict.fromkeys(t.rate for t in points))}; decays "
                     f"{', '.join(f'{d:g}' for d in dict.fromkeys(t.decay for t in points))}; first point shown")
        lines.append(describe(arm_plan(config, facts, arm, points[0], points[0], epochs=config.train.epochs)))
    return "\n".join(lines) + "\n"


def deployed_parameters(config: Any, facts: Facts, arm: str, variables: Any) -> int:
    """Trained numbers that a deployed head holds: of a GLAI head the selector's hidden layers and the K or P O weights."""
    if not arm.startswith("glai"):
        return parameter_count(variables)
    kept = kept_paths(config, facts, arm) * (1 if arm in ("glai_path", "glai_per_output") else facts.outputs)
    return glai.head_parameters(reduced(config), facts.inputs, kept)


