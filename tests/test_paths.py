"""Paths as people give them: home folders in every entrance, and what is no path refused."""

import numpy as np
import pytest

import theseus_jax as tj
from theseus_jax import checkpoints
from theseus_jax.data.image_folder import image_folder
from theseus_jax.data.text import load_corpus
from theseus_jax.errors import UserError
from theseus_jax.nets.weights.containers import open_tensors
from theseus_jax.paths import local
from theseus_jax.report import compare

ENTRANCES = {
    "text": lambda path: load_corpus(source="directory", path=path),
    "pictures": lambda path: image_folder(path, 8),
    "weights": lambda path: open_tensors(f"{path}/model.safetensors"),
    "checkpoint": checkpoints.load,
    "model": tj.restore,
    "exported": tj.load,
    "report": compare,
}


@pytest.mark.parametrize("name", ENTRANCES)
def test_every_entrance_reads_below_the_home_folder(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError) as error:
        given = [f"~/absent{i}" for i in range(2)] if name == "report" else "~/absent"
        ENTRANCES[name](given)
    assert str(tmp_path) in str(error.value) and "~" not in str(error.value)


def test_a_checkpoint_is_written_below_it_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    checkpoints.save("~/ck", tree={"variables": {"w": np.ones(2)}}, metadata={})
    assert (tmp_path / "ck" / "variables").is_dir()


@pytest.mark.parametrize(
    "path, words",
    [
        ("a\0b", "NUL"),
        ("gs://bucket/run", "an address"),
        ("hdfs:/run", "an address"),
        ("~nobody-is-called-so/x", "./~nobody-is-called-so/x"),
    ],
)
def test_what_is_no_path_of_this_machine_is_refused(path, words):
    with pytest.raises(UserError) as error:
        local(path)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["a:b", "C", "run [1]", "./~x", "x/~y"])
def test_what_is_one_is_taken_as_it_is(path):
    assert str(local(path)) == path.removeprefix("./")
