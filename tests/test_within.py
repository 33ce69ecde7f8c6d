"""Units that come and go under conversion, guidance and in a selector of paths: plans and runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import changed
from test_experiment import TINY as CONVERTED
from test_guidance import TINY as GUIDED
from test_heads_experiment import TINY as HEADS

import theseus_jax as tj
from theseus_jax.config import base
from theseus_jax.errors import UserError
from theseus_jax.methods.glai.plan import Settings
from theseus_jax.methods.glai.plan import plan as glai_plan
from theseus_jax.methods.plasticity.edits import Freeze
from theseus_jax.methods.plasticity.within import Within
from theseus_jax.nets.models.fcn import mlp
from theseus_jax.nets.sites import masks
from theseus_jax.nets.stage import forward, init
from theseus_jax.objectives import CrossEntropy, Term
from theseus_jax.plan import Optimizer, Phase
from theseus_jax.train import State, fit, inputs_of

I, J, O = 6, 12, 3  # noqa: E741
EXAMPLE = jax.ShapeDtypeStruct((1, I), jnp.float32)


def phases(inside, steps=12):
    optimizer = Optimizer(1e-2, 0.0, 0.0, schedule="constant")
    terms = (Term("ce", 1.0, CrossEntropy()),)
    given = inside.wide, inside.wide.names, terms
    first = Phase("first", *given, 3, optimizer=optimizer)
    return (first, Phase("last", *given, steps, optimizer=optimizer, probes=(print,)))


def inside(**changes):
    return Within(mlp(classes=O, width=J, depth=2, norm="none"), EXAMPLE, 0.5, **changes)


@pytest.mark.parametrize(
    "way, first, later",
    [("prune", (), ("prune",)), ("grow", ("start with 1, 1 units on",), ("grow",))],
)
def test_the_last_phase_becomes_two(way, first, later):
    before, last = phases(inside())
    own = Freeze((0, 0))
    made = inside(way=way)((before, dataclasses.replace(last, edits=(own,))))
    assert [phase.name for phase in made] == ["first", "last", "last, sliced"]
    assert [phase.steps for phase in made] == [3, 6, 6]
    assert tuple(map(str, made[0].edits)) == first
    assert [step for step, _ in made[1].edits_at] == [2, 4] and len(made[1].edits) == 2
    assert made[1].edits[0] == own and str(made[1].edits[1]).startswith(later)
    assert made[2].carry and made[2].probes == (print,) and not made[1].probes
    assert made[2].net == inside(way=way).narrow
    counts = np.sum([edit.counts for _, edit in made[1].edits_at], axis=0)
    counts = counts + made[1].edits[1].counts
    begun = (1, 1) if way == "grow" else (J, J)
    sign = 1 if way == "grow" else -1
    assert tuple(begun + sign * counts) == inside().counts


@pytest.mark.parametrize("way", ("prune", "grow"))
def test_what_is_sliced_off_was_off(way):
    """The narrow network goes on where the wide one stopped, to the bit of its units."""
    one, seen = inside(way=way), {}

    def keep(state, inputs):
        seen[inputs.phase.name] = state.variables
        return []

    made = tuple(dataclasses.replace(phase, probes=(keep,)) for phase in one(phases(one)))
    keys = jax.random.split(jax.random.key(0), 2)
    variables = jax.vmap(lambda key: init(one.wide, key, jnp.zeros((1, I))))(keys)
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(40, I)), jnp.float32)
    data = {"inputs": x, "labels": jnp.asarray(draw.integers(0, O, 40))}
    state = State(0, variables, {}, None, keys)
    end = fit(made, state, data, batch=8, chunk_steps=2)
    wide, narrow = (jax.tree.map(lambda leaf: leaf[0], seen[n]) for n in ("last", "last, sliced"))
    for site, small, count in zip(one.wide.sites, one.narrow.sites, one.counts):
        assert int(masks(wide, site).live.sum()) == count == small.width
        assert bool(masks(narrow, small).live.all())
        assert (np.asarray(masks(narrow, small).born) == -1).all()  # a phase counts its own births
    compact = made[-1].edits[0]
    cut = compact(
        State(0, seen["last"], {}, None, keys), inputs_of(made[-1], 2, data, keys)
    ).variables
    np.testing.assert_allclose(
        forward(one.narrow, jax.tree.map(lambda leaf: leaf[0], cut), x)[0],
        forward(one.wide, wide, x)[0],
        atol=1e-6,
    )
    assert jax.tree.leaves(end.variables["stem"]["params"])[0].shape[-1] == one.counts[0]


def test_what_cannot_be_is_named():
    with pytest.raises(UserError, match="'last' has 4 steps for 3 edits.*give it 6 or more"):
        inside()(phases(inside(), 4))
    with pytest.raises(UserError, match="a compactness of 0.001 leaves stem"):
        Within(inside().target, EXAMPLE, 0.001)(phases(inside()))
    idle = Within(inside().target, EXAMPLE)
    assert idle(phases(inside())) == phases(inside()) and idle.narrow == idle.target


@pytest.mark.slow
def test_a_guided_target_is_pruned_in_every_arm(tmp_path):
    values = {
        "elastic.compactness": 0.5,
        "elastic.edits": 2,
        "arms": ("baseline", "guided_trained"),
    }
    config = changed(base("classification", "guide"), {**GUIDED, **values})
    results = tj.run(config, tmp_path)
    models = {model["name"]: model for model in results["models"]}
    whole = tj.dry_run(changed(base("classification", "guide"), {**GUIDED, **values}))
    assert "prune from 8 to 4" in whole and "slice to 4, 4, 4" in whole
    for name in ("baseline", "guided_trained"):
        assert models[name]["optimizer_steps"] == 12
        net, variables = tj.restore(tmp_path, name)
        assert jax.tree.leaves(variables["stem"]["params"])[0].shape[-1] == 4
    with pytest.raises(UserError, match="config.elastic.way is 'shrink'; choose"):
        tj.dry_run(changed(config, {"elastic.way": "shrink"}))


@pytest.mark.slow
def test_a_converted_target_grows(tmp_path):
    for i in range(12):
        (tmp_path / f"{i}.txt").write_text(f"the {i} cats sat on mat {i + 1}. " * 20)
    config = changed(
        base(),
        {
            **CONVERTED,
            "data.path": str(tmp_path),
            "controls.names": ("from_scratch",),
            "controls.equal_flops": False,
            "elastic.compactness": 0.4,
            "elastic.way": "grow",
            "elastic.edits": 2,
        },
    )
    results = tj.run(config, tmp_path / "run")
    assert [model["name"] for model in results["models"]][1:] == ["converted", "from_scratch"]
    net, variables = tj.restore(tmp_path / "run", "converted")
    widths = [site.width for site in net.sites]
    assert widths and all(width < 64 for width in widths)
    assert all(bool(masks(variables, site).live.all()) for site in net.sites)


@pytest.mark.slow
def test_a_selector_of_paths_begins_whole_and_is_pruned_by_units(tmp_path):
    settings = Settings(
        I, (4,), O, "joint", 9, (Term("ce", 1.0, CrossEntropy()),),
        Optimizer(1e-2), 12, None, Optimizer(1e-2), 5, None, whole=(8,),
    )  # fmt: skip
    made = glai_plan(settings)
    assert [phase.name for phase in made] == ["selector", "selector, sliced", "estimator"]
    assert [phase.steps for phase in made] == [6, 6, 5]
    assert [site.width for phase in made[:2] for site in phase.net.sites] == [8, 4]
    arms = ("mlp_reduced", "glai_joint")
    config = changed(base("head"), {**HEADS, "glai.begin": "whole", "arms": arms})
    results = tj.run(config, tmp_path)
    model = next(one for one in results["models"] if one["name"] == "glai_joint")
    narrow = tj.run(changed(config, {"glai.begin": "narrow"}), tmp_path / "narrow")
    other = next(one for one in narrow["models"] if one["name"] == "glai_joint")
    assert model["parameters"] == other["parameters"]
    assert model["training_flops"] > other["training_flops"]
