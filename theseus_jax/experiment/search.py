"""The search of an arm: every point on seeds of its own, judged by validation data alone."""

from __future__ import annotations

import logging
from typing import Any, Callable

import numpy as np

from theseus_jax.arms import Arm, Search, Trial
from theseus_jax.errors import Diverged

LOG = logging.getLogger("theseus_jax")
Work = Callable[[Any, Arm, Trial, int, tuple[int, ...]], Any]


def groups(arm: Arm, seeds: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Seeds that train as one program."""
    return [(seed,) for seed in seeds] if arm.apart else [seeds]


def seeds_of(search: Search) -> tuple[int, ...]:
    """-1, -2, ...: numbers that no seed of a table has."""
    return tuple(range(-1, -1 - search.seeds, -1))


def job_name(arm: Arm, trial: int, seeds: tuple[int, ...]) -> str:
    """Of the training of some seeds at one point of the search: its checkpoint's."""
    searching, name = seeds[0] < 0, arm.name
    if not arm.apart:
        return f"search/{name}-{trial}" if searching else name
    return f"search/{name}-{trial}-{-seeds[0]}" if searching else f"seeds/{name}-{seeds[0]}"


def job_names(arm: Arm, seeds: tuple[int, ...]) -> list[str]:
    """Names of all jobs behind an arm's checkpoint."""
    search = arm.search or Search((), 0)
    names = [
        job_name(arm, trial, group)
        for trial in range(len(search.trials))
        for group in groups(arm, seeds_of(search))
    ]
    return [*names, *(job_name(arm, 0, group) for group in groups(arm, seeds))]


def try_all(run: Any, arm: Arm, search: Search, work: Work) -> None:
    """A row of kind "trial" for every point and seed of the search that has none yet."""
    done = {(row["trial"], row["seed"]) for row in _trials(run, arm)}  # others' rows were cut
    for number, trial in enumerate(search.trials):
        for seeds in groups(arm, seeds_of(search)):
            if {(number, seed) for seed in seeds} <= done:
                continue
            try:
                work(run, arm, trial, number, seeds)
            except Diverged as error:
                LOG.info("%s", error)
                nothing = {f"validation_{key}": None for key in ("loss", run.task.compared.key)}
                for seed in seeds:
                    row = {"kind": "trial", "model": arm.name, "seed": seed, "trial": number}
                    run.home.records.write(row | nothing)


def _trials(run: Any, arm: Arm) -> list[dict[str, Any]]:
    rows = run.home.records.read()
    return [row for row in rows if row["kind"] == "trial" and row["model"] == arm.name]


def best_trial(run: Any, arm: Arm, search: Search) -> Trial:
    """The point of the best mean validation score; of equal scores, the one of the lower loss, then
    the first. Raises Diverged where none has a score.
    """
    rows, compared = _trials(run, arm), run.task.compared

    def merit(number: int) -> tuple[float, float]:
        mine = [row for row in rows if row["trial"] == number]
        values = [
            (compared.sign * row[f"validation_{compared.key}"], -row["validation_loss"])
            for row in mine
            if row["validation_loss"] is not None
        ]
        if len(values) < len(mine) or not np.isfinite(values).all():
            return -np.inf, -np.inf
        return tuple(np.mean(values, axis=0))

    best = max(range(len(search.trials)), key=merit)
    if merit(best)[0] == -np.inf:
        raise Diverged(
            f"every trial of {arm.name} diverged; give lower rates or higher penalties in"
            " config.search"
        )
    return search.trials[best]
