"""Every setting that a study names is one that a run takes: a study of half an hour must not end at its last row."""
import importlib
import pathlib
import sys

import pytest

from theseus_jax.experiment.classify_setup import case, check
from theseus_jax.experiment.plans import chosen_metric
from theseus_jax.methods.convert import parse_mapping

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def studies():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("image_studies")
    finally:
        sys.path.remove(str(FOLDER))


def test_an_override_may_hold_an_equals_sign_and_keeps_the_type(studies):
    made = studies.settings("convert.mapping=block_1=block_1; pool=block_3,data.unlabelled=False,train.batch=64")
    assert made.convert.mapping == "block_1=block_1, pool=block_3"
    assert made.data.unlabelled is False and made.train.batch == 64 and made.convert.steps == studies.STEPS


def test_every_setting_of_the_studies_is_one_that_a_run_takes(studies):
    rows = {**studies.STUDIES, "guide": studies.GUIDES}
    for text in {text for named in rows.values() for text in named.values()}:
        config = studies.settings(text)
        check(config)
        chosen_metric(config)


def test_every_mapping_of_the_studies_fits_its_networks(studies):
    made = case(studies.settings(""))
    for name, text in studies.STUDIES["mapping"].items():
        mapping = parse_mapping(studies.settings(text).convert.mapping, made.guide, made.target, made.example)
        assert mapping[-1] == ("pool", "block_3"), name
