"""A whole comparison of heads: the files of the contract, going on after SIGKILL, few-shot
episodes, mistakes in one line.
"""

import json

import jax
import numpy as np
import pytest
from killing import killed_and_ended, rows, timeless
from settings import changed

import theseus_jax as tj
from theseus_jax import config as schema
from theseus_jax.arms import Turn
from theseus_jax.data.dataset import DataSet, Labelled
from theseus_jax.data.episodes import episode
from theseus_jax.data.labelled import digits
from theseus_jax.errors import UserError
from theseus_jax.evaluate import class_scores
from theseus_jax.experiment.engine import arms_of
from theseus_jax.methods.glai.arms import Heads
from theseus_jax.methods.glai.results import claims, curve, reached
from theseus_jax.tasks.features import SOURCES, Task
from theseus_jax.trees import bit_equal

pytestmark = pytest.mark.slow

TINY = {
    "data.train": 96,
    "data.validation": 48,
    "data.test": 48,
    "head.hidden": (8,),
    "seeds": 2,
    "train.epochs": 3,
    "train.patience": 2,
    "search.epochs": 2,
    "search.seeds": 1,
    "search.adam_rates": (3e-3, 1e-2),
    "search.sgd_rates": (1e-2,),
    "search.decays": (1e-3,),
    "search.penalties": (1e-3, 1e-1),
    "glai.selector_epochs": 2,
    "report.latency_repeats": 2,
    "arms": (
        "mlp_sgd",
        "mlp_adam",
        "mlp_reduced",
        "logistic",
        "glai_path",
        "glai_joint",
        "glai_untrained",
        "glai_joint_ridge",
    ),
}


def tiny(**changes):
    return changed(schema.base("head"), TINY, **changes)


def trials(config, arm):
    return {one.name: one.search.trials for one in arms_of(config)}[arm]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "a"
    return path, tj.run(tiny(), path)


def test_a_run_writes_every_file_of_the_contract(finished):
    path, results = finished
    for name in (
        "config.json",
        "plan.txt",
        "versions.json",
        "metrics.jsonl",
        "results.json",
        "report.html",
    ):
        assert (path / name).stat().st_size > 0, name
    assert json.loads((path / "results.json").read_text()) == results
    assert [model["name"] for model in results["models"]] == list(TINY["arms"])
    assert (
        results["metric"] == "accuracy" and results["higher_is_better"] and results["chance"] == 0.1
    )
    for model in results["models"]:
        assert len(model["seeds"]) == 2 and model["value"] == pytest.approx(np.mean(model["seeds"]))
        assert (
            model["parameters"] > 0
            and model["latency_us"] > 0
            and model["flops_per_example"] > 0
            and model["seconds"] > 0
        )
    named = {model["name"]: model for model in results["models"]}
    spent = Heads(tiny(), Task(tiny())).budget
    assert (
        named["mlp_adam"]["parameters"] == spent.original
        and named["mlp_reduced"]["parameters"] == spent.reduced
    )
    selector = spent.reduced - (4 + 1) * 10
    assert named["glai_path"]["parameters"] == selector + spent.kept
    assert named["glai_joint"]["parameters"] == selector + spent.pairs * 10 <= spent.original
    assert results["selector_epochs"]["glai_untrained"] == [0, 0]
    assert {row["selection"] for row in results["conversions"]} == {"global", "joint"}
    assert all(
        row["largest_logit_difference"] < 1e-5 * row["largest_logit"]
        and row["pruning_error"] <= row["pruning_bound"]
        for row in results["conversions"]
    )
    assert sorted(p.name for p in (path / "checkpoints").glob("*/")) == sorted(
        [
            *TINY["arms"],
            *(p for p in ("seeds", "unfinished", "search") if (path / "checkpoints" / p).exists()),
        ]
    )


def test_what_is_restored_scores_what_the_table_says(finished):
    path, results = finished
    data = Task(tiny()).load(path / "cache")[1].sets(0)
    for model in results["models"]:
        for seed in range(2):
            net, variables = tj.restore(path, model["name"], seed)
            found = class_scores(
                net, jax.tree.map(lambda leaf: leaf[None], variables), data.test.x, data.test.y
            )
            assert found.accuracy[0] == pytest.approx(model["seeds"][seed]), model["name"]


