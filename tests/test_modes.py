"""A module learns that it trains by whichever word it has for it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theseus_jax as tj
from theseus_jax.methods.guide_modes import guide_mode
from theseus_jax.methods.recalibrate import batch_statistics
from theseus_jax.nets.modes import MODES, mode_arguments

X = jnp.asarray(3 + 2 * np.random.default_rng(0).normal(size=(64, 5)), jnp.float32)
KEY = jax.random.key(0)


def block(word):
    """A module of batch norm and dropout whose mode is called `word`, which has no default."""

    def call(self, x, mode):
        off = mode if word in ("deterministic", "use_running_average") else not mode
        return nn.Dropout(0.5, deterministic=off)(nn.BatchNorm(use_running_average=off)(x))

    space = {}
    exec(f"def __call__(self, x, {word}):\n    return call(self, x, {word})", {"call": call}, space)
    return type(f"Block_{word}", (nn.Module,), {"__call__": nn.compact(space["__call__"])})()


@pytest.mark.parametrize("word", MODES)
def test_batch_norm_learns_and_dropout_drops_in_training_alone(word):
    net = tj.network([("block", block(word))])
    variables = tj.init(net, KEY, X)
    kept, _, same = tj.forward(net, variables, X)
    np.testing.assert_allclose(kept, X / np.sqrt(1 + 1e-5), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, same["block"], variables["block"]["batch_stats"])
    y, _, changed = tj.forward(net, variables, X, train=True, key=KEY)
    assert 0.3 < float(jnp.mean(y == 0)) < 0.7
    mean = changed["block"]["BatchNorm_0"]["mean"]
    # flax's momentum is 0.99
    np.testing.assert_allclose(mean, 0.01 * np.asarray(X).mean(0), rtol=1e-4)


@pytest.mark.parametrize("word", MODES)
def test_recalibration_and_the_modes_of_a_guide_take_every_word(word):
    net = tj.network([("block", block(word))])
    variables = tj.init(net, KEY, X)
    measured = batch_statistics(net, variables, X)["block"]["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(measured["mean"], np.asarray(X, np.float64).mean(0), rtol=1e-5)
    guide, held = guide_mode(net, variables, None, "batch")
    y = tj.forward(guide, held, X)[0]
    np.testing.assert_allclose(np.asarray(y).mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(y).std(0), 1, atol=1e-3)


def test_a_mode_fixed_in_the_constructor_is_left_to_it():
    assert mode_arguments(nn.Dropout(0.5, deterministic=True), True) == {}
    assert mode_arguments(nn.Dropout(0.5), True) == {"deterministic": False}
    assert mode_arguments(nn.BatchNorm(), False) == {"use_running_average": True}
    assert mode_arguments(nn.Dense(3), True) == {}
    net = tj.network([("norm", nn.BatchNorm()), ("drop", nn.Dropout(0.5, deterministic=True))])
    variables = tj.init(net, KEY, X)
    y, _, changed = tj.forward(net, variables, X, train=True, key=KEY)
    np.testing.assert_allclose(np.asarray(y).mean(0), 0, atol=1e-5)  # dropped nothing
    assert float(jnp.abs(changed["norm"]["mean"]).min()) > 0


def test_a_mode_that_nobody_could_switch_is_refused_by_name():
    class Field(nn.Module):
        is_training: bool = False

        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=not self.is_training)(x)

    with pytest.raises(
        tj.UserError,
        match=r"stage 'b', a Field, has its mode 'is_training' as a field.*is_training=False\)",
    ):
        tj.network([("a", nn.Dense(3)), ("b", Field())])
