"""Controls that are prolonged to the conversion's FLOPs: their steps and examples."""

import math

import pytest
from settings import changed
from small_text import LANGUAGE

from theseus_jax.arms import Turn
from theseus_jax.config import base
from theseus_jax.methods.conversion import arms
from theseus_jax.tasks.language import Task

STEPS = 40


def found(chunk=7, **work):
    small = {"data.context": 8, "data.test": 0.2, "target.hidden": 8, "convert.steps": STEPS}
    names = {"controls.names": ("from_scratch", "one_shot_distilled"), "train.chunk": chunk}
    config = changed(base(), {**LANGUAGE, **small, **names})
    rows = [
        {"kind": "train", "model": model, "seed": seed, "training_flops": flops / 4}
        for model, flops in work.items()
        for seed in range(2)
        for _ in range(2)
    ]
    turn = Turn(seeds=(0, 1), sets=(), rows=lambda: rows)
    made = {arm.name: arm for arm in arms(config, Task(config))}
    plans = {
        name: arm.plan(turn if arm.prolongs else Turn())
        for name, arm in made.items()
        if arm.prolongs or name in (*config.controls.names, "converted")
    }
    return made, {name: sum(phase.steps for phase in plan) for name, plan in plans.items()}


@pytest.mark.parametrize("chunk", [1, 7, 25, 1000])
def test_steps_are_what_the_conversions_work_is_worth_whatever_the_chunk(chunk):
    _, steps = found(chunk, converted=3e9, from_scratch=2e9, one_shot_distilled=2.9e9)
    assert steps["from_scratch_equal_flops"] == math.ceil(STEPS * 3 / 2)
    assert steps["one_shot_distilled_equal_flops"] == math.ceil(STEPS * 3 / 2.9)
    assert steps["from_scratch"] == steps["converted"] == STEPS


def test_a_control_that_had_as_much_work_is_not_prolonged():
    _, steps = found(converted=3e9, from_scratch=3e9, one_shot_distilled=3.1e9)
    assert steps["from_scratch_equal_flops"] == steps["one_shot_distilled_equal_flops"] == 0


def test_a_prolonged_control_is_the_control_in_all_but_its_length():
    made, _ = found(converted=3e9, from_scratch=2e9, one_shot_distilled=2e9)
    for name in ("from_scratch", "one_shot_distilled"):
        long, short = made[f"{name}_equal_flops"], made[name]
        assert (long.prolongs, long.role, long.guide) == (name, short.role, short.guide)
        assert (long.examples, long.labels, long.net) == (short.examples, short.labels, short.net)
        assert long.examples != "all"  # the guide's
