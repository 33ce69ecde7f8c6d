"""Attention transfer: the weights that are compared, what is fitted and what is not, its cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from mixing import drawn

from theseus_jax import cost
from theseus_jax.errors import UserError
from theseus_jax.methods import transfer
from theseus_jax.methods.begin import inherited
from theseus_jax.methods.lookback import seams_before
from theseus_jax.methods.surgery import Inherit
from theseus_jax.methods.transfer import AttentionTransfer, distance
from theseus_jax.nets.models.attention import Attention
from theseus_jax.nets.models.linear_attention import FEATURES, LinearAttention
from theseus_jax.records import training_flops
from theseus_jax.train import State, inputs_of
from theseus_jax.trees import bit_equal

GUIDE, TARGET = tiny.guide(), tiny.target(kind="linear_attention", heads=2)
PAIRS = tuple((name, name) for name in ("embed", "block_1", "block_2", "norm", "head"))
PARTS = (*tiny.INHERIT, "attn")
SHARP = jax.tree.map(lambda leaf: 6.0 * leaf, tiny.single(GUIDE, 5))  # attends to something
X = np.random.default_rng(0).normal(size=(2, 9, 12)).astype(np.float32)


def begun(*edits, net=TARGET):
    state = State(0, tiny.fresh(net), SHARP, None, tiny.keys())
    inputs = inputs_of(tiny.Stands(net), 0, jnp.asarray(tiny.tokens()), tiny.keys())
    for edit in edits:
        state = edit(state, inputs)
    return state, inputs


@pytest.mark.parametrize(
    "module",
    [Attention(12, 3), Attention(12, 4, key_heads=2)]
    + [LinearAttention(12, 3, features=name, chunk=4) for name in FEATURES]
    + [LinearAttention(12, 4, key_heads=2, decay=False)],
)
def test_weights_are_those_by_which_the_output_is_made(module):
    variables = drawn(module, X)
    weights = module.apply(variables, X, method="weights")
    assert weights.shape == (2, module.heads, 9, 9) and float(weights.min()) >= 0
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)
    assert float(jnp.abs(jnp.triu(weights, 1)).max()) == 0
    p = variables["params"]
    z = np.asarray(X @ p["c_attn"]["kernel"] + p["c_attn"]["bias"])
    if isinstance(module, LinearAttention):
        padded = np.pad(z, ((0, 0), (3, 0), (0, 0)))
        z = sum(np.asarray(p["taps"])[k] * padded[:, k : k + 9] for k in range(4))
    v = z[..., -module.groups * module.head_size :].reshape(2, 9, module.groups, -1)
    v = np.repeat(v, module.heads // module.groups, axis=2)
    y = np.einsum("bhts,bshe->bthe", weights, v).reshape(2, 9, 12)
    y = y @ p["c_proj"]["kernel"] + p["c_proj"]["bias"]
    np.testing.assert_allclose(module.apply(variables, X), y, rtol=0, atol=2e-5)


def test_the_distance_is_cross_entropy():
    rng = np.random.default_rng(3)
    wanted, given = (rng.dirichlet(np.ones(4), (2, 3, 5)) for _ in range(2))
    total = -sum(float(w @ np.log(g)) for w, g in zip(wanted.reshape(-1, 4), given.reshape(-1, 4)))
    assert float(distance(jnp.asarray(wanted), jnp.asarray(given))) == pytest.approx(total / 30)


def apart(state, inputs):
    """How far the heads' weights are from the guide's in each block, on windows they are not
    fitted to alone.
    """
    edit, found = AttentionTransfer(GUIDE, PAIRS, 1), []
    stages, x = edit._read(inputs)
    seams = seams_before(GUIDE, SHARP, x, stages)
    for g, _, theirs, ours in edit._places(TARGET):
        x = seams[g]
        wanted = theirs.apply({"params": SHARP[g]["params"]}, x, method="weights")
        params = jax.tree.map(lambda leaf: leaf[0], state.variables[g]["params"])
        found.append(float(distance(wanted, ours.apply({"params": params}, x, method="weights"))))
    return np.asarray(found)


def test_features_and_decays_come_closer_and_nothing_else_moves():
    inherit = Inherit(GUIDE, PAIRS, PARTS)
    before, inputs = begun(inherit)
    after, _ = begun(inherit, AttentionTransfer(GUIDE, PAIRS, 60))
    assert np.all(apart(after, inputs) < apart(before, inputs) - 0.1)
    moved = {"query_map", "key_map", "forget"}
    for stage, tree in before.variables.items():
        ours, theirs = (dict(one.variables[stage].get("params", {})) for one in (before, after))
        for part in ours.keys() - {"attn"}:
            assert bit_equal(ours[part], theirs[part])
        for part in ours.get("attn", {}):
            assert bit_equal(ours["attn"][part], theirs["attn"][part]) == (part not in moved)
    one, other = (tiny.pick(after.variables, seed)["block_1"]["params"] for seed in (0, 1))
    assert bit_equal(one["attn"], other["attn"])  # from the same beginning, on the same windows


def test_its_cost_counts_as_training():
    edit = AttentionTransfer(GUIDE, PAIRS, 7)
    state, inputs = begun(Inherit(GUIDE, PAIRS, PARTS))
    (row,) = edit.told(state, edit(state, inputs), inputs)
    params = tiny.pick(state.variables, 0)
    each, (stages, windows) = 0.0, edit._read(inputs)
    for g, t, theirs, ours in edit._places(TARGET):
        chosen = {name: params[t]["params"]["attn"][name] for name in ours.mixing().fitting}
        x = seams_before(GUIDE, SHARP, windows, stages)[g][: len(windows) // transfer.BATCHES]
        each += cost.lowered_flops(
            jax.grad(
                lambda c, x: transfer._loss(
                    c, theirs, ours, SHARP[g]["params"], params[t]["params"], x
                )
            ),
            chosen,
            x,
        )
    assert row["training_flops"] == pytest.approx(7 * each, rel=0.1)  # what is constant differs
    assert training_flops([{**row, "model": "converted"}], "converted") == row["training_flops"]


def test_it_stands_among_the_edits_that_begin_a_target_and_is_told_of_when_scored():
    settings = tiny.settings(inherit=PARTS, decays="measured", transfer=5)
    assert [type(edit).__name__ for edit in inherited(GUIDE, PAIRS, settings)] == [
        "Inherit",
        "LookBack",
        "AttentionTransfer",
    ]
    last = inherited(GUIDE, PAIRS, settings, held=Held())[-1]
    state, inputs = begun(Inherit(GUIDE, PAIRS, PARTS))
    rows = last.told(state, last(state, inputs), inputs)
    assert [row["kind"] for row in rows] == ["stored", "begin", "begin"]
    assert "for 5 steps" in rows[1]["edit"]


class Held:
    def scores(self, net, variables):
        return {"loss": np.zeros(tiny.SEEDS)}


@pytest.mark.parametrize(
    "net, word",
    [
        (tiny.target(), "set convert.transfer to 0, or target.cell to 'linear_attention'"),
        (
            tiny.target(kind="linear_attention", heads=4),
            "block_1 has 4 heads and the guide's block_1 2; set target.heads",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused(net, word):
    with pytest.raises(UserError, match=word):
        AttentionTransfer(GUIDE, PAIRS, 1).check(net, tiny.fresh(net), SHARP)
