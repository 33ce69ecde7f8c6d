"""Several devices: batches are cut over all of them, and the losses are those of one."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# 4 simulated devices; a batch of 4, of 6 (two devices) and of 5 (one)
PROGRAM = """
import json, jax, jax.numpy as jnp, numpy as np, tiny
from theseus_jax import cost, devices, order, running
from theseus_jax.chunk import _compile
from theseus_jax.methods import convert
from theseus_jax.objectives import Alignment, CrossEntropy, Term
from theseus_jax.feeds import Feed, Whole
from theseus_jax.plan import Optimizer, Phase
from theseus_jax.similarity import metric
from theseus_jax.train import Hooks, State, fit

guide, target = tiny.guide(), tiny.target()
pairs = convert.auto_mapping(guide, target, tiny.EXAMPLE)
alike = Alignment(pairs, metric("cka_debiased"))
terms = (Term("cross_entropy", 1.0, CrossEntropy()), Term("cka", 1.0, alike))
phase = Phase("train", target, target.names, terms, 6, Feed(guide, Whole()), Optimizer(1e-2))
windows, found = jnp.asarray(tiny.tokens()), {}
held = tiny.single(guide)
for batch in (4, 6, 5):
    for several in (True, False):
        made = devices.mesh_for if several else (lambda batch: None)
        running.mesh_for = order.mesh_for = made
        rows = []
        state = State(0, tiny.fresh(target), held, None, tiny.keys())
        given = {"batch": batch, "chunk_steps": 3, "hooks": Hooks(log=rows.append)}
        state = fit((phase,), state, windows, **given)
        train = [row for row in rows if row["kind"] == "train"]
        found[f"{batch} {several}"] = {
            "losses": [row["loss"] for row in train],
            "cka": [row["cka"] for row in train],
            "flops": [row["training_flops"] for row in train],
            "last": float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(state.variables))),
        }
    mesh = devices.mesh_for(batch)
    found[f"{batch} devices"] = 1 if mesh is None else mesh.size
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    flags = "--xla_force_host_platform_device_count=4 " + os.environ.get("XLA_FLAGS", "")
    path = f"{ROOT}:{ROOT / 'tests'}"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("batch, devices", [(4, 4), (6, 2), (5, 1)])
def test_losses_similarities_and_parameters_are_those_of_one_device(found, batch, devices):
    assert found[f"{batch} devices"] == devices
    several, one = found[f"{batch} True"], found[f"{batch} False"]
    for name in ("losses", "cka"):  # a similarity over a device's share alone is far from this
        np.testing.assert_allclose(several[name], one[name], rtol=0, atol=1e-5)
    assert several["last"] == pytest.approx(one["last"], rel=1e-5)


def test_work_is_counted_as_on_one_device(found):
    assert found["4 True"]["flops"] == found["4 False"]["flops"]
