"""A begun run goes on under the same config alone, also where its config was written by an earlier
version.
"""

import json

import pytest

from theseus_jax.config import base
from theseus_jax.errors import UserError
from theseus_jax.experiment.workdir import open_workdir


def written(path, **changes):
    """A begun workdir whose config is of the version before rates were one section."""
    held = json.loads(base().to_json())
    del held["smoke"]
    rates = held["controls"].pop("rates")
    del rates["window_distilled"]  # came later
    held["controls"] |= {
        "scratch_rate": rates["from_scratch"],
        **{f"{name}_rate": rate for name, rate in rates.items() if name != "from_scratch"},
    }
    held["convert"] |= {
        "task_weight": 0.0,
        "kl_weight": 0.0,
        "stop_every": 0,
        "stop_gain": 0.01,
        "stop_patience": 7,
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        held[section][name] = value
    path.mkdir()
    (path / "config.json").write_text(json.dumps(held))
    (path / "metrics.jsonl").write_text("")
    return path


def test_a_config_of_an_earlier_version_is_the_same_where_it_says_the_same(tmp_path):
    assert open_workdir(base(), written(tmp_path / "a")).path == tmp_path / "a"
    smoke = base()
    smoke.smoke = True
    open_workdir(smoke, tmp_path / "a")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train__batch": 9}, "train.batch is 9 there and 8 here"),
        (
            {"controls__scratch_rate": 0.05},
            "controls.rates.from_scratch is 0.05 there and 0.003 here",
        ),
        ({"controls__ted_rate": 0.7}, "controls.rates.ted is 0.7 there"),
        ({"convert__task_weight": 1.0}, "convert.task_weight is 1.0 there and None here"),
        ({"convert__stop_every": 5}, "convert.stop_every is 5 there and None here"),
    ],
)
def test_another_config_is_refused_by_what_differs(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        open_workdir(base(), written(tmp_path / "a", **changes))
