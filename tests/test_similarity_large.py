"""Memory of CKA at 100,000 samples, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = r"""
import re
import jax
import jax.numpy as jnp
from theseus_jax.similarity import cka

keys = jax.random.split(jax.random.key(0))
x = jax.random.normal(keys[0], (100_000, 512))
y = 0.5 * x + jax.random.normal(keys[1], (100_000, 512))
value = float(jax.jit(cka)(x, y))
# Not getrusage: a child's ru_maxrss starts at the size of the process that started it.
peak = re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]
print(value, int(peak) / 2**20)
"""


@pytest.mark.slow
def test_debiased_cka_of_100000_samples_fits_in_3_gib():
    root = Path(__file__).resolve().parents[1]
    environment = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment
    )
    value, gib = map(float, done.stdout.split())
    assert gib < 3.0
    # y = x / 2 + noise of variance 1 with isotropic x: the debiased value tends to
    # <Sigma_xy, Sigma_xy> / (|Sigma_xx| |Sigma_yy|) = 0.25 / 1.25.
    assert abs(value - 0.2) < 2e-3
