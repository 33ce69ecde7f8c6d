"""Conversion of classifiers from a config: the files of the contract, restored networks, resuming,
mistakes in one line.
"""

import json

import jax
import numpy as np
import pytest
import tiny
from killing import killed_and_ended, rows, timeless
from settings import changed

import theseus_jax as tj
from theseus_jax import checkpoints
from theseus_jax import config as schema
from theseus_jax.data import labelled
from theseus_jax.errors import UserError
from theseus_jax.experiment import parts
from theseus_jax.similarity import metric, samples
from theseus_jax.trees import bit_equal

pytestmark = pytest.mark.slow

TINY = {
    "data.train": 200,
    "data.validation": 60,
    "data.test": 60,
    "data.share": 100,
    "data.crop": 1,
    "guide.arch": "mlp",
    "guide.width": 12,
    "guide.depth": 4,
    "guide.norm": "batch",
    "guide.steps": 12,
    "target.arch": "mlp",
    "target.width": 8,
    "target.depth": 3,
    "target.norm": "batch",
    "train.batch": 20,
    "train.chunk": 3,
    "convert.steps": 12,
    "convert.schedule": "sequential",
    "convert.recalibrate": 64,
    "convert.finish_kl": 0.5,
    "controls.names": ("from_scratch", "distilled", "fitnets"),
    "controls.equal_flops": False,
    "seeds": 2,
    "report.latency_repeats": 2,
}


