"""What a config names: its task, its method, and the arms of the two."""

from __future__ import annotations

import dataclasses
import functools
from types import ModuleType
from typing import Any, Callable

from theseus_jax import methods, tasks
from theseus_jax.arms import Arm, Turn, check_arms
from theseus_jax.checks import check_config, check_values
from theseus_jax.config import base, missing_keys
from theseus_jax.errors import UserError
from theseus_jax.nets.precision import COMPUTES
from theseus_jax.nets.stage import Network
from theseus_jax.plan import Plan

POSITIVE = ("seeds", "train.batch", "report.latency_repeats")


def parts(config: Any) -> tuple[Any, ModuleType]:
    """(the task of a config, its method's module). Raises UserError, one line, for keys that are
    missing or unknown and values that are none.
    """
    for key in ("task", "method"):
        if not isinstance(config.get(key), str):
            given = " ".join(repr(config.get(key)).split())
            raise UserError(f"config.{key} is {given}; give the name of one")
    source, way = tasks.module(config.task), methods.module(config.method)
    missing = missing_keys(config)
    if missing:
        raise UserError(
            f"config.{missing[0]} is missing, which the task {config.task!r} with the method"
            f" {config.method!r} reads; make a config of the two by theseus_jax.config.base"
        )
    ranges = {**getattr(source, "RANGES", {}), **getattr(way, "RANGES", {})}
    check_config(config.to_dict(), base(config.task, config.method), ranges)
    sizes = ("train.chunk",) if "chunk" in config.train else ()
    choices = {"train.compute": COMPUTES} if "compute" in config.train else {}
    check_values(config, choices, (*POSITIVE, *sizes))
    return source.Task(config), way


def arms_of(config: Any) -> tuple[Arm, ...]:
    """Every arm that a run of this config may make. Raises UserError."""
    task, method = parts(config)
    arms = arms_for(method, config, task)
    check_arms(arms)
    return arms


def arms_for(method: ModuleType, config: Any, task: Any) -> tuple[Arm, ...]:
    """The method's arms for a task, their phases computing as the config says."""
    kind = config.train.get("compute", "float32")

    def computing(plan: Callable[[Turn], Plan], turn: Turn) -> Plan:
        return tuple(dataclasses.replace(phase, compute=kind) for phase in plan(turn) or ())

    return tuple(
        arm._replace(plan=functools.partial(computing, arm.plan)) if arm.plan else arm
        for arm in method.arms(config, task)
    )


def network(config: Any, model: str) -> Network:
    """The network of a model of a run of this config; where the method can tell, nothing else that
    the config says has to be possible any more. Raises UserError for one that it has not.
    """
    task, method = tasks.module(config.task).Task(config), methods.module(config.method)
    if hasattr(method, "network"):
        return method.network(config, task, model)
    nets = {arm.name: arm.net for arm in method.arms(config, task)}
    if model not in nets:
        raise UserError(f"this config makes no model {model!r}; it makes {', '.join(nets)}")
    return nets[model]
