"""Every value of a config is judged: unknown keys, types, finiteness, ranges; in every entrance."""

import fuzz
import pytest

import theseus_jax as tj
from theseus_jax.checks import ABOVE, PART, SHARE, Range, check_config
from theseus_jax.errors import UserError

DEFAULT = {
    "n": 3,
    "rate": 0.1,
    "names": (),
    "rates": (0.1,),
    "on": True,
    "text": "a",
    "in": {"x": 1},
}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"n": 2.0}, "give a whole number"),
        ({"n": True}, "give a whole number"),
        ({"n": 2**40}, "below 2,147,483,648"),
        ({"n": -1}, "at least 0"),
        ({"rate": float("nan")}, "finite"),
        ({"rate": 0}, "above 0"),
        ({"rate": "1"}, "give a number"),
        ({"rate": 1e31}, "above 0"),
        ({"names": "a"}, "give a tuple"),
        ({"names": (None,)}, "names or numbers"),
        ({"rates": (0.1, "a")}, "element 'a'"),
        ({"rates": (0.1, -1.0)}, "element -1.0"),
        ({"rates": ((1, 2),)}, "element (1, 2)"),
        ({"on": 1}, "True or False"),
        ({"text": 1}, "a name or text"),
        ({"in": 3}, "it is a section, with x"),
        ({"in": {"y": 1}}, "there is no config.in.y"),
        ({"rats": 1}, "did you mean config.rate"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_key_and_remedy(change, words):
    with pytest.raises(UserError) as error:
        check_config({**DEFAULT, **change}, DEFAULT, {"rate": ABOVE})
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"rate": 3},  # a whole number is a number
        {"n": 0},
        {"names": ("a", 1.0)},
        {"rates": ()},
        {"in": {"x": 0}},
    ],
)
def test_a_value_that_can_be_meant_is_not(change):
    check_config({**DEFAULT, **change}, DEFAULT, {"rate": ABOVE})


def test_a_range_with_open_ends():
    assert 0 in SHARE and 1 in SHARE and 1.01 not in SHARE and -0.01 not in SHARE
    assert 0 in PART and 1 not in PART
    assert 0 not in ABOVE and 1e-9 in ABOVE
    assert [str(one) for one in (Range(), ABOVE, SHARE, PART)] == [
        "at least 0",
        "above 0",
        "in [0, 1]",
        "in [0, 1)",
    ]


def test_a_rate_below_zero_is_refused_by_the_run_and_the_dry_run(tmp_path):
    config = fuzz.presets()["gpt2_to_rnn:smoke"]()
    config.controls.rates.from_scratch = -1e-3
    for entrance in (tj.dry_run, lambda config: tj.run(config, tmp_path / "run")):
        with pytest.raises(UserError, match=r"config\.controls\.rates\.from_scratch is -0\.001"):
            entrance(config)
    assert not (tmp_path / "run").exists()


def test_overrides_at_random_are_refused_in_a_line_or_can_be_meant(capsys):
    assert fuzz.main(count=60, seed=3) == []
    assert "'refused'" in capsys.readouterr().out
