"""Edits of variables, masks and optimizer state, states that are carried on, watches, and what
compiles for them.
"""

import dataclasses
import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from theseus_jax.errors import UserError
from theseus_jax.feeds import Cached, Feed, Views, Whole
from theseus_jax.nets.stage import Tie, init, network
from theseus_jax.nets.variables import partition
from theseus_jax.objectives import CrossEntropy, Term
from theseus_jax.plan import Optimizer, Phase, describe
from theseus_jax.program import loss_fn, program_of
from theseus_jax.train import Hooks, Position, State, fit
from theseus_jax.trees import bit_equal

N, P, J, O, B = 60, 5, 7, 3, 10


class Masked(nn.Module):
    """A hidden layer whose units a mask switches off."""

    width: int

    @nn.compact
    def __call__(self, x):
        mask = self.variable("masks", "units", lambda: jnp.ones(self.width))
        return nn.relu(nn.Dense(self.width)(x)) * mask.value


NET = network([("hidden", Masked(J)), ("head", nn.Dense(O))])
RNG = np.random.default_rng(0)
DATA = {
    "inputs": jnp.asarray(RNG.normal(size=(N, P)), jnp.float32),
    "labels": jnp.asarray(RNG.integers(0, O, N), jnp.int32),
}
KEYS = jax.random.split(jax.random.key(3), 2)
TERMS = (Term("cross_entropy", 1.0, CrossEntropy()),)


def phase(steps=6, **changes):
    given = {"optimizer": Optimizer(1e-2), "trainable": NET.names} | changes
    return Phase("train", NET, given.pop("trainable"), TERMS, steps, **given)


VARIABLES = jax.vmap(lambda key: init(NET, key, jnp.zeros((1, P))))(KEYS)


def start():
    return State(0, VARIABLES, {}, None, KEYS)


def run(*phases, hooks=Hooks(), state=None, position=Position()):
    return fit(
        phases, state or start(), DATA, batch=B, chunk_steps=3, hooks=hooks, position=position
    )


def moments(state):
    return state.opt_state[1]


@dataclasses.dataclass(frozen=True)
class Silence:
    """Switch a unit off and forget what the optimizer knows of it."""

    unit: int
    seen: list = dataclasses.field(default_factory=list, compare=False)

    def __call__(self, state, inputs):
        self.seen.append((state.step, jax.tree.map(np.asarray, moments(state))))
        hidden = state.variables["hidden"]
        masks = {"units": hidden["masks"]["units"].at[:, self.unit].set(0.0)}
        adam = moments(state)
        mu = jax.tree_util.tree_map_with_path(
            lambda path, leaf: (
                leaf.at[..., self.unit].set(0.0) if "hidden" in jax.tree_util.keystr(path) else leaf
            ),
            adam.mu,
        )
        opt_state = (state.opt_state[0], adam._replace(mu=mu), *state.opt_state[2:])
        return state._replace(
            variables={**state.variables, "hidden": {**hidden, "masks": masks}}, opt_state=opt_state
        )


def test_an_edit_sees_and_changes_masks_and_optimizer_state_and_survivors_are_bit_equal():
    edit = Silence(2)
    cut = run(phase(6, edits_at=((3, edit),)))
    ((step, before),) = edit.seen
    assert (
        step == 3
        and all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(before.mu))
        and (before.count == 3).all()
    )
    np.testing.assert_array_equal(
        cut.variables["hidden"]["masks"]["units"], np.ones((2, J)) - np.eye(J)[2]
    )
    # a unit that a mask switches off gets no gradient: beside decay, which moves kernels alone, it
    # stays
    half, whole = run(phase(3)), run(phase(6))
    bias = [one.variables["hidden"]["params"]["Dense_0"]["bias"] for one in (half, cut, whole)]
    assert not bit_equal(bias[1][:, 2], bias[2][:, 2])
    by_hand = run(phase(6, edits_at=((3, Silence(2)), (3, Silence(2)))))
    assert bit_equal(by_hand.variables, cut.variables)  # doing it twice changes nothing
    none = run(phase(6, edits_at=((3, lambda state, inputs: state),)))
    # an edit that does nothing leaves every bit as it is
    assert bit_equal(none.variables, whole.variables)


@pytest.mark.parametrize("chunk", [1, 4, 7, 20])
@pytest.mark.parametrize("at", [(), (3,), (1, 2, 9, 13)])
def test_an_edit_inside_a_phase_changes_no_step_whatever_the_chunks(chunk, at):
    """A chunk that an edit cuts short runs through the whole chunk's program, whose other steps
    must do nothing.
    """
    marks = tuple((step, lambda state, inputs: state) for step in at)
    end = fit((phase(20, edits_at=marks),), start(), DATA, batch=B, chunk_steps=chunk).variables
    assert bit_equal(end, fit((phase(20),), start(), DATA, batch=B, chunk_steps=20).variables)


