"""What a run goes on from: states, rows, data and guides that agree, or one line that says which do
not, with a remedy that ends in the results of an undisturbed run.
"""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from killing import rows, timeless
from settings import changed
from small_text import LANGUAGE, write_texts

import theseus_jax as tj
from theseus_jax import checkpoints
from theseus_jax.config import base
from theseus_jax.errors import UserError
from theseus_jax.experiment.ledger import counted, data_sha256, mark, settle
from theseus_jax.experiment.lock import NAME, locked
from theseus_jax.experiment.workdir import Workdir, open_workdir
from theseus_jax.records import Records

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG, DATA = base(), "d" * 64
MODELS = (("guide", ()), ("converted", ("search/converted-0", "converted")), ("late", ()))


def home_of(path):
    """A run's folder with two finished models of two and three rows, and one of which a part is."""
    home = Workdir(path, Records(path / "metrics.jsonl"))
    for model, count in (("guide", 2), ("converted", 3)):
        for step in range(count):
            home.records.write({"model": model, "step": step})
        save(home, model)
    home.records.write({"model": "late", "step": 0})
    save(home, "late", folder="unfinished/late/00000003")
    home.records.write({"model": "late", "step": 1})
    return home


def save(home, model, folder="", **changes):
    note = {"config": CONFIG.to_json(), "data": DATA, "model": model}
    checkpoints.save(
        home.path / "checkpoints" / (folder or model),
        tree={"variables": {"x": np.zeros(1)}},
        metadata={**note, "rows": counted(home.records, model), **changes},
    )


def names(home):
    return [row["model"] for row in home.records.read()]


def settled(home, config=CONFIG, data=DATA):
    settle(home, config, data, MODELS)


def refused(home, *words):
    before = home.records.path.read_bytes() if home.records.path.exists() else None
    with pytest.raises(UserError) as caught:
        settled(home)
    for word in words:
        assert word in str(caught.value), caught.value
    assert "\n" not in str(caught.value)
    assert before == (home.records.path.read_bytes() if home.records.path.exists() else None)
    return str(caught.value)


def test_rows_that_no_state_counts_on_are_cut_whoever_wrote_them(tmp_path):
    home = home_of(tmp_path)
    home.records.write({"model": "guide", "step": 9})
    home.records.path.open("a").write('{"model": "late", "ste')  # a kill's half line
    settled(home)
    assert names(home) == ["guide"] * 2 + ["converted"] * 3 + ["late"]
    assert home.records.path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("model", ["guide", "converted"])
def test_a_model_that_is_gone_takes_its_own_rows_with_it_alone(tmp_path, model):
    home = home_of(tmp_path)
    shutil.rmtree(home.model(model))
    settled(home)
    left = {"guide": 2, "converted": 3, "late": 1} | {model: 0}
    assert {name: names(home).count(name) for name in left} == left
    home.records.write({"model": model, "step": 0})
    save(home, model)
    settled(home)  # in another order than at first
    assert names(home).count(model) == 1


def test_trials_of_a_search_stay(tmp_path):
    home = Workdir(tmp_path, Records(tmp_path / "metrics.jsonl"))
    for trial in (0, 1):
        home.records.write({"model": "converted", "trial": trial})
        if trial == 0:
            mark(home, "converted")
    settled(home)
    assert [row["trial"] for row in home.records.read()] == [0]


@pytest.mark.parametrize("damage", ["short", "missing", "edited", "doubled", "moved"])
def test_rows_that_are_not_as_they_were_are_refused(tmp_path, damage):
    home = home_of(tmp_path)
    lines, path = home.records.path.read_text().splitlines(keepends=True), home.records.path
    if damage == "missing":
        path.unlink()
    else:
        lines = {
            "short": lines[:3],
            "edited": [lines[0].replace("0", "7"), *lines[1:]],
            "doubled": [lines[0], *lines],
            "moved": [lines[1], lines[0], *lines[2:]],
        }[damage]
        path.write_text("".join(lines))
    model = "converted" if damage == "short" else "guide"
    count = 3 if damage == "short" else 2
    refused(home, str(path), f"{home.model(model)} counts on {count}", "delete", "made again")
    for name in ("guide", "converted"):  # the remedy, as often as it is given
        try:
            settled(home)
        except UserError as error:
            assert str(home.model(name)) in str(error) or name == "guide"
            shutil.rmtree(home.model(name), ignore_errors=True)
    try:
        settled(home)
    except UserError as error:
        shutil.rmtree(home.progress("late"))
        assert "late" in str(error)
        settled(home)
    assert names(home).count("guide") == 0 or damage == "short"


