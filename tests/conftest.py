"""One CPU device, strict shapes, and a compilation cache that lives outside the checkout."""

import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import pytest  # noqa: E402

_cache = os.environ.get(
    "THESEUS_TEST_CACHE", str(pathlib.Path(tempfile.gettempdir()) / "theseus_jax_test_cache")
)
jax.config.update("jax_compilation_cache_dir", _cache)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(scope="module")
def document(run):
    """report.html of a module's `run`."""
    from theseus_jax import report

    return report.html(run)


@pytest.fixture()
def figure_of(monkeypatch):
    """Pictures as matplotlib figures, to look at what they draw."""
    from theseus_jax.report import canvas

    monkeypatch.setattr(canvas, "svg", lambda figure, label: figure)
