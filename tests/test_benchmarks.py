"""Every setting that a study names is one that a run takes: a study of half an hour must not end at
its last row.

And what the benchmarks beside PyTorch time is what the library computes.
"""

import importlib
import pathlib
import sys

import jax
import numpy as np
import pytest

from theseus_jax.experiment import engine
from theseus_jax.methods.conversion import pair_of
from theseus_jax.methods.convert import parse_mapping

pytestmark = pytest.mark.slow

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def studies():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("image_studies")
    finally:
        sys.path.remove(str(FOLDER))


def test_an_override_may_hold_an_equals_sign_and_keeps_the_type(studies):
    made = studies.settings(
        "convert.mapping=block_1=block_1; pool=block_3,data.unlabelled=False,train.batch=64"
    )
    assert made.convert.mapping == "block_1=block_1, pool=block_3"
    assert (
        made.data.unlabelled is False
        and made.train.batch == 64
        and made.convert.steps == studies.STEPS
    )


def test_every_setting_of_the_studies_is_one_that_a_run_takes(studies):
    rows = {**studies.STUDIES, "guide": studies.GUIDES}
    for text in {text for named in rows.values() for text in named.values()}:
        config = studies.settings(text)
        engine.parts(config)[1].check(config, engine.parts(config)[0])


def test_every_mapping_of_the_studies_fits_its_networks(studies):
    made = pair_of(studies.settings(""), engine.parts(studies.settings(""))[0])
    for name, text in studies.STUDIES["mapping"].items():
        mapping = parse_mapping(
            studies.settings(text).convert.mapping, made.guide, made.target, made.task.example
        )
        assert mapping[-1] == ("pool", "block_3"), name


@pytest.fixture(scope="module")
def similarity():
    sys.path.insert(0, str(FOLDER.parent))
    return importlib.import_module("launch.bench_similarity")


@pytest.mark.parametrize("name", ["cka_debiased", "mutual_knn"])
def test_the_similarity_benchmark_times_the_measure_of_the_library(similarity, name):
    from theseus_jax.similarity import METRICS

    x, y = similarity.drawn(16, 8)
    value, gradient = similarity.ours(similarity.compiled(name, 16, 8), name, x, y)()
    settings = {key: similarity.SETTINGS[key] for key in METRICS[name].parameters}
    assert float(value) == pytest.approx(float(METRICS[name].fn(x, y, **settings)), abs=1e-6)
    assert (gradient is not None) == METRICS[name].differentiable
    if gradient is not None:
        step = 1e-2 * np.asarray(gradient) / np.linalg.norm(gradient)
        change = METRICS[name].fn(x + step, y, **settings) - METRICS[name].fn(
            x - step, y, **settings
        )
        assert float(change) == pytest.approx(2e-2 * np.linalg.norm(gradient), rel=0.02)


def test_the_similarity_benchmark_refuses_a_peer_that_disagrees(similarity):
    class Tensor:
        def __init__(self, value):
            self.value = value

        def double(self):
            return self

        cpu, numpy = double, lambda self: self.value

    gradient = np.array([1.0, -2.0])
    mine = np.float32(0.5), gradient
    apart = similarity.compared(mine, (0.501, Tensor(gradient * 1.01)), "mse")
    assert apart["value_difference"] == pytest.approx(1e-3) and apart[
        "gradient_difference"
    ] == pytest.approx(0.01, rel=0.02)
    for theirs in (
        (0.51, Tensor(gradient)),
        (0.5, Tensor(gradient * 1.1)),
        (float("nan"), Tensor(gradient)),
    ):
        with pytest.raises(ValueError, match="is above"):
            similarity.compared(mine, theirs, "mse")
    # whose derivative is not unique there
    similarity.compared(mine, (0.5, Tensor(-gradient)), "procrustes")


def test_the_alignment_benchmark_times_a_step_that_learns_and_counts_what_it_costs(similarity):
    pair = importlib.import_module("launch.alignment_step")
    shape = dict(vocabulary=11, width=8, depth=2, heads=2, context=8, batch=4)
    made = pair.built(shape, "linear", "float32")
    batches = np.random.default_rng(0).integers(0, 11, (5, 4, 9)).astype(np.int32)
    run = {name: jax.jit(pair.epoch(one)) for name, one in pair.programs(made).items()}
    learnt, losses = run["step"](made.variables, made.guide, batches)
    kept, values = run["forwards_and_distance"](made.variables, made.guide, batches)
    assert float(losses[0]) == pytest.approx(float(values[0]), rel=1e-5)
    jax.tree.map(np.testing.assert_array_equal, kept, made.variables)  # forwards change nothing
    after = run["forwards_and_distance"](learnt, made.guide, batches)[1]
    assert float(np.mean(after)) < float(np.mean(values))
    rounded = pair.built(shape, "linear", "bfloat16")
    low = jax.jit(pair.epoch(pair.programs(rounded)["forwards_and_distance"]))(
        rounded.variables, rounded.guide, batches
    )[1]
    assert low.dtype == np.float32 and 0 < float(np.abs(low - values).max()) < 0.05
    bench = importlib.import_module("launch.bench")
    forwards = bench.lowered_flops(
        pair.programs(made)["forwards"], made.variables, made.guide, batches[0]
    )
    assert bench.step_flops(shape, "linear", batches[0]) > 2 * forwards > 0


def test_the_guided_benchmark_times_steps_of_the_same_target(similarity, studies):
    programs, bench = (
        importlib.import_module(name) for name in ("launch.guided_programs", "guided_step")
    )
    config = bench.deep()
    config.guide.width, config.target.width, config.target.depth, config.train.batch = 4, 8, 5, 8
    made = programs.built(config, 3)
    alone, guided, kept = (
        programs.ours(made, programs.phase_of(made, *given))()
        for given in ((), ("cka_biased",), ("cka_biased", True))
    )
    weight = config.guidance.weight
    assert alone["loss"][0] == pytest.approx(guided["loss"][0] - weight * guided["alignment"][0])
    np.testing.assert_allclose(kept["loss"], guided["loss"], rtol=1e-5)
    parts = programs.counts(made) + programs.guide_count(made)
    assert 0 < parts < programs.counts(made, "cka_biased")
    optimizer = programs.phase_of(made, "cka_biased").optimizer
    peers = {"clip": optimizer.clip, "b2": optimizer.b2, "weight": weight}
    peers["rate"] = optimizer.learning_rate
    assert programs.peer_settings(made) == peers


def test_the_guided_benchmark_refuses_a_peer_that_disagrees(studies):
    bench = importlib.import_module("guided_step")
    first = {"guided_biased": {"loss": [2.0, 1.0]}, "published": {"loss": [2.0001, 3.0]}}
    first["lean"] = {"loss": [2.0, 3.0]}
    assert bench.compared(first)["published_loss"] == pytest.approx(5e-5, rel=1e-3)
    for wrong in (2.01, float("nan")):
        first["lean"] = {"loss": [wrong, 1.0]}
        with pytest.raises(ValueError, match="first step: lean"):
            bench.compared(first)


def test_every_layer_of_the_guide_has_one_of_the_wide_target(studies):
    bench = importlib.import_module("guided_step")
    pairs = [pair.split("=") for pair in bench.wide().guidance.pairs.split(", ")]
    assert len({guide for guide, _ in pairs}) == 21 and pairs[-1] == ["head", "block_2"]
    assert [target for _, target in pairs] == ["stem"] * 7 + ["block_1"] * 7 + ["block_2"] * 7
