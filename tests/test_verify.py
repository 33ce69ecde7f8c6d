"""A finished run repeats its first steps to the bit, and says where it does not."""

import json
import logging
import pathlib
import subprocess
import sys

import pytest
from mistakes import refusal
from settings import changed
from small_text import LANGUAGE, write_texts

import theseus_jax as tj
from theseus_jax.config import base
from theseus_jax.experiment.verify import verify
from theseus_jax.experiment.workdir import open_workdir

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = {"data.context": 8, "data.test": 0.2, "target.hidden": 8, "target.cell": "elman"}
SMALL |= {"convert.steps": 12, "convert.align": 0.5, "controls.names": ("from_scratch",)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    texts = write_texts(tmp_path_factory.mktemp("texts"), 20)
    config = changed(base(), {**LANGUAGE, **SMALL, "data.path": str(texts)})
    workdir = tmp_path_factory.mktemp("runs") / "run"
    tj.run(config, workdir)
    return config, texts, workdir


def test_every_trained_model_repeats_itself(run):
    found = verify(run[2])
    assert [one.model for one in found][:3] == ["guide", "converted", "from_scratch"]
    for one in found:
        assert one.steps == 3 and one.then == one.now and not one.difference


def test_the_command_says_which_number_differs_and_ends_with_1(run):
    rows = run[2] / "metrics.jsonl"
    kept = rows.read_text()
    lines = [json.loads(line) for line in kept.splitlines()]
    first = next(row for row in lines if row["kind"] == "train" and row.get("model") == "converted")
    first["loss"] += 1e-9
    rows.write_text("".join(json.dumps(row) + "\n" for row in lines))
    try:
        command = [sys.executable, ROOT / "launch/verify.py", run[2]]
        done = subprocess.run(command, capture_output=True, text=True)
    finally:
        rows.write_text(kept)
    assert done.returncode == 1, done.stderr
    told = done.stdout.splitlines()
    assert told[0].startswith("guide: first 3 steps") and told[0].endswith("equal")
    assert "converted" in told[1] and "DIFFERS" in told[1] and "loss of seed 0" in told[1]


def test_a_folder_without_a_run_and_changed_data_are_refused(run, tmp_path):
    assert "holds no finished run" in refusal(verify, tmp_path)
    text = run[1] / "0.txt"
    kept = text.read_text()
    text.write_text(kept + " and more")
    try:
        assert "the data of" in refusal(verify, run[2])
    finally:
        text.write_text(kept)


def test_a_run_that_goes_on_with_other_versions_says_so(run, caplog):
    versions = run[2] / "versions.json"
    kept = versions.read_text()
    versions.write_text(json.dumps({**json.loads(kept), "jax": "0.0.1"}))
    try:
        with caplog.at_level(logging.WARNING, "theseus_jax"):
            open_workdir(run[0], run[2])
    finally:
        versions.write_text(kept)
    assert "was begun with jax 0.0.1, now" in caplog.text
