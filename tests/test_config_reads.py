"""Every key of every config is really read, at its own path, by the code that a run goes
through.
"""

import contextlib
import itertools

import pytest
from ml_collections import ConfigDict
from settings import changed
from test_classify import TINY as CLASSES
from test_experiment import TINY as LANGUAGE
from test_guidance import TINY as GUIDED
from test_heads_experiment import TINY as HEADS
from test_plasticity import TINY as PLASTIC
from test_sequences import TINY as SEQUENCES

from theseus_jax.config import base
from theseus_jax.errors import UserError
from theseus_jax.experiment import engine
from theseus_jax.experiment.workdir import open_workdir

pytestmark = pytest.mark.slow


class Reads:
    """A config that notes the dotted path of every leaf that is asked for."""

    def __init__(self, config, seen, path=""):
        self._config, self._seen, self._path = config, seen, path

    def __getitem__(self, key):
        value, path = self._config[key], f"{self._path}{key}"
        if isinstance(value, ConfigDict):
            return Reads(value, self._seen, f"{path}.")
        self._seen.add(path)
        return value

    def __getattr__(self, key):
        return self[key]

    def __contains__(self, key):
        return key in self._config

    def get(self, key, default=None):
        return self[key] if key in self._config else default

    def keys(self):
        return self._config.keys()

    def to_dict(self):
        """For checks, which look at every key and use none."""
        return self._config.to_dict()

    def to_json(self, **named):
        return self._config.to_json(**named)


def leaves(config, path=""):
    for key, value in config.items():
        yield from leaves(value, f"{path}{key}.") if isinstance(value, ConfigDict) else [path + key]


def refused():
    """Data, weights and packages that are not on this machine are refused by one line; the keys
    that name them were read before that, which is all that is asked here.
    """
    return contextlib.suppress(UserError)


def read_by_a_run(config, folder, others):
    """The paths that a whole run reads, and what loading each of `others` reads, found or not."""
    seen = set()
    reads = Reads(config, seen)
    engine.execute(reads, open_workdir(config, folder / "run"))
    for changes in others:
        task, _ = engine.parts(Reads(changed(config.copy_and_resolve_references(), changes), seen))
        with refused():
            sets = task.load(folder / "cache")[1].sets(0)
            task.begin(task.pair()[0], None, sets)
    return seen


TINIER = {"seeds": 1, "controls.names": ("from_scratch", "distilled"), "guide.steps": 3}
UNREAD = {"task", "method", "smoke"}  # by experiment.run itself


def missing(config, seen):
    return sorted(set(leaves(config)) - seen - UNREAD)


def test_every_key_of_a_language_model_is_read(tmp_path):
    for i in range(12):
        (tmp_path / f"{i}.txt").write_text(" ".join(f"{i}: the {i + j} cats." for j in range(30)))
    values = {**LANGUAGE, **TINIER, "data.path": str(tmp_path), "convert.steps": 6}
    config = changed(base(), values)
    rates = {f"controls.rates.{name}" for name in config.controls.rates}
    weights = {"guide.origin": "file", "guide.weights": str(tmp_path / "none.safetensors")}
    llama = {"guide.arch": "llama", "guide.heads": 2}
    seen = read_by_a_run(config, tmp_path, [weights, llama])
    assert not [path for path in missing(config, seen) if path not in rates]


def test_every_key_of_a_classification_is_read(tmp_path):
    config = changed(base("classification"), {**CLASSES, **TINIER, "convert.steps": 6})
    rates = {f"controls.rates.{name}" for name in config.controls.rates}
    sources = ("folder", "tfds", "tfds_text", "bbc", "cifar10")
    named = {"data.size": 8, "data.classes": 5, "data.crop": 0, "guide.arch": "mlp"}
    others = [{**named, "data.source": source} for source in sources]
    file = {"guide.origin": "file", "guide.arch": "resnet18", "guide.width": 4}
    seen = read_by_a_run(config, tmp_path, [*others, file])
    assert not [path for path in missing(config, seen) if path not in rates]


def test_every_key_of_a_comparison_of_heads_is_read(tmp_path):
    config = changed(base("head"), {**HEADS, "seeds": 1, "arms": ("mlp_sgd", "ridge")})
    seen = read_by_a_run(config, tmp_path, [])
    made = [
        {"arms": ("mlp_sgd",), "head.loss": "infonce", "head.outputs": 4},
        {"data.source": "tfds", "data.width": 8, "data.classes": 3, "data.train": 64},
        {"data.source": "omniglot"},
        {"arms": ("mlp_reduced", "glai_joint")},
    ]
    for changes in made:
        reads = Reads(changed(config.copy_and_resolve_references(), changes), seen)
        task, method = engine.parts(reads)
        task.compared, getattr(task, "terms"), task.transforms
        for arm in method.arms(reads, task):
            arm.plan and arm.plan(arm.first())
        with refused():
            sets = task.load(tmp_path / "cache")[1].sets(0)
            assert list(itertools.islice(sets.train, 1)) == ["all"] and sets.validation
    assert not missing(config, seen)


def reads_arms(reads):
    """Make the plan of every arm."""
    known, method = engine.parts(reads)
    for arm in method.arms(reads, known):
        arm.plan and arm.plan(arm.first())


@pytest.mark.parametrize(
    "task, values", [("sequences", SEQUENCES), ("classification", GUIDED), ("language_model", {})]
)
def test_every_key_of_guidance_is_read(task, values, tmp_path):
    config, seen = changed(base(task, "guide"), values), set()
    reads_arms(Reads(config, seen))
    if task != "language_model":
        few = {"arms": ("baseline", "guided_trained"), "seeds": 1, "search.rates": (1e-2,)}
        seen |= read_by_a_run(changed(config.copy_and_resolve_references(), few), tmp_path, [])
    ramp = {"guidance.ramp": 3, "guidance.final": 0.1}
    for changes in (ramp, {**ramp, "data.kind": "parity"} if task == "sequences" else ramp):
        reads = Reads(changed(config.copy_and_resolve_references(), changes), seen)
        reads_arms(reads)
    guided = {path for path in leaves(config) if path.split(".")[0] in ("guidance", "search")}
    assert not guided - seen
    if task == "sequences":
        assert not missing(config, seen)


def test_every_key_of_plasticity_is_read(tmp_path):
    config, seen = changed(base("classification", "plasticity"), PLASTIC), set()
    reads_arms(Reads(config, seen))
    few = {"arms": ("dense", "prune", "grow"), "seeds": 1}
    seen |= read_by_a_run(changed(config.copy_and_resolve_references(), few), tmp_path, [])
    plastic = {path for path in leaves(config) if path.split(".")[0] in ("plasticity", "train")}
    assert not plastic - seen