def test_the_search_is_the_same_for_all_and_chooses_by_validation(finished):
    path, results = finished
    found = rows(path)
    for arm in TINY["arms"]:
        mine = [row for row in found if row["kind"] == "trial" and row["model"] == arm]
        assert [row["trial"] for row in mine] == list(range(len(trials(tiny(), arm)))) and all(
            "test_score" not in row for row in mine
        )
        best = max(mine, key=lambda row: (row["validation_score"], -row["validation_loss"]))
        chosen = next(model for model in results["models"] if model["name"] == arm)
        point = trials(tiny(), arm)[best["trial"]]
        assert (chosen["learning_rate"] or 0.0, chosen["decay"]) == (point.rate, point.decay)
    assert (
        len(
            {
                len(trials(tiny(), arm))
                for arm in TINY["arms"]
                if not arm.endswith(("sgd", "logistic", "ridge"))
            }
        )
        == 1
    )


def test_times_are_of_training_alone_and_count_selector_and_conversion(finished):
    path, _ = finished
    found = rows(path)
    points = curve(found, "glai_joint", 1)
    mine = [row for row in found if row.get("model") == "glai_joint" and row.get("seed") == 1]
    before = sum(
        row["seconds"]
        for row in mine
        if row["kind"] in ("conversion", "maturity", "stored")
        or row["kind"] == "train"
        and row["phase"] == "selector"
    )
    assert {row["kind"] for row in mine} >= {"conversion", "maturity", "stored"}
    first = next(
        row["seconds"] for row in mine if row["kind"] == "train" and row["phase"] == "estimator"
    )
    assert points[0][0] == pytest.approx(before + first) and before > 0
    assert [score for _, score in points] == [
        row["score"] for row in mine if row["kind"] == "score" and row["phase"] == "estimator"
    ]
    assert (
        reached([(1.0, 0.2), (2.0, 0.5), (3.0, 0.5)], 0.5) == 2.0
        and reached([(1.0, 0.2)], 0.5) is None
    )


def test_maturity_is_logged_each_epoch_of_the_selector(finished):
    mine = [
        row
        for row in rows(finished[0])
        if row["kind"] == "maturity" and row["model"] == "glai_joint" and row["seed"] == 0
    ]
    assert [row["step"] for row in mine] == [6, 12]
    assert all(
        row["settling"] > 0 and 0 < row["pattern_distance"] < 1 and 0 <= row["oui"] <= 1
        for row in mine
    )


def test_a_killed_run_goes_on_and_ends_with_the_same_rows_and_weights(tmp_path, finished):
    moments = ('"trial": 1', '"phase": "selector", "step": 6, "score"')
    killed_and_ended(tiny(train__save_seconds=0.0), tmp_path / "b", moments)
    assert timeless(rows(tmp_path / "b")) == timeless(rows(finished[0]))
    for name in ("mlp_sgd", "glai_path", "glai_joint_ridge"):
        for seed in (0, 1):
            assert bit_equal(
                tj.restore(tmp_path / "b", name, seed)[1], tj.restore(finished[0], name, seed)[1]
            )


def test_a_contrastive_run_has_losses_for_scores(tmp_path):
    arms = ("mlp_adam", "mlp_reduced", "linear_adam", "glai_joint", "glai_path")
    results = tj.run(
        tiny(arms=arms, head__loss="infonce", head__outputs=4, search__adam_rates=(1e-2,)),
        tmp_path / "c",
    )
    assert (
        results["metric"] == "loss"
        and not results["higher_is_better"]
        and results["chance"] is None
    )
    for model in results["models"]:
        assert (
            model["seeds"] == model["losses"]
            and model["value"] > 0
            and model["validation_score"] < 0
        )
    holds = {claim["text"]: claim for claim in results["claims"]}
    losses = {model["name"]: model["losses"] for model in results["models"]}
    gap = np.subtract(losses["mlp_adam"], losses["glai_joint"]).mean()
    assert f"{gap:+.4f}" in holds["glai_joint scores better than mlp_adam"]["measured"]


