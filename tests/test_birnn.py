"""Bidirectional recurrent encoders against float64 loops; padding, directions, and what is
inherited from BERT.
"""

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mistakes import refusal

from theseus_jax.methods.surgery import Inherit
from theseus_jax.nets.masked import Masked
from theseus_jax.nets.models import bert
from theseus_jax.nets.models.birnn import Bidirectional, Block, encoder
from theseus_jax.nets.models.cells import CELLS
from theseus_jax.nets.stage import forward, init
from theseus_jax.train import State
from theseus_jax.trees import leaves_by_path

SIZES = dict(vocabulary=11, width=6, depth=2, hidden=8, positions=9)
IDS = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 0, 0, 0]], np.int32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], np.int32)
LENGTHS = MASK.sum(1)


def net(cell="linear", **changes):
    """Two blocks of the linear cell, one of the others, which take long to compile."""
    return encoder(
        **SIZES
        | dict(recurrent=4, cell=cell, heads=2, depth=2 if cell == "linear" else 1)
        | changes
    )


@functools.lru_cache(maxsize=None)
def variables(given):
    """Every leaf drawn wide, so that no part is too small to be seen."""
    ids = Masked(*[jax.ShapeDtypeStruct((1, 1), jnp.int32)] * 2)
    return drawn(jax.eval_shape(lambda key: init(given, key, ids), jax.random.key(0)))


def drawn(shapes):
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(size=leaf.shape) * 0.7, jnp.float32), shapes
    )


@functools.partial(jax.jit, static_argnames=("given",))
def run(given, variables, ids, mask):
    return forward(given, variables, Masked(ids, mask), capture=given.names[1:-1])[:2]


@functools.partial(jax.jit, static_argnames=("module",))
def applied(module, given, x, mask):
    return module.apply(given, Masked(x, mask))


# Values, token by token in float64


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dense(x, params):
    return x @ params["kernel"] + params.get("bias", 0)


def recurrence(kind, p, tokens):
    """One direction's outputs for the tokens (T, D) of one text."""
    h, c, past, out = 0.0, 0.0, [], []
    for x in tokens:
        if kind == "elman":
            h = np.tanh(dense(x, p["input"]) + (h @ p["recurrent"] if out else 0))
        elif kind == "linear":
            u, r, i, g = np.split(dense(x, p["input"]), 4)
            past.append(u)
            u = sum(p["taps"][3 - k] * past[-1 - k] for k in range(min(4, len(past))))
            a = np.exp(-8 * np.log1p(np.exp(p["decay"])) * sigmoid(r))
            h = a * h + np.sqrt(1 - a**2) * sigmoid(i) * u
            out.append(g / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3))) * h)
            continue
        else:
            h = np.zeros(4) if not out else h
            part = {
                name: dense(x, p["cell"][f"i{name}"]) + dense(h, p["cell"][f"h{name}"])
                for name in (("r", "z") if kind == "gru" else ("i", "f", "g", "o"))
            }
            if kind == "gru":
                n = np.tanh(
                    dense(x, p["cell"]["in"]) + sigmoid(part["r"]) * dense(h, p["cell"]["hn"])
                )
                h = (1 - sigmoid(part["z"])) * n + sigmoid(part["z"]) * h
            else:
                c = sigmoid(part["f"]) * c + sigmoid(part["i"]) * np.tanh(part["g"])
                h = sigmoid(part["o"]) * np.tanh(c)
        out.append(h)
    return np.array(out)


def normalised(x, params):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12) * params["scale"] + params["bias"]


def attended(p, x):
    """Both ways of linear attention over the tokens (T, D) of one text, weight by weight."""
    q, k, v = (dense(x, p[name]).reshape(len(x), 2, 3) for name in ("query", "key", "value"))
    decay = {name: sigmoid(-dense(x, p["both"][name])) for name in ("forget", "forget_back")}
    out = np.zeros((len(x), 2, 3))

    def features(row, matrix):
        up, down = np.exp(row @ matrix), np.exp(-row @ matrix)
        return np.concatenate([up / up.sum(), down / down.sum()])

    for t, h in np.ndindex(len(x), 2):
        weights = []
        for s in range(len(x)):
            kept = np.prod(decay["forget"][s + 1 : t + 1, h]) if s <= t else 1.0
            kept *= np.prod(decay["forget_back"][t:s, h]) if s > t else 1.0
            maps = p["both"]["query_map"][h], p["both"]["key_map"][h]
            weights.append(features(q[t, h], maps[0]) @ features(k[s, h], maps[1]) * kept)
        out[t, h] = np.asarray(weights) @ v[:, h] / np.sum(weights)
    return out.reshape(len(x), 6)