@pytest.mark.parametrize("content", [b"\0\0\0\n", b"[1]\n", b"\xff\n"])
def test_a_line_that_is_no_row_is_refused(tmp_path, content):
    home = home_of(tmp_path)
    home.records.path.write_bytes(content + home.records.path.read_bytes())
    line = refused(home)
    assert "line 1 of 8 is no row" in line and "give another --workdir" in line


def test_states_of_another_model_config_or_data_are_refused(tmp_path):
    home = home_of(tmp_path)
    shutil.rmtree(home.model("guide"))
    shutil.copytree(home.model("converted"), home.model("guide"))
    assert f"{home.model('guide')} holds the model 'converted', not 'guide'" in refused(home)
    shutil.rmtree(home.model("guide"))
    other = base()
    other.train.batch = 9
    save(home, "guide", config=other.to_json(), rows={"count": 0, "sha256": _nothing()})
    assert "another config (train.batch is 9 there and 8 here)" in refused(home)
    shutil.rmtree(home.model("guide"))
    save(home, "guide", data="e" * 64)
    line = refused(home)
    assert f"data have changed since {home.model('guide')}" in line and "eeeeeeeeeeee then" in line


def _nothing():
    return counted(Records("/nowhere"), "guide")["sha256"]


def test_states_of_before_rows_were_counted_count_on_the_bytes_before_them(tmp_path):
    home = Workdir(tmp_path, Records(tmp_path / "metrics.jsonl"))
    for model in ("guide", "converted"):
        home.records.write({"model": model})
        checkpoints.save(
            home.model(model),
            tree={"variables": {"x": np.zeros(1)}},
            metadata={"model": model, "offset": home.records.offset()},
        )
    home.records.write({"model": "guide"})
    settled(home)
    assert names(home) == ["guide", "converted"]
    home.records.path.write_text("")
    refused(home, "has 0 bytes", "counts on")


def test_data_without_a_sum_of_their_own_are_told_apart_by_what_is_known_of_them():
    one, other = {"data": {"examples": 3}}, {"data": {"examples": 4}}
    assert data_sha256(one) == data_sha256(dict(one)) != data_sha256(other)
    assert data_sha256({"data": {"sha256": DATA, "examples": 3}}) == DATA


# Config


