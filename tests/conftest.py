"""One CPU device, programs that compile fast rather than run fast, and a compilation cache that
lives outside the checkout.
"""

import gc
import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A suite compiles thousands of programs and runs each for milliseconds: 2.6 times less CPU time for
# a small run of an experiment, most of it in LLVM and in the emitters of fused loops.
FAST_COMPILATION = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
)
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = " ".join(FAST_COMPILATION)

# in the environment, that the processes which tests start compile nothing twice either
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get(
    "THESEUS_TEST_CACHE", str(pathlib.Path(tempfile.gettempdir()) / "theseus_jax_test_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")

import jax  # noqa: E402
import pytest  # noqa: E402

MAPPINGS = 15_000


@pytest.fixture(scope="module", autouse=True)
def _few_mappings():
    """A compiled program holds dozens of memory mappings, of which Linux gives a process 65,530:
    with the next one LLVM dies of a segmentation fault. So programs go before that.
    """
    yield
    held = pathlib.Path("/proc/self/maps")
    if held.exists() and held.read_text().count("\n") > MAPPINGS:
        jax.clear_caches()
        gc.collect()


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
