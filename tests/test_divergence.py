"""A run that leaves the finite numbers says where: step, seed, stage or term, and the batch."""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mistakes import refusal
from settings import changed
from small_text import LANGUAGE, write_texts

import theseus_jax as tj
from theseus_jax.config import base
from theseus_jax.divergence import finding
from theseus_jax.errors import Diverged
from theseus_jax.nets.stage import network
from theseus_jax.objectives import CrossEntropy, Term
from theseus_jax.plan import Optimizer, Phase
from theseus_jax.train import State, fit

N, P, B = 24, 3, 4
RARE = 7.0  # what one input of row 17 is


class Overflow(nn.Module):
    """Infinite where the first input is RARE."""

    @nn.compact
    def __call__(self, x):
        return jnp.where(x[:, :1] == RARE, 1 / (x[:, :1] - RARE), nn.Dense(P)(x))


class Root(nn.Module):
    """A square root at 0 where the first input is RARE: its slope there, times 0, is none."""

    @nn.compact
    def __call__(self, x):
        rare = x[:, :1] == RARE
        return nn.Dense(P)(x) + jnp.sqrt(nn.Dense(1, use_bias=False)(x * ~rare) ** 2)


def parts(first, rate=1e-3, steps=12):
    net = network([("odd", first), ("last", nn.Dense(P)), ("head", nn.Dense(2))])
    terms = (Term("cross_entropy", 1.0, CrossEntropy()),)
    phase = Phase("train", net, net.names, terms, steps, optimizer=Optimizer(rate, clip=1e30))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, P)).astype(np.float32)
    x[17, 0] = RARE
    examples = {"inputs": jnp.asarray(x), "labels": jnp.asarray(rng.integers(0, 2, N))}
    keys = jax.random.split(jax.random.key(1), 2)
    fresh = jax.vmap(lambda key: tj.init(net, key, x[:1]))(keys)
    return (phase,), State(0, fresh, {}, None, keys), examples


def looked(plan, state, examples):
    given = {"batch": B, "chunk_steps": 5}
    with pytest.raises(Diverged) as error:
        fit(plan, state, examples, **given)
    return error.value, finding(error.value, plan, state, examples, **given)


def test_a_stage_whose_output_overflows_on_one_row_is_named_with_the_row():
    error, found = looked(*parts(Overflow()))
    assert found.words.startswith("target's activations odd at (")
    assert found.words.endswith("is inf") and 17 in found.rows and found.step == error.step
    place = int(found.words.partition("(")[2].partition(",")[0])
    assert found.rows[place] == 17
    assert float(found.batch["inputs"][place, 0]) == RARE


def test_a_slope_that_is_none_is_found_one_step_before_the_loss_tells():
    error, found = looked(*parts(Root()))
    assert found.words.startswith("gradient odd/params/") and found.words.endswith("nan")
    assert found.step == error.step - 1 and 17 in found.rows


def test_a_rate_that_throws_parameters_away_names_the_parameter():
    error, found = looked(*parts(nn.Dense(P), rate=1e39))
    assert found.words.startswith("parameter") and found.step == error.step


def test_training_until_a_step_is_the_training_that_goes_on():
    plan, state, examples = parts(nn.Dense(P))
    given = {"batch": B, "chunk_steps": 5}
    half = fit(plan, state, examples, **given, until=(0, 7))
    assert half.step == 7
    whole = fit(plan, half, examples, **given)
    wanted = fit(plan, state, examples, **given)
    for a, b in zip(jax.tree.leaves(whole.variables), jax.tree.leaves(wanted.variables)):
        np.testing.assert_array_equal(a, b)


def test_a_run_leaves_the_batch_and_says_where(tmp_path):
    (tmp_path / "texts").mkdir()
    texts = write_texts(tmp_path / "texts", 20)
    small = {"data.context": 8, "data.test": 0.2, "target.hidden": 8, "target.cell": "elman"}
    config = changed(base(), {**LANGUAGE, **small, "data.path": str(texts)})
    config.guide.learning_rate, config.train.clip = 1e30, 1e30
    line = refusal(tj.run, config, tmp_path / "run")
    assert "first at step 1, seed 0: target's activations" in line and "the same command" in line
    path = pathlib.Path(line.partition(", in ")[2].partition(";")[0])
    with np.load(path) as left:
        windows = left["windows"]
        assert windows.shape == (config.train.batch, config.data.context + 1)
        assert len(left["rows"]) == config.train.batch