def looped(kind, given, ids):
    """The features of one text (T,) without padding."""
    given = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), given)
    embed = given["embed"]["params"]
    x = normalised(
        embed["tokens"][ids] + embed["positions"][: len(ids)] + embed["types"][0], embed["norm"]
    )
    for block in sorted(given.keys() - {"embed", "features"}):
        p = given[block]["params"]
        if kind == "linear_attention":
            mixed = attended(p, x)
        else:
            mixed = np.concatenate(
                [
                    recurrence(kind, p["birnn"]["forwards"], x),
                    recurrence(kind, p["birnn"]["backwards"], x[::-1])[::-1],
                ],
                axis=1,
            )
        h = normalised(x + dense(mixed, p["out"]), p["attention_norm"])
        up = dense(h, p["up"])
        x = normalised(
            h + dense(up * (1 + np.vectorize(math.erf)(up / 2**0.5)) / 2, p["down"]), p["norm"]
        )
    return x.mean(0)


@pytest.mark.parametrize("kind", [*CELLS, "linear_attention"])
def test_features_are_those_of_a_float64_loop_over_the_real_tokens(kind):
    found = run(net(kind), variables(net(kind)), IDS, MASK)[0]
    assert found.shape == (3, 6) and found.dtype == jnp.float32
    for row, (ids, length) in enumerate(zip(IDS, LENGTHS)):
        np.testing.assert_allclose(
            found[row], looped(kind, variables(net(kind)), ids[:length]), rtol=0, atol=2e-5
        )
    assert np.std(found) > 0.1


# Padding


@pytest.mark.parametrize(
    "kind, keep",
    [(kind, ()) for kind in (*CELLS, "linear_attention")] + [("linear", (2,)), ("linear", (1,))],
)
def test_padding_changes_nothing(kind, keep):
    given = net(kind, keep=keep, heads=2)
    wanted, blocks = run(given, variables(given), IDS, MASK)
    other = np.where(MASK > 0, IDS, (IDS + 7) % 11).astype(np.int32)
    assert (other != IDS).sum() == 6
    np.testing.assert_array_equal(run(given, variables(given), other, MASK)[0], wanted)
    longer = [
        np.pad(array, ((0, 0), (0, 4)), constant_values=fill)
        for array, fill in ((IDS, 8), (MASK, 0))
    ]
    np.testing.assert_allclose(run(given, variables(given), *longer)[0], wanted, rtol=0, atol=1e-6)
    last = blocks[given.names[-2]]
    np.testing.assert_array_equal(last.mask, MASK)
    if 2 not in keep:
        np.testing.assert_array_equal(np.asarray(last.values)[MASK == 0], 0)


def test_a_text_alone_is_what_it_is_in_a_batch_and_an_empty_one_has_zeros():
    given = net()
    wanted = run(given, variables(given), IDS, MASK)[0]
    for row, length in enumerate(LENGTHS[:2]):
        alone = run(
            given, variables(given), IDS[row : row + 1, :length], MASK[row : row + 1, :length]
        )[0]
        np.testing.assert_allclose(alone[0], wanted[row], rtol=0, atol=1e-6)
    empty = run(given, variables(given), IDS, MASK * np.int32([[1], [0], [1]]))[0]
    np.testing.assert_array_equal(empty[1], np.zeros(6))
    np.testing.assert_array_equal(empty[0], wanted[0])


# Directions


def mixed(changed, one_way=None, mask=(1, 1, 1, 1, 0)):
    """Where a `Bidirectional`'s output moves, (T,) booleans, when token `changed` of a text of 4
    tokens and 1 pad does.
    """
    module, mask = Bidirectional("linear", 4), jnp.asarray([mask])
    x = np.random.default_rng(0).normal(size=(1, 5, 6)).astype(np.float32)
    moved = x.copy()
    moved[0, changed] += 1
    given = drawn(
        jax.eval_shape(lambda: module.init(jax.random.key(0), Masked(jnp.asarray(x), mask)))
    )
    a, b = (np.asarray(applied(module, given, values, mask))[0] for values in (x, moved))
    half = {None: slice(None), "forwards": slice(4), "backwards": slice(4, None)}[one_way]
    return (np.abs(a - b)[:, half].max(1) > 1e-6).tolist()


def test_every_token_is_heard_from_both_sides_and_each_direction_is_causal():
    assert mixed(3) == mixed(0) == [True] * 4 + [False]
    assert mixed(4) == [False] * 5
    holed = (1, 1, 0, 1, 0)
    assert mixed(2, mask=holed) == [False] * 5 and mixed(3, mask=holed) == [
        True,
        True,
        False,
        True,
        False,
    ]
    assert mixed(2, "forwards") == [False, False, True, True, False]
    assert mixed(2, "backwards") == [True, True, True, False, False]


