"""The examples of docs/extending.md, as files: they train, go on after SIGKILL, are judged and have
their panel, and nothing else of the project was edited.
"""

import importlib
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from killing import killed_and_ended, rows, timeless

import theseus_jax as tj
from theseus_jax import report, similarity
from theseus_jax.config import base
from theseus_jax.errors import UserError
from theseus_jax.trees import bit_equal

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "extending.md"
NAMES = ("congruence", "gated", "spirals", "width_study", "spirals_width", "seed_spread", "taught")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
        (folder / block.split("\n", 1)[0].removeprefix("# ")).write_text(block)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    similarity.METRICS.pop("congruence", None)
    for name in NAMES:
        sys.modules.pop(name, None)


def test_every_example_has_its_file(folder):
    assert sorted(path.stem for path in folder.glob("*.py")) == sorted(NAMES)


def test_a_metric_is_a_choice_and_what_it_says(folder):
    importlib.import_module("congruence")
    x, y = np.random.default_rng(0).normal(size=(2, 9, 4))
    mask = np.arange(9) < 7
    ours = similarity.metric("congruence")(jnp.asarray(x), jnp.asarray(y), jnp.asarray(mask))
    a, b = ((z[:7] - z[:7].mean(0)).ravel() for z in (x, y))
    assert float(ours) == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)
    config = base("classification")
    config.convert.metric, config.guide.arch, config.target.arch = "congruence", "mlp", "mlp"
    for side in (config.guide, config.target):
        side.width, side.depth = 8, 2
    assert "distance" in tj.dry_run(config)


def test_a_metric_passes_the_projects_tests_of_every_metric(folder):
    """Registered by a plugin before the tests are collected."""
    command = [sys.executable, "-m", "pytest", "-p", "congruence", "-n", "0", "-k", "congruence"]
    path = os.pathsep.join((str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [*command, "tests/test_similarity.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_network_is_converted_by_a_metric_of_ones_own(folder):
    importlib.import_module("congruence")
    gated = importlib.import_module("gated").gated
    guide, target = gated(6, 3, 2), gated(6, 2, 2)
    x = np.random.default_rng(1).normal(size=(64, 2)).astype(np.float32)
    settings = tj.methods.convert.Settings(metric="congruence", steps=8, align=0.5, finish_kl=1.0)
    variables, history = tj.convert(
        guide,
        tj.init(guide, jax.random.key(0), x[:1]),
        target,
        x,
        key=jax.random.key(1),
        settings=settings,
        batch=16,
    )
    assert set(variables) == {"block_1", "block_2", "head"}
    assert [row["phase"] for row in history if row["kind"] == "phase"] == ["align", "finetune"]


@pytest.fixture(scope="module")
def finished(folder):
    config = importlib.import_module("spirals_width").get_config("smoke")
    return config, folder / "a", tj.run(config, folder / "a")


def test_a_method_is_one_file_that_trains_is_judged_and_has_its_panel(finished):
    config, path, results = finished
    assert results["method"] == "width_study" and results["task"] == "spirals"
    assert [(model["name"], model["role"]) for model in results["models"]] == [
        ("wide", "ours"),
        ("narrow", "rival"),
    ]
    assert all(len(model["seeds"]) == 2 and model["seconds"] > 0 for model in results["models"])
    claim = results["claims"][0]
    assert claim["text"] == "wide beats narrow at equal optimizer steps"
    difference = np.subtract(results["models"][0]["seeds"], results["models"][1]["seeds"]).mean()
    assert f"{difference:+.4f}" in claim["measured"]
    for shown in (report.table(results), report.html(report.read_run(path))):
        assert "Width and accuracy" in shown and "wide beats narrow" in shown
    net, variables = tj.restore(path, "wide", seed=1)
    assert net.names == ("block_1", "block_2", "head") and variables["block_1"]["params"]
    assert "[wide]" in (path / "plan.txt").read_text()


def test_it_goes_on_after_sigkill(finished, folder, monkeypatch):
    config, path, _ = finished
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with config.unlocked():
        config.train.save_seconds = 0.0
    killed_and_ended(config, folder / "b", ('"model": "wide"', '"model": "narrow"'))
    assert timeless(rows(folder / "b")) == timeless(rows(path))
    pairs = zip(*(tj.restore(folder / name, "narrow")[1].items() for name in "ab"))
    assert all(bit_equal(dict([one]), dict([other])) for one, other in pairs)


def test_a_task_is_one_file_that_is_converted_on(folder):
    config = base("spirals")
    config.convert.steps, config.guide.steps, config.train.chunk, config.seeds = 12, 10, 4, 2
    config.controls.names, config.convert.schedule = ("from_scratch",), "joint"
    results = tj.run(config, folder / "c")
    names = [model["name"] for model in results["models"]]
    assert names[:3] == ["guide", "converted", "from_scratch"]
    assert results["data"]["name"] == "spirals" and results["metric"] == "accuracy"
    assert [stage["stage"] for stage in results["stages"]]
    assert "spirals" in report.html(report.read_run(folder / "c"))


def test_a_method_with_a_guide_and_a_search(folder):
    config = base("spirals", "taught")
    config.study.steps, config.seeds = 20, 2
    results = tj.run(config, folder / "t")
    roles = {model["name"]: model["role"] for model in results["models"]}
    assert roles == {"teacher": "guide", "taught": "ours", "alone": "rival"}
    assert all(model["learning_rate"] in (3e-3, 1e-2) for model in results["models"])
    assert [len(model["seeds"]) for model in results["models"]] == [1, 2, 2]
    assert results["claims"][0]["text"] == "taught beats alone at equal optimizer steps"
    logged = rows(folder / "t")
    taught = [row for row in logged if row["kind"] == "train" and row["model"] == "taught"]
    assert all("kl" in row for row in taught) and {row["seed"] for row in taught} == {-1, -2, 0, 1}


def test_a_panel_shows_what_the_files_hold(finished):
    from theseus_jax.report.panel import section

    panel = importlib.import_module("seed_spread").PANEL
    run = report.read_run(finished[1])
    shown = section(panel, run, True)
    assert [row[0] for row in shown["grids"][0].rows] == ["wide", "narrow"]
    seeds = run.results["models"][0]["seeds"]
    assert float(shown["grids"][0].rows[0][1]) == pytest.approx(max(seeds) - min(seeds), abs=0.005)
    assert "<svg" in shown["pictures"][0][0]
    models = [{**model, "seeds": [0.5]} for model in run.results["models"]]
    assert section(panel, run._replace(results={**run.results, "models": models}), True) == {}


def test_what_does_not_fit_is_refused_by_name(folder):
    with pytest.raises(UserError, match="glai compares heads on features, and spirals has none"):
        base("spirals", "glai")
    with pytest.raises(UserError, match="needs a task with a guide and a target, and features"):
        base("head", "convert")
    with pytest.raises(
        UserError, match="config.method is 'sideways'; choose one of convert, glai, guide"
    ):
        base("head", "sideways")