def test_claims_pair_seeds_and_need_every_seed_for_a_time():
    def model(name, seeds, times=None):
        base = {
            "name": name,
            "seeds": seeds,
            "losses": [1.0] * len(seeds),
            "value": float(np.mean(seeds)),
        }
        return base | {
            f"seconds_to_{rival}_seeds": times or [1.0] * len(seeds)
            for rival in ("mlp_sgd", "mlp_adam")
        }

    made = claims(
        [
            model("mlp_adam", [0.90, 0.92, 0.94], [2.0, 2.0, 2.0]),
            model("glai_joint", [0.91, 0.93, 0.95], [1.0, 0.9, 1.1]),
        ],
        [{"largest_logit_difference": 2e-4, "largest_logit": 4.0}],
        100,
    )
    found = {claim["text"].split(":")[0]: claim for claim in made}
    assert (
        found["glai_joint scores better than mlp_adam"]["holds"]
        and not found["the conversion is exact"]["holds"]
    )
    speed = next(claim for claim in made if "sooner" in claim["text"])
    assert speed["holds"] and speed["measured"].startswith("2.01 times as fast [1.56, 2.57]")
    assert (
        "+1.0 of 100 test examples" in found["glai_joint scores better than mlp_adam"]["measured"]
    )
    for times in ([1.0, None], [1.0, 4.0], [0.01, 1.0]):
        slow = claims(
            [model("mlp_adam", [0.9, 0.9]), model("glai_joint", [0.9, 0.91], times)], [], 100
        )
        assert not any(claim["holds"] for claim in slow)


def test_a_search_passes_over_a_trial_that_diverges_and_says_so_when_all_do(tmp_path):
    c = tiny(arms=("linear_sgd",), search__sgd_rates=(1e30, 1e-2))
    results = tj.run(c, tmp_path / "d")
    assert results["models"][0]["learning_rate"] == 1e-2
    assert [
        row["validation_score"] is None for row in rows(tmp_path / "d") if row["kind"] == "trial"
    ] == [True, False]
    with pytest.raises(UserError, match="every trial of linear_sgd diverged"):
        tj.run(tiny(arms=("linear_sgd",), search__sgd_rates=(1e30,)), tmp_path / "e")


def test_facts_are_those_of_the_data():
    data = digits()
    assert SOURCES["digits"] == (data.train.x.shape[1], len(data.classes), len(data.train.y))


def drawings():
    y = np.repeat(np.arange(12), 20).astype(np.int32)
    x = np.arange(240 * 3, dtype=np.float32).reshape(240, 3)
    parts = [
        Labelled(x[y < 4], y[y < 4]),
        Labelled(x[(y >= 4) & (y < 8)], y[(y >= 4) & (y < 8)]),
        Labelled(x[y >= 8], y[y >= 8]),
    ]
    return DataSet("omniglot", *parts, tuple(f"c{i}" for i in range(12)), "0" * 64, "")