def small(**changes):
    return changed(schema.base("classification"), TINY, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "a"
    return path, tj.run(small(), path)


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
    assert [model["name"] for model in results["models"]] == [
        "guide",
        "converted",
        "from_scratch",
        "distilled",
        "fitnets",
    ]
    assert (
        results["metric"] == "accuracy"
        and results["higher_is_better"]
        and results["data"]["train_examples"] == 100
    )
    assert (
        results["data"]["sha256"] == labelled.digits().sha256
        and results["data"]["guide_train_examples"] == 200
    )
    for model in results["models"]:
        assert model["value"] == pytest.approx(np.mean(model["seeds"])) and 0 <= model["value"] <= 1
        assert (
            model["optimizer_steps"] == 12
            and model["examples_seen"] == 240
            and model["training_flops"] > 0
        )
    assert [(stage["guide_stage"], stage["stage"]) for stage in results["stages"]] == [
        ("block_2", "block_1"),
        ("block_3", "block_2"),
    ]
    assert all(
        stage["hybrid_moving_accuracy"] is not None and stage["stitch_parameters"] == 8 * 12 + 12
        for stage in results["stages"]
    )
    assert len(results["claims"]) >= 4 and "gap" in results["claims"][-1]["text"]
    assert (
        "recalibrate" in (path / "plan.txt").read_text()
        and "crop after 1" in (path / "plan.txt").read_text()
    )


def test_the_table_is_what_the_restored_networks_score(finished):
    path, results = finished
    test = labelled.digits(image=True, limit=(200, 60, 60)).test
    for model in results["models"]:
        for seed, value in enumerate(model["seeds"]):
            net, variables = tj.restore(path, model["name"], seed)
            assert set(variables) == set(net.names)
            assert (
                np.argmax(tiny.apply(net, variables, test.x), -1) == test.y
            ).mean() == pytest.approx(value)


def test_the_guides_table_is_the_debiased_cka_of_its_stages(finished):
    path, results = finished
    table = results["guide_similarity"]
    assert table["stages"] == ["stem", "block_1", "block_2", "block_3"]
    np.testing.assert_allclose(np.diag(table["cka"]), 1.0, atol=1e-3)
    x = labelled.digits(image=True, limit=(200, 60, 60)).validation.x
    net, variables = tj.restore(path, "guide")
    a, b = (
        samples(tiny.apply(net, variables, x, stop=name), kind="pooled")[0]
        for name in ("stem", "block_3")
    )
    assert table["cka"][0][3] == pytest.approx(float(metric("cka_debiased")(a, b)), abs=2e-4)


def test_a_killed_run_goes_on_and_ends_with_the_same_rows_and_weights(finished, tmp_path):
    path, results = finished
    again = tmp_path / "b"
    killed_and_ended(
        small(train__save_seconds=0.0),
        again,
        ['"kind": "stage"', '"model": "fitnets", "phase": "hint"'],
    )
    assert timeless(rows(again)) == timeless(rows(path))
    for name in ("converted", "fitnets"):
        assert bit_equal(
            *(checkpoints.load(p / "checkpoints" / name)[0]["variables"] for p in (path, again))
        )


def test_an_untrained_convnet_guides_with_remembered_calibrated_activations(tmp_path):
    results = tj.run(
        small(
            guide__origin="untrained",
            guide__mode="calibrated",
            guide__arch="resnet18",
            guide__width=4,
            data__crop=0,
            train__remember=True,
            seeds=1,
            controls__names=("theseus",),
            convert__finish_kl=0.0,
            convert__recalibrate=0,
            target__norm="layer",
            convert__stitch_rank=4,
        ),
        tmp_path / "u",
    )
    guide = results["models"][0]
    assert guide["optimizer_steps"] == 0 and len(guide["seeds"]) == 1
    _, variables = tj.restore(tmp_path / "u", "guide")
    assert not np.allclose(jax.tree.leaves(variables["stem"]["batch_stats"])[0], 0)
    assert [row["phase"] for row in rows(tmp_path / "u") if row["kind"] == "stored"] == [
        "align_1",
        "align_2",
    ]


def test_arms_that_read_no_labels_may_use_every_picture(tmp_path):
    results = tj.run(
        small(
            data__unlabelled=True,
            data__crop=0,
            convert__finish_kl=1.0,
            convert__recalibrate=0,
            controls__kl=1.0,
            controls__names=("from_scratch", "distilled", "ted", "supervised"),
            seeds=1,
            report__probe=True,
        ),
        tmp_path / "u",
    )
    used = {
        model["name"]: (model["train_examples"], model["labels"]) for model in results["models"]
    }
    assert used == {
        "guide": (200, 200),
        "converted": (200, 0),
        "from_scratch": (100, 100),
        "distilled": (200, 0),
        "ted": (100, 100),
        "supervised": (200, 200),
    }
    assert all(0 <= model["probe_accuracy"] <= 1 for model in results["models"])
    assert (
        results["models"][0]["agreement"]["cosine"] == pytest.approx(1)
        and "cosine" not in results["models"][1]["agreement"]
    )
    assert "linear probe" in results["claims"][-1]["text"]


def test_a_probe_is_scikit_learns_logistic_regression(finished):
    from sklearn.linear_model import LogisticRegression

    from theseus_jax.tasks import pretrained

    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    x = (rng.normal(size=(200, 6)) + 1.5 * np.eye(6)[y]) * np.arange(1, 7) + 3
    head = pretrained.fitted_head(
        *(
            np.asarray(z, np.float32) if z.ndim == 2 else z
            for z in (x[:150], y[:150], x[150:], y[150:])
        ),
        3,
    )
    unit = (x - x[:150].mean(0)) / x[:150].std(0)
    scores = []
    # scikit-learn's C weighs the sum of losses, and its intercept is free
    for penalty in pretrained.PENALTIES:
        other = LogisticRegression(C=1 / (penalty * 150), max_iter=2000).fit(unit[:150], y[:150])
        scores.append(
            (other.score(unit[150:], y[150:]), np.argmax(other.decision_function(unit), 1))
        )
    best = max(range(len(scores)), key=lambda i: scores[i][0])
    assert (np.argmax(x @ head["kernel"] + head["bias"], 1) == scores[best][1]).mean() > 0.98


def test_a_network_is_known_whatever_else_is_no_longer_possible():
    """A checkpoint outlives a metric of one's own, a control's name, a guide's architecture."""
    gone = {"convert__metric": "mine", "controls__names": ("luck",), "guide__arch": "resnet19"}
    assert parts.network(small(**gone), "converted") == parts.network(small(), "converted")
    with pytest.raises(UserError):
        tj.dry_run(small(**gone))


def test_a_guide_in_batch_mode_is_run_by_its_batches():
    c = small(guide__origin="untrained", guide__mode="batch")
    net = parts.network(c, "guide")
    assert [type(stage.module).__name__ for stage in net.stages][1:3] == ["BatchMode", "BatchMode"]
    assert "BatchMode" in tj.dry_run(c)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"guide__arch": "resnet19"}, "config.guide.arch is 'resnet19'"),
        ({"guide__origin": "pretrained"}, "no weights are packaged"),
        ({"guide__origin": "file", "guide__arch": "mlp"}, "not read from files"),
        (
            {
                "guide__origin": "file",
                "guide__arch": "resnet18",
                "guide__weights": "/nowhere.safetensors",
            },
            "nowhere.safetensors",
        ),
        ({"train__remember": True}, "turn one of the two off"),
        ({"data__source": "bbc", "data__crop": 1}, "texts are not cropped"),
        ({"data__source": "bbc", "data__crop": 0}, "reads images and the data are texts"),
        ({"target__arch": "birnn", "target__units": 4}, "reads texts and the data are images"),
        ({"target__width": 0}, "needs width"),
        ({"target__keep": (1,)}, "the architecture mlp has no blocks whose attention could stay"),
        ({"data__source": "tfds"}, "does not tell the examples' shape"),
        (
            {"data__source": "fashion_mnist", "data__path": "/nowhere"},
            "apt-get install dataset-fashion-mnist",
        ),
        ({"data__share": 201}, "201"),
        ({"data__share": 5}, "5"),
        ({"data__mean": (1.0, 2.0)}, "has 2 numbers for 1 channels"),
        (
            {"convert__stitch_rank": 0, "guide__arch": "resnet18", "guide__width": 4},
            "no bridge leads",
        ),
        ({"convert__mapping": "block_1=block_1"}, "end with"),
        ({"convert__metric": "mse"}, "expected equal widths"),
        (
            {
                "guide__arch": "vit",
                "guide__width": 8,
                "guide__depth": 2,
                "guide__heads": 2,
                "guide__hidden": 8,
                "guide__patch": 3,
            },
            "not a multiple of the patch",
        ),
        ({"train__batch": 3, "data__share": 100}, "needs at least 4 samples"),
        ({"guide__learning_rate": 1e9, "controls__names": ()}, "is not finite"),
    ],
)
def test_mistakes_are_one_line_that_names_them(changes, words, tmp_path):
    with pytest.raises(UserError) as raised:
        tj.run(small(**changes), tmp_path / "m")
    assert words in str(raised.value) and "\n" not in str(raised.value), str(raised.value)


