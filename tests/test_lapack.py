"""SciPy's OpenBLAS, which XLA calls, is held to one thread as soon as a decomposition may come."""

import subprocess
import sys

import pytest

from theseus_jax import lapack

PROGRAM = """
import ctypes, sys
import jax, numpy as np
import theseus_jax.similarity as similarity
from theseus_jax import lapack
assert "scipy.linalg" not in sys.modules  # nothing is loaded before it is needed
x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
jax.value_and_grad(similarity.metric("procrustes"))(x, x[:, ::-1])
def threads(path):
    library = ctypes.CDLL(str(path))
    for prefix in ("scipy_", ""):
        for suffix in ("", "64_"):
            name = f"{prefix}openblas_get_num_threads{suffix}"
            if hasattr(library, name):
                return getattr(library, name)()
print([threads(path) for path in lapack.libraries()])
"""


def run(**environment):
    import os

    given = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=given | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.skipif(not lapack.libraries(), reason="SciPy has no OpenBLAS of its own here")
def test_it_is_held_to_one_thread_unless_the_user_says_otherwise():
    assert run() == "[1]"
    assert run(OPENBLAS_NUM_THREADS="2") == "[2]"


def test_without_such_a_library_nothing_happens(monkeypatch):
    lapack.one_thread.cache_clear()
    monkeypatch.setattr(lapack, "libraries", lambda: [])
    assert lapack.one_thread() is False
    monkeypatch.setattr(lapack, "libraries", lambda: [lapack.pathlib.Path("no/such.so")])
    lapack.one_thread.cache_clear()
    assert lapack.one_thread() is False
    lapack.one_thread.cache_clear()