def test_the_last_token_reaches_the_first_state_of_the_encoder_and_the_first_the_last():
    given = net()
    wanted = run(given, variables(given), IDS, MASK)[1]["block_1"].values
    for changed, heard in ((4, 0), (0, 4)):
        ids = IDS.copy()
        ids[0, changed] = 7
        found = run(given, variables(given), ids, MASK)[1]["block_1"].values
        assert np.abs(found - wanted)[0, heard].max() > 1e-5
        np.testing.assert_array_equal(found[1:], wanted[1:])


# Beside BERT


def test_all_but_the_mixing_of_tokens_is_inherited_by_name():
    guide = bert.bert(**SIZES, heads=2)
    target = net(recurrent=3)  # 2 * 3 = width: the kernel of "out" fits as well
    parts = ("attention_norm", "up", "down", "norm", "out")
    pairs = tuple((f"block_{i}", f"block_{i}") for i in (1, 2)) + (("embed", "embed"),)
    start = jax.tree.map(lambda leaf: leaf[None] * 0, variables(target))
    state = State(0, start, variables(guide), None, jax.random.split(jax.random.key(0), 1))
    state = Inherit(guide, pairs, (*parts, "embed"))(state, types.SimpleNamespace())
    theirs, ours = (leaves_by_path(tree) for tree in (state.guide_variables, state.variables))
    shared = {path for path in ours if path in theirs}
    assert {path.split("/")[2] for path in ours.keys() - shared} == {"birnn"}
    assert {path.split("/")[2] for path in theirs.keys() - shared} == {"query", "key", "value"}
    for path in shared:
        np.testing.assert_array_equal(ours[path][0], theirs[path])


def test_without_mixing_a_block_is_bert_s():
    guide, target = bert.Block(6, 2, 8), Block(6, 8, 3)
    x = np.random.default_rng(0).normal(size=(3, 5, 6)).astype(np.float32)
    theirs = dict(variables(bert.bert(**SIZES, heads=2))["block_1"]["params"])
    theirs["out"] = {"kernel": jnp.zeros((6, 6)), "bias": theirs["out"]["bias"]}
    ours = {
        **variables(net(recurrent=3))["block_1"]["params"],
        **{name: theirs[name] for name in ("attention_norm", "up", "down", "norm", "out")},
    }
    found, wanted = (
        applied(target, {"params": ours}, x, MASK).values,
        applied(guide, {"params": theirs}, x, MASK).values,
    )
    np.testing.assert_allclose(
        np.asarray(found)[MASK == 1], np.asarray(wanted)[MASK == 1], rtol=0, atol=1e-5
    )


def test_kept_blocks_stay_attention():
    given = net(keep=(1, 3), heads=3, depth=3)
    kinds = [type(stage.module) for stage in given.stages]
    assert kinds == [bert.Embed, bert.Block, Block, bert.Block, bert.Features]
    theirs = bert.bert(**SIZES | dict(depth=3), heads=3)
    assert given.names == ("embed", "block_1", "block_2", "block_3", "features") == theirs.names
    assert given.stages[1].module == bert.Block(6, 3, 8) and given.stages[2].module == Block(
        6, 8, 4, "linear"
    )
    assert net(keep=(1, 2), heads=3) == bert.bert(**SIZES, heads=3)


@pytest.mark.parametrize("kind", [*CELLS, "linear_attention"])
def test_gradients_are_finite_and_reach_every_parameter(kind):
    given = net(kind, depth=1)
    mask = jnp.asarray(MASK * [[1], [1], [0]])  # an empty text among them

    def loss(v):
        return (forward(given, v, Masked(jnp.asarray(IDS), mask))[0] ** 3).sum()

    for path, leaf in leaves_by_path(jax.jit(jax.grad(loss))(variables(given))).items():
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


def test_impossible_encoders_are_refused():
    assert "no recurrent cell 'rnn'; choose one of elman" in refusal(net, "rnn")
    assert "0 units" in refusal(net, recurrent=0)
    assert "blocks [0, 4] cannot be kept: the encoder's are numbered 1 to 2" in refusal(
        net, keep=(0, 2, 4), heads=2
    )
    assert "width 6 cannot have 4 heads" in refusal(net, keep=(1,), heads=4)
    assert "width 6 cannot have 0 heads" in refusal(net, keep=(1,), heads=0)
    long = jnp.ones((1, 10), jnp.int32)
    assert "10 tokens are more than the 9" in refusal(
        forward, net(), variables(net()), Masked(long, long)
    )