def test_an_edit_of_a_frozen_prefix_is_seen_although_its_outputs_are_kept():
    def larger(state, inputs):
        hidden = jax.tree.map(lambda leaf: 2.0 * leaf, state.variables["hidden"])
        return state._replace(variables={**state.variables, "hidden": hidden})

    plain = {"trainable": ("head",), "edits_at": ((3, larger),)}
    kept = Feed(route=Whole(start="head"), cached=(Cached("target", "hidden"),))
    ends = [run(phase(6, **plain, **feed)).variables for feed in ({}, {"feed": kept})]
    for ours, theirs in zip(*map(jax.tree.leaves, ends)):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_an_edit_may_keep_what_it_puts_into_the_optimizer_state():
    held = jnp.ones((2, J))

    def edit(state, inputs):
        adam = moments(state)
        mu = {
            **adam.mu,
            "hidden": {
                "params": {"Dense_0": {**adam.mu["hidden"]["params"]["Dense_0"], "bias": held}}
            },
        }
        return state._replace(
            opt_state=(state.opt_state[0], adam._replace(mu=mu), *state.opt_state[2:])
        )

    run(phase(6, edits=(edit,), edits_at=((2, edit), (4, edit))))
    assert float(held.sum()) == 2 * J


def test_the_guide_is_not_an_edit_s_to_change():
    with pytest.raises(UserError, match="changed the guide's variables, which stay as they are"):
        run(phase(edits=(lambda state, inputs: state._replace(guide_variables={"a": 1}),)))


def test_what_is_kept_must_be_what_a_step_would_compute():
    def refusal(feed, **changes):
        with pytest.raises(UserError) as error:
            run(phase(feed=feed, **changes))
        return str(error.value)

    kept = (Cached("target", "hidden"),)
    assert "changes every batch first (two of every example, dropout 0.5" in refusal(
        Feed(route=Whole(start="head"), transforms=(Views(0.5),), cached=kept), trainable=("head",)
    )
    assert "let the route start right behind hidden" in refusal(
        Feed(cached=kept), trainable=("head",)
    )
    assert "trains hidden before it; keep what stays frozen" in refusal(
        Feed(route=Whole(start="head"), cached=kept)
    )


def test_a_stage_that_is_tied_to_a_trained_one_is_differentiated():
    tied = network(
        [
            ("first", nn.Dense(P, use_bias=False)),
            ("second", nn.Dense(P, use_bias=False)),
            ("head", nn.Dense(O)),
        ],
        ties=[Tie("first", "kernel", "second", "kernel")],
    )
    variables = init(tied, KEYS[0], jnp.zeros((1, P)))
    one = program_of(Phase("train", tied, ("second",), TERMS, 1))
    params, rest = partition(variables, ("second",))
    slope = jax.grad(lambda p: loss_fn(one, p, rest, {}, DATA, (0.0, 1.0), KEYS[0])[0])(params)
    kernel = jnp.asarray(params["second"]["params"]["kernel"])

    def loss(kernel):
        head = rest["head"]["params"]
        logits = DATA["inputs"] @ kernel @ kernel @ head["kernel"] + head["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, DATA["labels"]).mean()

    np.testing.assert_allclose(
        slope["second"]["params"]["kernel"], jax.grad(loss)(kernel), atol=1e-6
    )


def test_edits_before_a_phase_see_an_optimizer_state_in_every_phase():
    edits = [Silence(unit) for unit in range(3)]
    run(*(phase(3, edits=(edit,)) for edit in edits))
    for edit in edits:
        ((step, seen),) = edit.seen
        assert step == 0 and seen.count.shape == (2,) and not np.any(seen.count)
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(seen.mu))


def constant(steps, **changes):
    return phase(steps, optimizer=Optimizer(1e-2, schedule="constant"), **changes)


def test_a_carried_optimizer_state_goes_on_as_in_one_phase_but_for_the_order_of_the_data():
    seen = Silence(0)
    run(constant(3), constant(3, carry=True, edits=(seen,)))
    ((_, carried),) = seen.seen
    assert (carried.count == 3).all() and all(
        np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(carried.nu)
    )
    fresh = Silence(0)
    run(constant(3), constant(3, edits=(fresh,)))
    assert not np.any(fresh.seen[0][1].count)