def test_a_config_that_is_gone_is_known_by_the_checkpoints_and_a_damaged_one_is_refused(tmp_path):
    home = home_of(tmp_path)
    open_workdir(CONFIG, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(CONFIG.to_json())
    for content in ("{", "", "[]", "\xff"):
        (tmp_path / "config.json").write_text(content, encoding="latin1")
        with pytest.raises(UserError, match=r"config.json is damaged .*delete it"):
            open_workdir(CONFIG, tmp_path)
    (tmp_path / "config.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(UserError, match="holds a run and no config.json"):
        open_workdir(CONFIG, tmp_path)
    assert names(home)


# Lock


def test_a_second_owner_is_refused_and_told_of_the_first(tmp_path):
    wanted = f"{tmp_path} is in use by process {os.getpid()} on {socket.gethostname()}; wait"
    with locked(tmp_path):
        assert (tmp_path / NAME).read_text().split()[0] == str(os.getpid())
        with pytest.raises(UserError, match=wanted), locked(tmp_path):
            pass
    assert not (tmp_path / NAME).exists()
    with locked(tmp_path):
        pass


HOLD = """
import sys, time, pathlib
from theseus_jax.experiment.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_named_and_what_it_leaves_when_killed_holds_nothing(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {other.pid} on "), locked(tmp_path):
            pass
        other.kill()
        other.wait()
    assert (tmp_path / NAME).exists()
    with locked(tmp_path):
        pass
    assert not (tmp_path / NAME).exists()


def test_of_many_starts_at_once_one_at_a_time_goes_on(tmp_path):
    inside, most, found = [], [], []

    def start(delay):
        time.sleep(delay)
        try:
            with locked(tmp_path):
                inside.append(delay)
                most.append(len(inside))
                time.sleep(0.02)
                inside.remove(delay)
            found.append("ran")
        except UserError:
            found.append("refused")

    delays = np.random.default_rng(0).uniform(0, 0.1, 20)
    started = [threading.Thread(target=start, args=(float(delay),)) for delay in delays]
    for one in started:
        one.start()
    for one in started:
        one.join()
    assert max(most) == 1 and len(found) == 20
    assert found.count("ran") >= 1 and found.count("refused") >= 1


# Whole runs


TINY = LANGUAGE | {
    "data.context": 8,
    "data.test": 0.2,
    "guide.depth": 1,
    "target.hidden": 8,
    "convert.steps": 4,
    "convert.schedule": "joint",
    "train.chunk": 2,
    "seeds": 2,
    "controls.names": ("from_scratch", "distilled"),
}


def tiny(texts):
    return changed(base(), {**TINY, "data.path": str(texts)})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    texts = write_texts(tmp_path_factory.mktemp("texts"), 20)
    path = tmp_path_factory.mktemp("runs") / "a"
    return texts, path, tj.run(tiny(texts), path)


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished[1], tmp_path / "a")
    return tmp_path / "a"


SAME = (
    "name",
    "value",
    "stderr",
    "seeds",
    "loss",
    "optimizer_steps",
    "training_flops",
    "parameters",
)


def told(results):
    """What does not depend on the machine."""
    return [[one[key] for key in SAME] for one in results["models"]], results["claims"]


@pytest.mark.parametrize("model", ["guide", "converted", "from_scratch"])
def test_a_model_that_is_deleted_is_made_again_and_every_claim_stays(finished, copy, model):
    texts, path, results = finished
    shutil.rmtree(copy / "checkpoints" / model)
    (copy / "results.json").unlink()
    again = tj.run(tiny(texts), copy)
    assert told(again) == told(results)
    by_model = lambda found: sorted(map(json.dumps, timeless(found)))  # noqa: E731
    assert by_model(rows(copy)) == by_model(rows(path))
    assert tj.run(tiny(texts), copy) == again


def test_another_guide_in_the_guides_place_is_refused(finished, copy):
    texts, *_ = finished
    tree, note = checkpoints.load(copy / "checkpoints" / "guide")
    tree["variables"]["norm"]["params"]["bias"] += 1.0
    checkpoints.save(copy / "checkpoints" / "guide", tree=tree, metadata=note)
    (copy / "results.json").unlink()
    with pytest.raises(UserError, match=r"converted was made with another guide .*delete"):
        tj.run(tiny(texts), copy)


@pytest.mark.parametrize(
    "content, word",
    [
        ("", "damaged"),
        ("{", "damaged"),
        ("[]", "holds no object"),
        ("{}", "has no models"),
        ('{"models": [], "schema": 9}', "its schema is 9"),
        (None, "its numbers are not those that the run wrote"),
    ],
)
def test_results_that_are_damaged_are_refused_and_made_again(finished, copy, content, word):
    texts, _, results = finished
    path = copy / "results.json"
    if content is None:
        content = path.read_text().replace('"stderr": 0.0', '"stderr": 0.5', 1)
    path.write_text(content)
    with pytest.raises(UserError, match=word) as caught:
        tj.run(tiny(texts), copy)
    assert "delete it: it is made again from the checkpoints" in str(caught.value)
    if content == "{}":
        path.unlink()
        assert told(tj.run(tiny(texts), copy)) == told(results)


def test_rows_that_changed_after_the_results_are_refused(finished, copy):
    texts, *_ = finished
    with open(copy / "metrics.jsonl", "a") as file:
        file.write('{"model": "guide", "kind": "model"}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl is not the one that .*results.json was"):
        tj.run(tiny(texts), copy)


def test_data_that_changed_since_are_refused(finished, copy, tmp_path):
    texts = tmp_path / "texts"
    shutil.copytree(finished[0], texts)
    (copy / "results.json").unlink()
    config = json.loads((copy / "config.json").read_text())
    assert config["data"]["path"] == str(finished[0])
    first = sorted(finished[0].iterdir())[0]
    before = first.read_bytes()
    try:
        first.write_bytes(before + b"and one more sentence that was not there before\n" * 9)
        with pytest.raises(UserError, match="the data have changed since"):
            tj.run(tiny(finished[0]), copy)
    finally:
        first.write_bytes(before)


def test_a_finished_run_without_a_checkpoint_says_so(finished, copy, caplog):
    shutil.rmtree(copy / "checkpoints" / "converted")
    assert tj.run(tiny(finished[0]), copy) == finished[2]
    assert "checkpoints/converted is gone: delete" in caplog.text
