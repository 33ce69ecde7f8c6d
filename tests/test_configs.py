"""Every config file and preset: builds, is valid, equals its golden text, and (test_config_reads:
every key is read).
"""

import functools
import importlib.util
import json
import pathlib

import pytest
from ml_collections import ConfigDict

from theseus_jax import config as schema
from theseus_jax.experiment import dry_run

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
NAMES = [
    (path.stem, preset)
    for path in sorted((ROOT / "configs").glob("*.py"))
    for preset in ("smoke", "default", "paper")
]
NAMES.append(("resnet18_to_mlp", "cifar10"))


def build(name, preset):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(preset)


@functools.cache
def outline(name, preset):
    """What --dry_run prints."""
    return dry_run(build(name, preset))


@pytest.mark.parametrize("name, preset", NAMES)
def test_config_equals_its_golden_text_and_plans(name, preset):
    """Renew after a change that is meant: python tests/golden/make_configs.py"""
    made = build(name, preset)
    golden = (GOLDEN / f"{name}-{preset}.json").read_text()
    assert json.loads(made.to_json()) == json.loads(golden)
    text = outline(name, preset)
    ours = {"glai": "glai_joint", "convert": "converted", "guide": "guided_trained"}
    ours["plasticity"] = "grow"
    assert f"[{ours[made.method]}]" in text and "parameters" in text


def test_presets_only_change_keys_of_the_schema_and_their_types():
    for name, preset in NAMES:
        made = build(name, preset)
        base = schema.base(made.task, made.method)
        assert set(made) == set(base)
        for section in (name for name in base if isinstance(base[name], ConfigDict)):
            assert set(made[section]) == set(base[section])


def test_gpt2_paper_preset_is_gpt2_small():
    text = outline("gpt2_to_rnn_plain", "paper")
    assert "guide: 124,439,808 parameters" in text and "B x1024" not in text
    assert text.count("align_") == 12 and "norm = norm" in text


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem
)
def test_a_config_states_its_claim_and_command(path):
    text = path.read_text()
    assert (
        "python launch/run.py --config=configs/" in text.split('"""')[1]
        and "from configs" not in text
    )
    assert len(text.splitlines()) <= 80