def test_going_on_from_any_saved_state_ends_bit_equal_with_edits_and_carried_states():
    plan, saved = (
        (
            constant(5, edits_at=((3, Silence(1)),)),
            constant(4, carry=True, edits=(Silence(3),)),
            constant(3),
        ),
        [],
    )
    ended = run(
        *plan,
        hooks=Hooks(
            save=lambda *both: saved.append(
                jax.tree.map(
                    lambda leaf: jnp.copy(leaf) if isinstance(leaf, jax.Array) else leaf, both
                )
            ),
            save_seconds=0.0,
        ),
    )
    assert {(position.phase, state.step) for position, state in saved} >= {
        (0, 3),
        (1, 0),
        (1, 3),
        (2, 0),
    }
    for position, state in saved[:-1]:
        again = jax.tree.map(
            lambda leaf: jnp.copy(leaf) if isinstance(leaf, jax.Array) else leaf, state
        )
        assert bit_equal(run(*plan, state=again, position=position).variables, ended.variables), (
            position.phase,
            state.step,
        )


def test_twenty_edits_compile_what_one_phase_compiles(caplog):
    def compilations(*phases):
        with caplog.at_level(logging.DEBUG, logger="jax._src.interpreters.pxla"):
            caplog.clear()
            run(*phases)
            return [
                record.getMessage()
                for record in caplog.records
                if "Compiling" in record.getMessage()
            ]

    def scaled(state, inputs):
        return state._replace(variables=jax.tree.map(lambda leaf: leaf * 1.5, state.variables))

    run(phase(44, edits_at=((2, scaled),)), phase(2, edits=(scaled,)))  # all that is compiled once
    assert compilations(*(phase(2, edits=(scaled,)) for _ in range(22))) == []
    assert compilations(phase(44, edits_at=tuple((2 * i, scaled) for i in range(1, 22)))) == []


@dataclasses.dataclass(frozen=True)
class Units:
    """Per unit: mean activation, gradient norm, size of the update, and the bias before it."""

    every: int
    target: tuple = ("hidden",)
    guide: tuple = ()

    def __call__(self, record):
        slope, moved, params = (
            tree["hidden"]["params"]["Dense_0"]
            for tree in (record.gradient, record.updates, record.params)
        )
        return {
            "activation": record.signals.target["hidden"].mean(0),
            "gradient": jnp.linalg.norm(slope["kernel"], axis=0),
            "update": moved["bias"],
            "bias": params["bias"],
        }


def test_a_watch_reads_a_step_where_it_asks_and_changes_nothing():
    rows = []
    watched = run(phase(7, watches=(Units(2),)), hooks=Hooks(log=rows.append))
    found = [row for row in rows if row["kind"] == "watch"]
    assert [(row["step"], row["seed"]) for row in found] == [
        (step, seed) for step in (2, 4, 6) for seed in (0, 1)
    ]
    assert all(len(row["gradient"]) == J and min(row["activation"]) >= 0 for row in found)
    assert bit_equal(watched.variables, run(phase(7)).variables)
    one, every = [row for row in found if row["seed"] == 1], []
    run(phase(7, watches=(Units(1),)), hooks=Hooks(log=every.append))
    steps = [row for row in every if row["kind"] == "watch" and row["seed"] == 1]
    assert [row["step"] for row in steps] == list(range(1, 8))
    np.testing.assert_allclose(
        steps[1]["bias"], np.add(steps[0]["bias"], steps[0]["update"]), atol=1e-7
    )
    np.testing.assert_allclose(one[0]["gradient"], steps[1]["gradient"], rtol=1e-5)


def test_what_cannot_be_carried_or_edited_is_refused_before_training():
    rows = []

    def refusal(*phases):
        with pytest.raises(UserError) as error:
            run(*phases, hooks=Hooks(log=rows.append))
        return str(error.value)

    edit = Silence(0)
    assert "an edit after 6; give 1 .. steps - 1" in refusal(phase(6, edits_at=((6, edit),)))
    assert "trained hidden, head and not head; train the same parts" in refusal(
        phase(), phase(carry=True, trainable=("head",))
    )
    assert "trained nothing and not hidden, head" in refusal(phase(carry=True))
    assert "trained by sgd and cannot carry on the state of adamw" in refusal(
        phase(), phase(carry=True, optimizer=Optimizer(rule="sgd"))
    )
    assert not rows

    def wider(state, inputs):
        return state._replace(
            variables=jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf], -1), state.variables)
        )

    assert "leave an optimizer state of other shapes than what it trains" in refusal(
        phase(3), phase(3, carry=True, edits=(wider,))
    )


def test_a_plan_tells_its_edits_and_what_it_carries():
    text = describe(
        (phase(6), phase(6, carry=True, edits_at=((3, "silence 2"),), watches=("units",)))
    )
    assert (
        "   carries  the optimizer state of the phase before on" in text
        and "   at       step 3: silence 2" in text
    )
    assert "   watches  units" in text and "   route    inputs -> first stage .. last stage" in text