def test_an_episode_has_disjoint_drawings_of_alphabets_of_its_own():
    seen = {}
    for seed in (-2, -1, 0, 1):
        one = episode(drawings(), seed, ways=3, shots=8, key=0)
        parts = (one.train, one.validation, one.test)
        assert [len(part.y) for part in parts] == [24, 18, 18]
        numbers = np.concatenate([part.x[:, 0] for part in parts])
        assert len(np.unique(numbers)) == 60
        characters = {
            tuple(np.unique(part.x[part.y == label][:, 0] // 60))
            for part in parts
            for label in range(3)
        }
        assert len(characters) == 3 and all(len(c) == 1 for c in characters)
        assert {name in ("c8", "c9", "c10", "c11") for name in one.classes} == {seed >= 0}
        seen[seed] = numbers.tolist()
    assert seen[0] != seen[1] and seen[-1] != seen[-2]
    with pytest.raises(UserError, match="5 ways of 8 shots; there are 4 characters"):
        episode(drawings(), 0, ways=5, shots=8, key=0)
    with pytest.raises(UserError, match="lower data.ways or data.shots"):
        episode(drawings(), 0, ways=3, shots=17, key=0)


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            dict(task="heads"),
            "config.task is 'heads'; choose one of language_model, classification, head",
        ),
        (dict(arms=("mlp", "glai_joint")), "config.arms has mlp; choose from mlp_sgd"),
        (
            dict(arms=("glai_path",)),
            "glai_path without mlp_reduced, whose settings they take; add mlp_reduced",
        ),
        (dict(arms=("mlp_reduced", "glai_joint_ridge")), "glai_joint_ridge without glai_joint"),
        (dict(head__hidden=(1,), glai__rho=0.3), "rho = 0.3 leaves no unit"),
        (dict(glai__rho=0.01, head__hidden=(100,)), "K|paths|parameters to spend"),
        (dict(head__hidden=()), "config.head.hidden is \\(\\)"),
        (dict(data__source="mnist"), "config.data.source is 'mnist'; choose one of digits"),
        (
            dict(data__source="bbc"),
            "data.backbone is 'none', which cannot read 'bbc'; set it to minilm",
        ),
        (dict(data__backbone="minilm"), "'minilm', which cannot read 'digits'; set it to none"),
        (
            dict(data__source="tfds", data__backbone="efficientnet_lite0"),
            "does not tell the features' width, the classes",
        ),
        (
            dict(data__train=8),
            "8 training examples are fewer than a batch of 16; lower train.batch",
        ),
        (dict(head__loss="infonce"), "infonce with config.head.outputs = 0"),
        (
            dict(head__loss="infonce", head__outputs=4),
            "logistic, glai_joint_ridge, which solve for class labels",
        ),
        (dict(search__adam_rates=(0.0,)), "config.search.adam_rates"),
        (dict(glai__settled_share=1.5), "a share in \\(0, 1\\)"),
    ],
)
def test_mistakes_are_one_line_that_names_them(changes, words, tmp_path):
    with pytest.raises(UserError, match=words) as caught:
        tj.run(tiny(**changes), tmp_path / "x")
    assert "\n" not in str(caught.value) and not (tmp_path / "x").exists()


def test_arms_may_be_named_in_any_order(tmp_path):
    results = tj.run(tiny(arms=("glai_joint_ridge", "glai_joint", "mlp_reduced")), tmp_path / "o")
    assert [model["name"] for model in results["models"]] == [
        "mlp_reduced",
        "glai_joint",
        "glai_joint_ridge",
    ]


@pytest.mark.parametrize("classes", [5, 12])
def test_a_wrong_number_of_classes_is_refused(classes, tmp_path):
    with pytest.raises(
        UserError, match=f"digits has 10 classes, labels up to 9, and the config says {classes}"
    ):
        tj.run(tiny(data__classes=classes), tmp_path / "k")


def test_a_workdir_whose_run_found_no_data_takes_a_corrected_config(tmp_path):
    with pytest.raises(UserError, match="no.npz"):
        tj.run(tiny(data__source="cifar10", data__path=str(tmp_path / "no.npz")), tmp_path / "w")
    assert tj.run(tiny(arms=("mlp_reduced",)), tmp_path / "w")["models"]


def test_missing_data_tell_how_to_get_them(tmp_path):
    c = tiny(data__source="cifar10", data__path=str(tmp_path / "no.npz"))
    with pytest.raises(UserError, match="no.npz"):
        tj.run(c, tmp_path / "x")
    c = tiny(data__source="lm_states", data__path=str(tmp_path), data__width=8, data__classes=10)
    with pytest.raises(
        UserError, match="holds no language run with a guide; make one: python launch/run.py"
    ):
        tj.run(c, tmp_path / "y")


def test_a_plan_names_its_phases():
    made = {arm.name: arm for arm in arms_of(tiny())}
    plan = made["glai_joint"].plan(made["glai_joint"].first())
    assert [phase.name for phase in plan] == ["selector", "estimator"] and plan[1].feed.cache(
        "target"
    ).stage == "contributions"
    assert plan[1].trainable == ("estimator",) and plan[0].steps == 12 and plan[1].steps == 18
    assert made["glai_untrained"].plan(made["glai_untrained"].first())[0].steps == 0
    chosen = {"mlp_reduced": trials(tiny(), "mlp_reduced")[1]}
    turn = Turn(trials(tiny(), "glai_joint")[0], chosen=chosen)
    assert [phase.optimizer.learning_rate for phase in made["glai_joint"].plan(turn)] == [
        1e-2,
        3e-3,
    ]