def test_the_outline_names_shapes_stitches_and_adapters():
    text = tj.dry_run(small(guide__arch="resnet18", guide__width=4, target__rank=2))
    assert (
        "in adapters" in text
        and "rank 8 between whole activations" in text
        and "vector to vector" in text
    )
    assert "-> Bx8x8x4 float32" in text and "parameters" in text


def test_a_folder_of_pictures_is_converted_on(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for i in range(40):
            Image.fromarray(
                np.clip(rng.normal(level, 20, (10, 9, 3)), 0, 255).astype(np.uint8)
            ).save(folder / f"{i}.png")
    c = small(
        data__source="folder",
        data__path=str(tmp_path / "pictures"),
        data__size=8,
        data__classes=2,
        data__train=0,
        data__validation=0,
        data__test=0,
        convert__neighbours=3,
        data__share=40,
        data__flip=True,
        data__mixup=0.2,
        seeds=1,
        controls__names=("from_scratch",),
    )
    results = tj.run(c, tmp_path / "run")
    assert results["data"]["classes"] == ["dark", "light"] and len(results["data"]["sha256"]) == 64
    with pytest.raises(UserError, match="set data.size, data.channels and data.classes"):
        tj.run(
            small(
                **{
                    key.replace(".", "__"): c[key.split(".")[0]][key.split(".")[1]]
                    for key in (
                        "data.source",
                        "data.path",
                        "data.size",
                        "data.train",
                        "data.validation",
                        "data.test",
                    )
                },
                data__classes=3,
            ),
            tmp_path / "other",
        )
